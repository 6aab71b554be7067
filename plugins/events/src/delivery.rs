//! The plugin that takes the log to the sinks: a reader per sink, which none of the others waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext as _, Context as Cell, WrapFuture as _};
use capstan_sdk::contract::events::{Batch, Filter, Read, Watch};
use capstan_sdk::contract::metadata::{Commit, Get, Key, Step};
use capstan_sdk::contract::sink::Deliver;
use capstan_sdk::contract::{Events, Metadata, Sink};
use capstan_sdk::{Context, Exports, Info, Link, Plugin, PluginState, Result, export_plugin};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::record;

/// How often it is looked for sinks that came later.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What happens meanwhile goes in the same batch: a container's start is a handful of events, and a
/// batch costs a commit.
const GATHER: Duration = Duration::from_millis(200);

/// Events in a batch, at most.
const BATCH: usize = 256;

/// How long a sink that failed is left alone: the first time, and at most.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Records: plugin id of the sink -> DeliveryRecord.
const BUCKET: &str = "delivery";

/// delivery.log.
#[derive(Debug)]
pub struct LogDelivery {
    context: Context,
    events: Link<Events>,
    metadata: Link<Metadata>,
    /// Ids of the sinks that have a reader.
    served: BTreeSet<String>,
}

export_plugin!(LogDelivery);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl Plugin for LogDelivery {
    const INFO: Info = Info {
        id: "delivery.log",
        version: env!("CARGO_PKG_VERSION"),
        about: "delivers the event log to every sink",
        requires: &["events", "metadata", "sink?"],
        rank: 0,
    };
    type Config = NoConfig;

    async fn build(_config: NoConfig, context: Context) -> Result<Self> {
        let (events, metadata) = (context.link::<Events>()?, context.link::<Metadata>()?);
        // It has to see all plugins, to know the sinks among them.
        context.kernel()?;
        Ok(Self { context, events, metadata, served: BTreeSet::new() })
    }

    fn export(_addr: &Addr<Self>, _context: &Context, _exports: &mut Exports) {
        // Nobody asks it for anything; its timer keeps it alive.
    }
}

impl Actor for LogDelivery {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        self.look(cell);
        cell.run_interval(LOOK_INTERVAL, Self::look);
    }
}

impl LogDelivery {
    /// Gives each sink that has no reader one.
    fn look(&mut self, cell: &mut Cell<Self>) {
        let Ok(kernel) = self.context.kernel().cloned() else { return };
        for status in kernel.plugins() {
            let Some(name) = status.id.strip_prefix("sink.") else { continue };
            if status.state != PluginState::Running || self.served.contains(&status.id) {
                continue;
            }
            // It fails only for a plugin that is not there.
            let Ok(sink) = self.context.link_named::<Sink>(name) else { continue };
            let reader = Reader {
                key: Key::global(BUCKET, &status.id),
                sink,
                events: self.events.clone(),
                metadata: self.metadata.clone(),
                batch: Batch::default(),
            };
            self.served.insert(status.id);
            cell.spawn(reader.run().into_actor(self));
        }
    }
}

/// One sink's reader of the log.
struct Reader {
    key: Key,
    sink: Link<Sink>,
    events: Link<Events>,
    metadata: Link<Metadata>,
    /// What the sink is to take; empty between two batches.
    batch: Batch,
}

impl Reader {
    /// Cancel safety: dropped at any point, the record is at most one batch behind what the sink has.
    async fn run(mut self) {
        let sink = self.key.name.clone();
        let [first, longest] = BACK_OFF;
        let mut back_off = first;
        loop {
            match self.step().await {
                Ok(()) if back_off > first => {
                    info!(sink, "the sink takes events again");
                    back_off = first;
                }
                Ok(()) => {}
                Err(error) => {
                    if back_off == first {
                        warn!(sink, %error, "the sink has not taken events; they are kept for it");
                    }
                    sleep(back_off).await;
                    back_off = (back_off * 2).min(longest);
                }
            }
        }
    }

    /// Brings one batch to the sink, and notes that it has it. After an error, the next step is for
    /// the same batch.
    async fn step(&mut self) -> Result<()> {
        if self.batch.events.is_empty() {
            self.batch = self.next().await?;
        }
        self.sink.send(Deliver(self.batch.events.clone())).await?;
        self.save(self.batch.cursor).await?;
        self.batch = Batch::default();
        Ok(())
    }

    /// The next batch, which has an event at least.
    async fn next(&self) -> Result<Batch> {
        let mut head = self.events.send(Watch).await?;
        let newest = *head.borrow();
        let after = self.load(newest).await?;
        loop {
            let read = Read { after, limit: BATCH, filter: Filter::default() };
            let batch = self.events.send(read).await?;
            if batch.missed > 0 {
                let (sink, missed) = (&self.key.name, batch.missed);
                warn!(sink, missed, "events were trimmed before the sink took them");
            }
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            if head.wait_for(|&head| head > after).await.is_err() {
                // The plugin was restarted: ask the new instance.
                head = self.events.send(Watch).await?;
            }
            sleep(GATHER).await;
        }
    }

    /// The cursor of the last event that the sink took. A new sink begins at the present.
    async fn load(&self, newest: u64) -> Result<u64> {
        match self.metadata.send(Get(self.key.clone())).await? {
            Some(bytes) => record::read(&bytes).map_err(|error| error.at(&self.key.name)),
            None => {
                self.save(newest).await?;
                Ok(newest)
            }
        }
    }

    async fn save(&self, cursor: u64) -> Result<()> {
        let step = Step::Put { key: self.key.clone(), value: record::write(cursor) };
        self.metadata.send(Commit { steps: vec![step], events: vec![] }).await.map(drop)
    }
}
