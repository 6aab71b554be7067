//! Kind `snapshotter`, from `Snapshotter` of snapshot.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::snapshot_capnp as wire;
use capstan_schema::{Mount, Result, read_labels};

use super::{all_pages, labels, mounts, write_page};
use crate::contract::snapshotter::{
    Abilities, Ask, Commit, Kind, List, Measure, Mounts, Prepare, Remove, SnapshotInfo, Stat,
    Usage, View,
};
use crate::contract::{Listed, Page, Snapshotter};
use crate::outside::{Far, Proxy, call};
use crate::rpc::text;

type Client = wire::snapshotter::Client;
type This = Proxy<Snapshotter>;

fn read_info(reader: wire::snapshot_info::Reader<'_>) -> Result<SnapshotInfo> {
    Ok(SnapshotInfo {
        key: text(reader.get_key())?,
        parent: text(reader.get_parent())?,
        kind: match reader.get_kind().map_err(capnp::Error::from)? {
            wire::SnapshotKind::Active => Kind::Active,
            wire::SnapshotKind::View => Kind::View,
            wire::SnapshotKind::Committed => Kind::Committed,
        },
        created_at_unix_ns: reader.get_created_at_unix_ns(),
        updated_at_unix_ns: reader.get_updated_at_unix_ns(),
        labels: read_labels(reader.get_labels()?)?,
    })
}

impl Handler<Prepare> for This {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, prepare: Prepare, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&prepare.namespace)).await?;
            let mut request = client.prepare_request();
            let mut params = request.get();
            params.set_key(&prepare.key);
            params.set_parent(&prepare.parent);
            labels(&prepare.labels, |count| params.init_labels(count));
            call!(far, request, |results| mounts(results.get_mounts()))
        })
    }
}

impl Handler<View> for This {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, view: View, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&view.namespace)).await?;
            let mut request = client.view_request();
            let mut params = request.get();
            params.set_key(&view.key);
            params.set_parent(&view.parent);
            labels(&view.labels, |count| params.init_labels(count));
            call!(far, request, |results| mounts(results.get_mounts()))
        })
    }
}

impl Handler<Mounts> for This {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, message: Mounts, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&message.namespace)).await?;
            let mut request = client.mounts_request();
            request.get().set_key(&message.key);
            call!(far, request, |results| mounts(results.get_mounts()))
        })
    }
}

impl Handler<Commit> for This {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, commit: Commit, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&commit.namespace)).await?;
            let mut request = client.commit_request();
            let mut params = request.get();
            params.set_name(&commit.name);
            params.set_key(&commit.key);
            params.set_rebase(commit.rebase.is_some());
            params.set_parent(commit.rebase.as_deref().unwrap_or_default());
            labels(&commit.labels, |count| params.init_labels(count));
            call!(far, request)
        })
    }
}

impl Handler<Remove> for This {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, remove: Remove, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&remove.namespace)).await?;
            let mut request = client.remove_request();
            request.get().set_key(&remove.key);
            call!(far, request)
        })
    }
}

impl Handler<Stat> for This {
    type Result = ResponseFuture<Result<SnapshotInfo>>;
    fn handle(&mut self, stat: Stat, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&stat.namespace)).await?;
            let mut request = client.stat_request();
            request.get().set_key(&stat.key);
            call!(far, request, |results| read_info(results.get_info()?))
        })
    }
}

impl Handler<List> for This {
    type Result = ResponseFuture<Result<Listed<SnapshotInfo>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&list.namespace)).await?;
            all_pages(list.page, |page| read_page(&far, &client, page)).await
        })
    }
}

async fn read_page(far: &Far, client: &Client, page: Page) -> Result<Listed<SnapshotInfo>> {
    let mut request = client.list_request();
    write_page(&page, request.get().init_page());
    call!(far, request, |results| {
        let items = results.get_snapshots()?.iter().map(read_info).collect::<Result<_>>()?;
        Ok(Listed { items, next: text(results.get_next())? })
    })
}

impl Handler<Measure> for This {
    type Result = ResponseFuture<Result<Usage>>;
    fn handle(&mut self, measure: Measure, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&measure.namespace)).await?;
            let mut request = client.usage_request();
            request.get().set_key(&measure.key);
            call!(far, request, |results| Ok(Usage {
                size: results.get_size(),
                inodes: results.get_inodes(),
            }))
        })
    }
}

impl Handler<Ask> for This {
    type Result = ResponseFuture<Result<Abilities>>;
    fn handle(&mut self, _: Ask, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            // It is the same in every namespace.
            let namespace = capstan_schema::Namespace::parse("default")?;
            let client: Client = far.open(Some(&namespace)).await?;
            let request = client.abilities_request();
            call!(far, request, |results| Ok(Abilities { can_rebase: results.get_can_rebase() }))
        })
    }
}

crate::not_yet!({} This:
    crate::contract::snapshotter::Label => SnapshotInfo,
    crate::contract::snapshotter::Use => SnapshotInfo,
    crate::contract::snapshotter::Collect => crate::contract::graph::Collected,
    crate::contract::snapshotter::Nodes => Vec<crate::contract::graph::Node>,
    crate::contract::snapshotter::Audit => Vec<crate::contract::graph::Finding>,
    crate::contract::snapshotter::OwnLayer => Vec<Mount>,
);
