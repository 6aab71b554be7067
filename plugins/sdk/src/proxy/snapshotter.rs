//! Kind `snapshotter`, from `Snapshotter` of snapshot.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::snapshot_capnp as wire;
use capstan_schema::{Mount, Result, read_labels, read_texts, write_texts};

use super::{all_pages, graph, labels, mounts, write_page};
use crate::contract::graph::{Collected, Finding, Node};
use crate::contract::snapshotter::{
    Abilities, Ask, Audit, Collect, Commit, CommitChain, Kind, Label, List, Measure, Mounts, Nodes,
    OwnLayer, Prepare, Remove, SnapshotInfo, Stack, Stat, Usage, Use, View, one_namespace,
};
use crate::contract::{Listed, Page, Snapshotter};
use crate::outside::{Far, Proxy, call};
use crate::rpc::{length, text};

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
            call!(far, request, |results| Ok(Abilities {
                can_rebase: results.get_can_rebase(),
                can_chain: results.get_can_chain(),
                can_limit: results.get_can_limit(),
            }))
        })
    }
}

impl Handler<Label> for This {
    type Result = ResponseFuture<Result<SnapshotInfo>>;
    fn handle(&mut self, label: Label, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&label.namespace)).await?;
            let mut request = client.label_request();
            let mut params = request.get();
            params.set_key(&label.key);
            labels(&label.labels, |count| params.init_labels(count));
            call!(far, request, |results| read_info(results.get_info()?))
        })
    }
}

impl Handler<Use> for This {
    type Result = ResponseFuture<Result<SnapshotInfo>>;
    fn handle(&mut self, message: Use, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&message.namespace)).await?;
            let mut request = client.note_use_request();
            request.get().set_key(&message.key);
            call!(far, request, |results| read_info(results.get_info()?))
        })
    }
}

impl Handler<Collect> for This {
    type Result = ResponseFuture<Result<Collected>>;
    fn handle(&mut self, collect: Collect, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&collect.namespace)).await?;
            let mut collected = Collected::default();
            for names in collect.keys.chunks(graph::NAMES) {
                let mut request = client.collect_request();
                let mut params = request.get();
                params.set_unused_since_unix_ns(collect.unused_since_unix_ns);
                write_texts(names, params.init_keys(length(names)));
                let some = call!(far, request, |results| Ok(Collected {
                    removed: read_texts(results.get_removed()?)?,
                    freed: results.get_freed(),
                }))?;
                graph::add(&mut collected, some);
            }
            Ok(collected)
        })
    }
}

impl Handler<Nodes> for This {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&namespace)).await?;
            let request = client.nodes_request();
            let nodes = call!(far, request, |results| Ok(results.get_nodes()?))?;
            graph::nodes(&far, nodes).await
        })
    }
}

impl Handler<Audit> for This {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, audit: Audit, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            // It is of all namespaces, whichever is named.
            let namespace = capstan_schema::Namespace::parse("default")?;
            let client: Client = far.open(Some(&namespace)).await?;
            let mut request = client.audit_request();
            let mut params = request.get();
            params.set_full(audit.is_full);
            params.set_repair(audit.is_cleaning);
            let findings = call!(far, request, |results| Ok(results.get_findings()?))?;
            graph::findings(&far, findings).await
        })
    }
}

impl Handler<OwnLayer> for This {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, own: OwnLayer, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&own.namespace)).await?;
            let mut request = client.own_layer_request();
            request.get().set_key(&own.key);
            call!(far, request, |results| mounts(results.get_mounts()))
        })
    }
}

impl Handler<Stack> for This {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, stack: Stack, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&stack.namespace)).await?;
            let mut request = client.stack_request();
            let mut layers = request.get().init_layers(length(&stack.layers));
            for (index, layer) in (0..).zip(&stack.layers) {
                let mut out = layers.reborrow().get(index);
                out.set_key(&layer.key);
                out.set_name(&layer.name);
            }
            call!(far, request, |results| mounts(results.get_mounts()))
        })
    }
}

impl Handler<CommitChain> for This {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, CommitChain(commits): CommitChain, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let Some(namespace) = one_namespace(&commits)? else { return Ok(()) };
            let client: Client = far.open(Some(namespace)).await?;
            let mut request = client.commit_chain_request();
            let mut list = request.get().init_commits(length(&commits));
            for (index, commit) in (0..).zip(&commits) {
                let mut out = list.reborrow().get(index);
                out.set_name(&commit.name);
                out.set_key(&commit.key);
                out.set_rebase(commit.rebase.is_some());
                out.set_parent(commit.rebase.as_deref().unwrap_or_default());
                labels(&commit.labels, |count| out.init_labels(count));
            }
            call!(far, request)
        })
    }
}
