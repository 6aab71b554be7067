//! The plugin.

use std::collections::BTreeSet;

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::graph::{Node, Resource};
use capstan_sdk::contract::leases::{
    Change, Create, Delete, Get, Held, Hold, Holds as ListHolds, Lease, LeasesAddr, List, Nodes,
    Resources, TakeHold,
};
use capstan_sdk::contract::metadata::{self, Commit, Key, Scan, Step};
use capstan_sdk::contract::{Leases, Listed, Metadata, Page};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::{
    Class, ContainerId, Context, Error, Exports, Info, Link, Namespace, Plugin, Result, clock,
    export_plugin, random, rpc,
};

use crate::holds::Holds;
use crate::record::{self, Stored};

const BUCKET: &str = "leases";

/// leases.local.
#[derive(Clone, Debug)]
pub struct LocalLeases {
    metadata: Link<Metadata>,
    holds: Holds,
}

export_plugin!(LocalLeases);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for LocalLeases {
    const INFO: Info = Info {
        id: "leases.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "what keeps things from garbage collection",
        requires: &["metadata"],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        Ok(Self { metadata: context.link::<Metadata>()?, holds: Holds::default() })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Leases>(LeasesAddr::from(addr));
        let link = context.link_self::<Leases>();
        exports.service(move |_peer, namespace| rpc::leases::serve(link.clone(), namespace));
    }
}

impl Actor for LocalLeases {
    type Context = Cell<Self>;
}

fn key(namespace: &Namespace, id: &str) -> Key {
    Key::new(BUCKET, namespace, id)
}

fn missing(id: &str) -> Error {
    Error::not_found(format!(
        "lease {id:?} does not exist, or has expired; see `capstan leases ls`"
    ))
}

fn is_over(lease: &Lease, now_unix_ns: i64) -> bool {
    lease.expires_at_unix_ns != 0 && lease.expires_at_unix_ns <= now_unix_ns
}

/// A lease that has not expired.
fn live(id: &str, bytes: Option<&[u8]>) -> Result<Stored> {
    let bytes = bytes.ok_or_else(|| missing(id))?;
    let stored = record::read(id, bytes).map_err(|error| error.at(id))?;
    if is_over(&stored.lease, clock::now_unix_ns()) {
        return Err(missing(id));
    }
    Ok(stored)
}

impl LocalLeases {
    async fn find(&self, namespace: &Namespace, id: &str) -> Result<Stored> {
        live(id, self.metadata.send(metadata::Get(key(namespace, id))).await?.as_deref())
    }

    async fn create(self, create: Create) -> Result<Lease> {
        let Create { namespace, id, expires_in_ns, labels } = create;
        let id = if id.is_empty() { random::hex::<8>()? } else { id };
        // The rule of identifiers, which is that of container ids.
        ContainerId::parse(&id).map_err(|_| {
            Error::invalid(format!(
                "lease id {id:?}: use letters and digits, with single dots or dashes between them"
            ))
        })?;
        if expires_in_ns < 0 {
            return Err(Error::invalid("a lease cannot expire before it begins"));
        }
        let now = clock::now_unix_ns();
        let expires_at_unix_ns = match expires_in_ns {
            0 => 0,
            _ => now.saturating_add(expires_in_ns),
        };
        let lease = Lease { id: id.clone(), created_at_unix_ns: now, expires_at_unix_ns, labels };
        let stored = Stored { lease, resources: BTreeSet::new() };
        let name = key(&namespace, &id);
        let taken = Error::already_exists(format!("lease {id:?} exists"));
        // One of that name that has expired makes room.
        let guard = match self.metadata.send(metadata::Get(name.clone())).await? {
            Some(bytes) if is_over(&record::read(&id, &bytes)?.lease, now) => {
                Step::unchanged(name.clone(), bytes)
            }
            _ => Step::absent(name.clone(), taken),
        };
        let steps = vec![guard, Step::Put { key: name, value: record::write(&stored) }];
        let event = NewEvent::new(&namespace, "/leases/create").with("id", &id);
        self.metadata.send(Commit { steps, events: vec![event] }).await?;
        Ok(stored.lease)
    }

    /// All leases of a namespace that have not expired; those that have go.
    async fn live(&self, namespace: &Namespace, page: Page) -> Result<Listed<Stored>> {
        let limit = page.limit;
        let scan = Scan { bucket: BUCKET.into(), namespace: Some(namespace.clone()), page };
        let rows = self.metadata.send(scan).await?;
        let mut listed = Listed::decode(&rows, limit, record::read)?;
        let now = clock::now_unix_ns();
        let (mut steps, mut events) = (Vec::new(), Vec::new());
        for ((id, bytes), stored) in rows.into_iter().zip(&listed.items) {
            if is_over(&stored.lease, now) {
                let name = key(namespace, &id);
                steps.extend([Step::unchanged(name.clone(), bytes), Step::Delete(name)]);
                events.push(NewEvent::new(namespace, "/leases/delete").with("id", &id));
            }
        }
        if !steps.is_empty() {
            match self.metadata.send(Commit { steps, events }).await {
                // Somebody changed or removed one meanwhile: they go the next time.
                Err(error) if error.class() == Class::Aborted => {}
                removed => removed.map(drop)?,
            }
        }
        listed.items.retain(|stored| !is_over(&stored.lease, now));
        Ok(listed)
    }

    async fn delete(self, delete: Delete) -> Result<()> {
        let Delete { namespace, id } = delete;
        self.find(&namespace, &id).await?;
        let name = key(&namespace, &id);
        let steps = vec![Step::present(name.clone(), missing(&id)), Step::Delete(name)];
        let event = NewEvent::new(&namespace, "/leases/delete").with("id", &id);
        self.metadata.send(Commit { steps, events: vec![event] }).await.map(drop)
    }

    async fn change(self, change: Change) -> Result<()> {
        let Change { namespace, id, resource, is_kept } = change;
        if matches!(resource, Resource::Lease(_) | Resource::Ingest(_) | Resource::Container(_)) {
            return Err(Error::invalid(format!(
                "a lease keeps content, snapshots and images; {resource} is kept by itself"
            )));
        }
        revise(&self.metadata, &key(&namespace, &id), |old| {
            let mut stored = live(&id, old)?;
            let has_changed = match is_kept {
                true => stored.resources.insert(resource.clone()),
                false => stored.resources.remove(&resource),
            };
            Ok(match has_changed {
                true => Revision::write(record::write(&stored), ()),
                false => Revision::keep(()),
            })
        })
        .await
    }

    async fn nodes(self, namespace: Namespace) -> Result<Vec<Node>> {
        let live = self.live(&namespace, Page::all()).await?.items;
        Ok(live
            .into_iter()
            .map(|stored| Node {
                resource: Resource::Lease(stored.lease.id),
                references: stored.resources.into_iter().collect(),
                root: "it is a lease".into(),
                size: 0,
                created_at_unix_ns: stored.lease.created_at_unix_ns,
                used_at_unix_ns: stored.lease.created_at_unix_ns,
                labels: stored.lease.labels,
            })
            .collect())
    }
}

impl Handler<Create> for LocalLeases {
    type Result = ResponseFuture<Result<Lease>>;
    fn handle(&mut self, create: Create, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().create(create))
    }
}

impl Handler<Get> for LocalLeases {
    type Result = ResponseFuture<Result<Lease>>;
    fn handle(&mut self, get: Get, _: &mut Cell<Self>) -> Self::Result {
        let leases = self.clone();
        Box::pin(async move { Ok(leases.find(&get.namespace, &get.id).await?.lease) })
    }
}

impl Handler<List> for LocalLeases {
    type Result = ResponseFuture<Result<Listed<Lease>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        let leases = self.clone();
        Box::pin(async move {
            let Listed { items, next } = leases.live(&list.namespace, list.page).await?;
            Ok(Listed { items: items.into_iter().map(|stored| stored.lease).collect(), next })
        })
    }
}

impl Handler<Delete> for LocalLeases {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, delete: Delete, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().delete(delete))
    }
}

impl Handler<Change> for LocalLeases {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, change: Change, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().change(change))
    }
}

impl Handler<Resources> for LocalLeases {
    type Result = ResponseFuture<Result<Vec<Resource>>>;
    fn handle(&mut self, asked: Resources, _: &mut Cell<Self>) -> Self::Result {
        let leases = self.clone();
        Box::pin(async move {
            let stored = leases.find(&asked.namespace, &asked.id).await?;
            Ok(stored.resources.into_iter().collect())
        })
    }
}

impl Handler<TakeHold> for LocalLeases {
    type Result = Result<Hold>;
    fn handle(&mut self, take: TakeHold, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.holds.take(take))
    }
}

impl Handler<ListHolds> for LocalLeases {
    type Result = Result<Vec<Held>>;
    fn handle(&mut self, _: ListHolds, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.holds.list())
    }
}

impl Handler<Nodes> for LocalLeases {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().nodes(namespace))
    }
}
