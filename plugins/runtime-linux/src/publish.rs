//! Events of tasks, in the order in which things happened, without anybody waiting for the disk.

use std::path::PathBuf;

use capstan_sdk::contract::Events;
use capstan_sdk::contract::events::{NewEvent, Publish};
use capstan_sdk::contract::runtime::TaskKey;
use capstan_sdk::{Link, Result};
use tokio::sync::mpsc;
use tracing::warn;

/// Events in one commit at most.
const BATCH: usize = 256;

/// An event, and a file that says that it was told; for exits, which a later daemon may have to tell.
struct Item {
    event: NewEvent,
    told: Option<PathBuf>,
}

/// The way to the log. Unbounded on purpose: an event is small, comes from a process that started or
/// ended, and must never be dropped.
#[derive(Clone, Debug)]
pub(crate) struct Publisher(mpsc::UnboundedSender<Item>);

impl Publisher {
    /// The publisher, and the work that it needs done.
    pub(crate) fn new(events: Link<Events>) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), run(events, receiver))
    }

    /// Tells something about a task.
    pub(crate) fn tell(&self, key: &TaskKey, topic: &str, fields: &[(&str, String)]) {
        self.send(key, topic, fields, None);
    }

    /// Tells something, and makes the file `told` once that is in the log.
    pub(crate) fn tell_once(
        &self,
        key: &TaskKey,
        topic: &str,
        fields: &[(&str, String)],
        told: PathBuf,
    ) {
        self.send(key, topic, fields, Some(told));
    }

    fn send(&self, key: &TaskKey, topic: &str, fields: &[(&str, String)], told: Option<PathBuf>) {
        let mut event = NewEvent::new(&key.namespace, topic).with("id", &key.id);
        for (name, value) in fields {
            event = event.with(name, value);
        }
        // It fails only while the plugin ends.
        let _ = self.0.send(Item { event, told });
    }
}

async fn run(events: Link<Events>, mut receiver: mpsc::UnboundedReceiver<Item>) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let (list, told): (Vec<NewEvent>, Vec<Option<PathBuf>>) =
            batch.drain(..).map(|item| (item.event, item.told)).unzip();
        match publish(&events, list).await {
            Ok(()) => {
                for path in told.into_iter().flatten() {
                    // The task may be deleted by now; then nobody will ask.
                    let _ = std::fs::write(path, "");
                }
            }
            Err(error) => warn!(%error, "events of tasks are not in the log"),
        }
    }
}

async fn publish(events: &Link<Events>, list: Vec<NewEvent>) -> Result<()> {
    match events.send(Publish(list.clone())).await {
        Err(error) if error.class() == capstan_sdk::Class::Unavailable => {
            // The log is being restarted: once more, a little later.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            events.send(Publish(list)).await.map(drop)
        }
        published => published.map(drop),
    }
}
