//! Events of tasks, in the order in which things happened, without anybody waiting for the disk.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use capstan_sdk::contract::Events;
use capstan_sdk::contract::events::{NewEvent, Publish};
use capstan_sdk::contract::runtime::TaskKey;
use capstan_sdk::{Class, Link, Result};
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use crate::cgroup;
use crate::task::Task;

/// Events in one commit at most.
const BATCH: usize = 256;

/// How long a log that takes nothing is left alone, at first and at most: it is being restarted, or its disk is full.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Events that wait for such a log, at most: some ten megabytes.
const MOST: usize = 1 << 16;

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
    /// Whether the log has refused them more than once: nobody else waits for it then.
    is_stuck: Cell<bool>,
    /// Whether more came than are kept.
    is_full: Cell<bool>,
    changed: Notify,
}

/// The way to the log. An event is small, comes from a process that started or ended, and waits for as long as the log takes
/// none; behind very many that wait it is dropped, and the daemon's log says so.
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
        let publish = async move |list| events.send(Publish(list)).await.map(drop);
        (Self { items, pending: Rc::clone(&pending) }, run(publish, receiver, pending))
    }

    /// Waits until all that was told is in the log, or the log is known to take nothing.
    pub(crate) async fn flush(&self) {
        while self.pending.count.get() > 0 && !self.pending.is_stuck.get() {
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
        let Pending { count, is_full, .. } = &*self.pending;
        if count.get() >= MOST {
            if !is_full.replace(true) {
                warn!(task = %key, topic, "{MOST} events wait for the log; no more are kept until it takes them");
            }
            return;
        }
        // It fails only while the plugin ends.
        if self.items.send(Item { event, note }).is_ok() {
            count.set(count.get() + 1);
        }
    }
}

async fn run(
    publish: impl AsyncFn(Vec<NewEvent>) -> Result<()>,
    mut receiver: mpsc::UnboundedReceiver<Item>,
    pending: Rc<Pending>,
) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let count = batch.len();
        let (list, notes): (Vec<NewEvent>, Vec<Option<Note>>) =
            batch.drain(..).map(|item| (item.event, item.note)).unzip();
        match publish_at_last(&publish, &list, &pending).await {
            Ok(()) => notes.iter().flatten().for_each(Note::take),
            Err(error) => warn!(%error, "events of tasks are not in the log"),
        }
        pending.count.set(pending.count.get() - count);
        pending.is_full.set(false);
        pending.changed.notify_waiters();
    }
}

/// Publishes, again and again while the log is down or has no space. Its events come before all later ones then, and may be
/// there twice.
async fn publish_at_last(
    publish: &impl AsyncFn(Vec<NewEvent>) -> Result<()>,
    list: &[NewEvent],
    pending: &Pending,
) -> Result<()> {
    let (mut wait, mut is_first) = (FIRST_WAIT, true);
    loop {
        let error = match publish(list.to_vec()).await {
            Err(error)
                if matches!(error.class(), Class::Unavailable | Class::ResourceExhausted) =>
            {
                error
            }
            published => {
                pending.is_stuck.set(false);
                return published;
            }
        };
        if !is_first && !pending.is_stuck.replace(true) {
            warn!(%error, "events of tasks wait for the log");
            pending.changed.notify_waiters();
        }
        is_first = false;
        tokio::time::sleep(wait).await;
        wait = LONGEST_WAIT.min(wait * 2);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use capstan_sdk::{ContainerId, Error, Namespace};

    use super::*;

    fn key() -> TaskKey {
        let (namespace, id) = (Namespace::parse("a").unwrap(), ContainerId::parse("x").unwrap());
        TaskKey { namespace, id }
    }

    /// A log that was down for longer than a moment lost all that was told meanwhile.
    #[test]
    fn events_wait_for_a_log_that_takes_none() {
        let log: Rc<RefCell<Vec<String>>> = Rc::default();
        let calls = Rc::new(Cell::new(0));
        let (written, asked) = (Rc::clone(&log), Rc::clone(&calls));
        let publish = async move |list: Vec<NewEvent>| {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => Err(Error::unavailable("it is being restarted")),
                2 => Err(Error::exhausted("its disk is full")),
                _ => {
                    written.borrow_mut().extend(list.into_iter().map(|event| event.topic));
                    Ok(())
                }
            }
        };
        let (items, receiver) = mpsc::unbounded_channel();
        let pending = Rc::new(Pending::default());
        let publisher = Publisher { items, pending: Rc::clone(&pending) };
        let key = key();
        actix::System::new().block_on(async {
            actix::spawn(run(publish, receiver, pending));
            publisher.tell(&key, "/one", &[]);
            publisher.flush().await;
            assert_eq!(calls.get(), 2, "nobody waits for a log that takes nothing");
            publisher.tell(&key, "/two", &[]);
            publisher.flush().await;
            assert!(log.borrow().is_empty());
            while log.borrow().len() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(*log.borrow(), ["/one", "/two"]);
            publisher.tell(&key, "/three", &[]);
            publisher.flush().await;
            assert_eq!(*log.borrow(), ["/one", "/two", "/three"], "it is waited for again");
        });
    }

    #[test]
    fn what_waits_has_a_bound() {
        let (items, mut receiver) = mpsc::unbounded_channel();
        let publisher = Publisher { items, pending: Rc::default() };
        let key = key();
        for _ in 0..MOST + 10 {
            publisher.tell(&key, "/one", &[]);
        }
        assert_eq!(publisher.pending.count.get(), MOST);
        let mut kept = 0;
        while receiver.try_recv().is_ok() {
            kept += 1;
        }
        assert_eq!(kept, MOST);
    }
}
