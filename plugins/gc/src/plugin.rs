//! The plugin.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::events::{NewEvent, Publish};
use capstan_sdk::contract::gc::{
    Audit, Chain, Collect, GcAddr, Heal, Healed, Last, Report, Room, Usage, Why,
};
use capstan_sdk::contract::graph::{Finding, Resource};
use capstan_sdk::contract::{Events, Gc};
use capstan_sdk::{
    Context, Digest, Error, Exports, Info, Link, Namespace, Plugin, Reference, Result, clock,
    export_plugin, rpc,
};
use tracing::{info, warn};

use crate::Config;
use crate::audit::{Depth, audit};
use crate::graph::Graph;
use crate::owners::Owners;
use crate::{heal, mark, schedule, sweep};

/// gc.local.
#[derive(Clone, Debug)]
pub struct LocalGc {
    config: Config,
    events: Link<Events>,
    owners: Owners,
    /// Held while a collection runs: two would only be in each other's way.
    running: Rc<tokio::sync::Mutex<()>>,
    last: Rc<RefCell<Option<(i64, Report)>>>,
}

export_plugin!(LocalGc);

impl Plugin for LocalGc {
    const INFO: Info = Info {
        id: "gc.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "collects what nothing keeps; why, audit and heal",
        requires: &[
            "containers",
            "content",
            "differ",
            "events",
            "gc-policy?",
            "images",
            "leases",
            "metadata",
            "namespaces",
            "snapshotter",
            "transfer",
        ],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let events = context.link()?;
        let owners = Owners::new(context)?;
        Ok(Self { config, events, owners, running: Rc::default(), last: Rc::default() })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Gc>(GcAddr::from(addr));
        let link = context.link_self::<Gc>();
        exports.global_service(move |_peer| rpc::gc::serve(link.clone()));
    }
}

impl Actor for LocalGc {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        let work = schedule::run(self.clone(), self.config, self.events.clone());
        cell.spawn(work.into_actor(self));
    }
}

impl LocalGc {
    pub(crate) async fn collect(&self, collect: Collect) -> Result<Report> {
        let _alone = self.running.lock().await;
        let begun = Instant::now();
        let mut report = Report::default();
        let is_all = collect.namespace.is_none();
        for namespace in self.owners.namespaces(collect.namespace).await? {
            sweep::collect(&self.owners, &namespace, collect.is_dry, &mut report)
                .await
                .map_err(|error| error.at(format!("collect garbage of namespace {namespace}")))?;
        }
        if is_all {
            sweep::collect_orphans(&self.owners, collect.is_dry, &mut report)
                .await
                .map_err(|error| error.at("collect what is in no namespace"))?;
        }
        report.took_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if !collect.is_dry {
            info!(
                removed = report.removed.len(),
                freed = report.freed,
                kept = report.kept,
                "garbage was collected"
            );
            self.last.replace(Some((clock::now_unix_ns(), report.clone())));
            self.publish(&report).await;
        }
        Ok(report)
    }

    /// One event for a collection that removed something.
    async fn publish(&self, report: &Report) {
        if report.removed.is_empty() {
            return;
        }
        let fields = [
            ("removed", report.removed.len() as u64),
            ("freed", report.freed),
            ("kept", report.kept),
            ("spared", report.spared),
        ];
        let event = NewEvent { namespace: None, topic: "/gc/collect".into(), fields: Vec::new() };
        let event = fields.into_iter().fold(event, |event, (key, count)| event.with(key, count));
        if let Err(error) = self.events.send(Publish(vec![event])).await {
            warn!(%error, "the event of a collection is not in the log");
        }
    }

    pub(crate) fn owners(&self) -> &Owners {
        &self.owners
    }

    pub(crate) async fn audit(&self, is_full: bool) -> Result<Vec<Finding>> {
        let found = audit(&self.owners, Depth { is_full, is_healing: false }).await?;
        Ok(found.into_iter().map(|found| found.finding).collect())
    }

    async fn why(&self, why: Why) -> Result<Vec<Chain>> {
        self.owners.namespaces(Some(why.namespace.clone())).await?;
        let look = self.owners.look(&why.namespace).await?;
        let targets = named(&look.graph, &why.what);
        if targets.is_empty() {
            return Err(Error::not_found(format!(
                "there is no {:?} in namespace {}",
                why.what, why.namespace
            )));
        }
        Ok(targets.into_iter().flat_map(|target| mark::chains(&look.graph, target)).collect())
    }

    async fn usage(&self, namespace: Option<Namespace>) -> Result<BTreeMap<String, Room>> {
        let mut rooms: BTreeMap<String, Room> = BTreeMap::new();
        // What it is, and whether anybody keeps it: namespaces share the bytes of blobs.
        let mut blobs: BTreeMap<Digest, (u64, bool)> = BTreeMap::new();
        for namespace in self.owners.namespaces(namespace).await? {
            let look = self.owners.look(&namespace).await?;
            let is_marked = mark::reached(&look.graph);
            for (node, is_kept) in look.graph.nodes.iter().zip(is_marked) {
                if let Resource::Content(digest) = &node.resource {
                    let blob = blobs.entry(digest.clone()).or_insert((node.size, false));
                    blob.1 |= is_kept;
                    continue;
                }
                add(rooms.entry(kind(&node.resource)).or_default(), node.size, is_kept);
            }
        }
        for (size, is_kept) in blobs.into_values() {
            add(rooms.entry("content".into()).or_default(), size, is_kept);
        }
        Ok(rooms)
    }
}

fn add(room: &mut Room, size: u64, is_kept: bool) {
    room.count += 1;
    room.size += size;
    if !is_kept {
        room.reclaimable += 1;
        room.reclaimable_size += size;
    }
}

fn kind(resource: &Resource) -> String {
    match resource {
        Resource::Content(_) => "content".into(),
        Resource::Ingest(_) => "ingests".into(),
        Resource::Snapshot { snapshotter, .. } => format!("snapshots.{snapshotter}"),
        Resource::Image(_) => "images".into(),
        Resource::Container(_) => "containers".into(),
        Resource::Lease(_) => "leases".into(),
    }
}

/// What people may mean.
fn named(graph: &Graph, what: &str) -> Vec<usize> {
    if let Some(index) = what.parse().ok().and_then(|resource| graph.find(&resource)) {
        return vec![index];
    }
    let mut meant = Vec::new();
    if let Ok(digest) = Digest::parse(what) {
        meant.extend(graph.find(&Resource::Content(digest)));
    }
    let mut images = vec![what.to_owned()];
    images.extend(Reference::parse_familiar(what).map(|name| name.to_string()));
    images.dedup();
    for name in images {
        meant.extend(graph.find(&Resource::Image(name)));
    }
    meant.extend(graph.find(&Resource::Container(what.into())));
    meant.extend_from_slice(graph.snapshots(what));
    meant.extend(graph.find(&Resource::Lease(what.into())));
    meant
}

impl Handler<Collect> for LocalGc {
    type Result = ResponseFuture<Result<Report>>;
    fn handle(&mut self, collect: Collect, _: &mut Cell<Self>) -> Self::Result {
        let gc = self.clone();
        Box::pin(async move { gc.collect(collect).await })
    }
}

impl Handler<Last> for LocalGc {
    type Result = Result<Option<(i64, Report)>>;
    fn handle(&mut self, _: Last, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.last.borrow().clone())
    }
}

impl Handler<Why> for LocalGc {
    type Result = ResponseFuture<Result<Vec<Chain>>>;
    fn handle(&mut self, why: Why, _: &mut Cell<Self>) -> Self::Result {
        let gc = self.clone();
        Box::pin(async move { gc.why(why).await })
    }
}

impl Handler<Usage> for LocalGc {
    type Result = ResponseFuture<Result<BTreeMap<String, Room>>>;
    fn handle(&mut self, Usage(namespace): Usage, _: &mut Cell<Self>) -> Self::Result {
        let gc = self.clone();
        Box::pin(async move { gc.usage(namespace).await })
    }
}

impl Handler<Audit> for LocalGc {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, audit: Audit, _: &mut Cell<Self>) -> Self::Result {
        let gc = self.clone();
        Box::pin(async move { gc.audit(audit.is_full).await })
    }
}

impl Handler<Heal> for LocalGc {
    type Result = ResponseFuture<Result<Vec<Healed>>>;
    fn handle(&mut self, heal: Heal, _: &mut Cell<Self>) -> Self::Result {
        let owners = self.owners.clone();
        Box::pin(async move { heal::heal(&owners, heal).await })
    }
}
