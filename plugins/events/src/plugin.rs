//! The plugin.

use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture,
    WrapFuture as _,
};
use capstan_sdk::contract::events::{Batch, EventsAddr, Publish, Read, Watch};
use capstan_sdk::contract::metadata::{Commit, ReadLog, TrimLog, WatchLog};
use capstan_sdk::contract::{Events, Metadata};
use capstan_sdk::{Context, Exports, Info, Link, Plugin, Result, export_plugin, rpc};
use tokio::sync::watch;
use tracing::warn;

use crate::Config;

/// How often the length of the log is looked at.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);

/// events.log.
#[derive(Debug)]
pub struct EventLog {
    metadata: Link<Metadata>,
    config: Config,
    head: watch::Receiver<u64>,
    trimmed: u64,
}

export_plugin!(EventLog);

impl Plugin for EventLog {
    const INFO: Info = Info {
        id: "events.log",
        version: env!("CARGO_PKG_VERSION"),
        about: "the durable event log, for readers with cursors",
        requires: &["metadata"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let metadata = context.link::<Metadata>()?;
        let head = metadata.send(WatchLog).await?;
        Ok(Self { metadata, config, head, trimmed: 0 })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Events>(EventsAddr::from(addr));
        let link = context.link_self::<Events>();
        exports.service(move |_peer, namespace| rpc::events::serve(link.clone(), namespace));
    }
}

impl Actor for EventLog {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        cell.run_interval(TRIM_INTERVAL, Self::trim);
    }
}

impl EventLog {
    fn trim(&mut self, cell: &mut Cell<Self>) {
        if self.head.has_changed().is_err() {
            // The metadata plugin was restarted: look at the log of its new instance from now on.
            let metadata = self.metadata.clone();
            let work = async move { metadata.send(WatchLog).await };
            let done = work.into_actor(self).map(|outcome, plugin, _| match outcome {
                Ok(head) => plugin.head = head,
                Err(error) => warn!(%error, "the event log is not watched"),
            });
            cell.spawn(done);
            return;
        }
        let end = self.head.borrow().saturating_sub(self.config.keep);
        // A few at a time are not worth a transaction.
        if end < self.trimmed + (self.config.keep / 100).max(1) {
            return;
        }
        let metadata = self.metadata.clone();
        let work = async move { metadata.send(TrimLog(end)).await };
        let done = work.into_actor(self).map(move |outcome, plugin, _| match outcome {
            Ok(()) => plugin.trimmed = end,
            Err(error) => warn!(%error, "the event log was not trimmed"),
        });
        cell.spawn(done);
    }
}

impl Handler<Publish> for EventLog {
    type Result = ResponseFuture<Result<u64>>;
    fn handle(&mut self, Publish(events): Publish, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move { metadata.send(Commit { steps: vec![], events }).await })
    }
}

impl Handler<Read> for EventLog {
    type Result = ResponseFuture<Result<Batch>>;
    fn handle(&mut self, read: Read, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move { collect(&metadata, read).await })
    }
}

/// Reads on until something matches or the log ends, so that a reader with a narrow filter is not
/// called for pages that hold nothing for it.
async fn collect(metadata: &Link<Metadata>, read: Read) -> Result<Batch> {
    let mut batch = Batch { cursor: read.after, ..Batch::default() };
    loop {
        let page = metadata.send(ReadLog { after: batch.cursor, limit: read.limit }).await?;
        batch.missed += page.missed;
        let Some(last) = page.events.last() else {
            batch.cursor += page.missed;
            return Ok(batch);
        };
        batch.cursor = last.cursor;
        batch.events.extend(page.events.into_iter().filter(|e| read.filter.matches(&e.event)));
        if !batch.events.is_empty() {
            return Ok(batch);
        }
    }
}

impl Handler<Watch> for EventLog {
    type Result = ResponseFuture<Result<watch::Receiver<u64>>>;
    fn handle(&mut self, _: Watch, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move { metadata.send(WatchLog).await })
    }
}
