//! Events of tasks, in the order in which things happened, without anybody waiting for the disk.

use std::cell::Cell;
use std::rc::Rc;

use capstan_sdk::contract::Events;
use capstan_sdk::contract::events::{NewEvent, Publish};
use capstan_sdk::contract::runtime::TaskKey;
use capstan_sdk::{Link, Result};
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use crate::cgroup;
use crate::task::Task;

/// Events in one commit at most.
const BATCH: usize = 256;

/// An event; with what is to be noted when it is in the log.
struct Item {
    event: NewEvent,
    note: Option<Note>,
}

/// What a later daemon would have to tell if it were not noted that it was told.
enum Note {
    Exit(Rc<Task>),
    /// As many were killed for want of memory.
    Oom(Rc<Task>, u64),
}

impl Note {
    fn take(&self) {
        match self {
            Self::Exit(task) => task.note_told(),
            Self::Oom(task, count) => cgroup::note_told(task, *count),
        }
    }
}

/// How many events are on their way.
#[derive(Debug, Default)]
struct Pending {
    count: Cell<usize>,
    changed: Notify,
}

/// The way to the log. Unbounded on purpose: an event is small, comes from a process that started or
/// ended, and must never be dropped.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    items: mpsc::UnboundedSender<Item>,
    pending: Rc<Pending>,
}

impl Publisher {
    /// The publisher, and the work that it needs done.
    pub(crate) fn new(events: Link<Events>) -> (Self, impl Future<Output = ()>) {
        let (items, receiver) = mpsc::unbounded_channel();
        let pending = Rc::new(Pending::default());
        (Self { items, pending: Rc::clone(&pending) }, run(events, receiver, pending))
    }

    /// Waits until all that was told is in the log.
    pub(crate) async fn flush(&self) {
        while self.pending.count.get() > 0 {
            self.pending.changed.notified().await;
        }
    }

    /// Tells something about a task.
    pub(crate) fn tell(&self, key: &TaskKey, topic: &str, fields: &[(&str, String)]) {
        self.send(key, topic, fields, None);
    }

    /// Tells that a task has ended, and has that noted when it is in the log.
    pub(crate) fn tell_exit(&self, task: &Rc<Task>, fields: &[(&str, String)]) {
        self.send(&task.key, "/tasks/exit", fields, Some(Note::Exit(Rc::clone(task))));
    }

    /// Tells that the kernel has killed processes of a task for want of memory, `count` so far.
    pub(crate) fn tell_oom(&self, task: &Rc<Task>, count: u64) {
        let note = Note::Oom(Rc::clone(task), count);
        self.send(&task.key, "/tasks/oom", &[("count", count.to_string())], Some(note));
    }

    fn send(&self, key: &TaskKey, topic: &str, fields: &[(&str, String)], note: Option<Note>) {
        let mut event = NewEvent::new(&key.namespace, topic).with("id", &key.id);
        for (name, value) in fields {
            event = event.with(name, value);
        }
        // It fails only while the plugin ends.
        if self.items.send(Item { event, note }).is_ok() {
            self.pending.count.set(self.pending.count.get() + 1);
        }
    }
}

async fn run(
    events: Link<Events>,
    mut receiver: mpsc::UnboundedReceiver<Item>,
    pending: Rc<Pending>,
) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let count = batch.len();
        let (list, notes): (Vec<NewEvent>, Vec<Option<Note>>) =
            batch.drain(..).map(|item| (item.event, item.note)).unzip();
        match publish(&events, list).await {
            Ok(()) => notes.iter().flatten().for_each(Note::take),
            Err(error) => warn!(%error, "events of tasks are not in the log"),
        }
        pending.count.set(pending.count.get() - count);
        pending.changed.notify_waiters();
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
