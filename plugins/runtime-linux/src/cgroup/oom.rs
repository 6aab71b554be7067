//! Want of memory: the kernel counts what it kills for it, wakes us, and we tell.
//!
//! The counter is the truth: it also knows what happened while no daemon ran. How much of it was told is kept
//! in the task's directory. The kernel's wake-up only says when to look; without it the counter is read when
//! the container ends.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use capstan_sdk::{Error, Result, blocking};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Group, file, group};
use crate::publish::Publisher;
use crate::task::Task;

/// The file in a task's directory that says how much was told.
const TOLD: &str = "oom-told";

/// With version 1 we are woken before anything is killed: how long we then wait for the next look, each
/// time. It takes well below a millisecond if nothing else runs.
const LOOKS_MILLIS: [u64; 9] = [1, 2, 5, 10, 20, 50, 100, 200, 500];

/// How many of a container's processes the kernel has killed for want of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    dir: PathBuf,
    name: &'static str,
}

/// Version 1 and 2.
const NAMES: [&str; 2] = ["memory.oom_control", "memory.events"];

impl Counter {
    /// The one of a group; `None` if memory is not counted.
    pub(super) fn find(group: &Group) -> Option<Self> {
        let find = |name| Some(Self { dir: group.with(name)?.to_owned(), name });
        NAMES.into_iter().find_map(find)
    }

    /// `None` if it is gone, or the kernel is older than 4.13.
    pub(super) fn read(&self) -> Result<Option<u64>> {
        let text = file::read(&self.dir, self.name)?;
        Ok(text.and_then(|text| file::keyed(&text, "oom_kill")))
    }

    fn is_version_1(&self) -> bool {
        self.name == NAMES[0]
    }
}

/// What was told of the task in this directory.
pub(super) fn told(dir: &Path) -> u64 {
    let text = fs::read_to_string(dir.join(TOLD)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Keeps how much was told: that is in the log now.
pub(crate) fn note_told(task: &Task, count: u64) {
    if !task.is_going.get() {
        // If this is lost, it is told twice, which is better than never.
        let _ = fs::write(task.dir.join(TOLD), count.to_string());
    }
}

/// Reads the counter, for [`tell`] and for how the container ended.
pub(crate) async fn look(task: &Task) {
    let read = async {
        let Some(counter) = Counter::find(&*group(task).await?) else { return Ok(None) };
        blocking::run("read how much was killed", move || counter.read()).await
    };
    match read.await {
        Ok(Some(count)) if count > task.cgroup.seen.get() => {
            task.cgroup.seen.set(count);
            task.set_out_of_memory();
        }
        Ok(_) => {}
        Err(error) => warn!(task = %task.key, %error, "whether its memory ran out is not known"),
    }
}

/// Tells what was seen and not told yet.
pub(crate) fn tell(task: &Rc<Task>, publisher: &Publisher) {
    let seen = task.cgroup.seen.get();
    if task.cgroup.told.replace(seen) < seen {
        publisher.tell_oom(task, seen);
    }
}

/// Looks and tells.
async fn settle(task: &Rc<Task>, publisher: &Publisher) {
    look(task).await;
    // A start that is under way is told first.
    let _step = task.step.lock().await;
    tell(task, publisher);
}

/// Tells each want of memory of a task as it comes, until the container has ended. Once for a task.
pub(crate) fn follow(task: &Rc<Task>, publisher: &Publisher, hub: &Rc<Hub>) {
    if task.exit().is_some() || task.cgroup.is_followed.replace(true) {
        return;
    }
    let (task, publisher, hub) = (Rc::clone(task), publisher.clone(), Rc::clone(hub));
    actix::spawn(async move {
        tokio::select! {
            _ = task.wait() => {}
            outcome = follow_to_end(&task, &publisher, &hub) => {
                if let Err(error) = outcome {
                    warn!(task = %task.key, %error, "want of memory is told only when it ends");
                }
            }
        }
    });
}

async fn follow_to_end(task: &Rc<Task>, publisher: &Publisher, hub: &Rc<Hub>) -> Result<()> {
    let Some(counter) = Counter::find(&*group(task).await?) else {
        // It is not made yet: the next call finds more.
        task.cgroup.is_followed.set(false);
        return Ok(());
    };
    let alarm = Alarm::set(&counter, hub).await?;
    loop {
        // First what happened before.
        settle(task, publisher).await;
        alarm.ring().await.map_err(|error| Error::io("wait for want of memory", error))?;
        let before = task.cgroup.seen.get();
        for millis in LOOKS_MILLIS {
            settle(task, publisher).await;
            if !counter.is_version_1() || task.cgroup.seen.get() > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

/// Rings when memory runs out.
enum Alarm {
    /// An event counter that the kernel adds to (cgroup-v1/memory.rst, section 10).
    Counted(Receiver),
    /// A file that the kernel changes (cgroup-v2.rst, `memory.events`).
    Changed { hub: Rc<Inotify>, watch: i32, changed: Rc<Notify> },
}

impl Alarm {
    async fn set(counter: &Counter, hub: &Hub) -> Result<Self> {
        if counter.is_version_1() {
            let counter = counter.clone();
            let event = blocking::run("ask to be told of want of memory", move || {
                let fail = |error| {
                    Error::io(format!("watch {}", counter.dir.join(counter.name).display()), error)
                };
                event_of(&counter.dir, counter.name).map_err(fail)
            });
            // It is read like a pipe.
            let receiver = Receiver::from_owned_fd_unchecked(event.await?);
            return receiver
                .map(Self::Counted)
                .map_err(|error| Error::io("wait for an event", error));
        }
        let path = counter.dir.join(counter.name);
        hub.watch(&path).map_err(|error| Error::io(format!("watch {}", path.display()), error))
    }

    /// Waits for the next time. Cancel safety: it is not lost.
    async fn ring(&self) -> io::Result<()> {
        match self {
            Self::Counted(receiver) => read(receiver, &mut [0; 8]).await.map(drop),
            Self::Changed { changed, .. } => {
                changed.notified().await;
                Ok(())
            }
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Self::Changed { hub, watch, .. } = self {
            hub.waiting.borrow_mut().remove(watch);
            // It fails if the file is gone, and the watch with it.
            let _ = inotify::remove_watch(&hub.receiver, *watch);
        }
    }
}

/// An event counter to which the kernel adds 1 when memory runs out.
fn event_of(dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let watched = File::open(dir.join(name))?;
    let words = format!("{} {}", event.as_raw_fd(), watched.as_raw_fd());
    file::write(&dir.join("cgroup.event_control"), &words)?;
    Ok(event)
}

async fn read(receiver: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        receiver.readable().await?;
        match receiver.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

/// Watches files for all tasks, of which there may be more than the 128 descriptors for watching that a user
/// has by default.
#[derive(Default)]
pub(crate) struct Hub {
    started: OnceCell<(Rc<Inotify>, JoinHandle<()>)>,
}

/// One inotify(7).
struct Inotify {
    receiver: Receiver,
    waiting: RefCell<HashMap<i32, Rc<Notify>>>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some((_, reading)) = self.started.get() {
            reading.abort();
        }
    }
}

impl Hub {
    fn watch(&self, path: &Path) -> io::Result<Alarm> {
        let hub = Rc::clone(self.start()?);
        let watch = inotify::add_watch(&hub.receiver, path, inotify::WatchFlags::MODIFY)?;
        let changed = Rc::new(Notify::new());
        hub.waiting.borrow_mut().insert(watch, Rc::clone(&changed));
        Ok(Alarm::Changed { hub, watch, changed })
    }

    fn start(&self) -> io::Result<&Rc<Inotify>> {
        if let Some((started, _)) = self.started.get() {
            return Ok(started);
        }
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        // Its events are read like a pipe.
        let receiver = Receiver::from_owned_fd_unchecked(inotify::init(flags)?)?;
        let inotify = Rc::new(Inotify { receiver, waiting: RefCell::default() });
        let reading = actix::spawn(Rc::clone(&inotify).pass_on());
        Ok(&self.started.get_or_init(|| (inotify, reading)).0)
    }
}

impl Inotify {
    async fn pass_on(self: Rc<Self>) {
        let mut buffer = [0; 4096];
        loop {
            match read(&self.receiver, &mut buffer).await {
                Ok(size) => {
                    for watch in watches(&buffer[..size]) {
                        let changed = self.waiting.borrow().get(&watch).cloned();
                        // Too many at once: whoever waits has a look.
                        match changed {
                            Some(changed) => changed.notify_one(),
                            None if watch < 0 => self.wake_all(),
                            None => {}
                        }
                    }
                }
                Err(error) => {
                    warn!(%error, "want of memory is told only when containers end");
                    return;
                }
            }
        }
    }

    fn wake_all(&self) {
        self.waiting.borrow().values().for_each(|changed| changed.notify_one());
    }
}

/// The watches in a buffer of events: watch, mask, cookie, length of a name, name.
fn watches(mut events: &[u8]) -> Vec<i32> {
    const HEAD: usize = 16;
    let mut found = Vec::new();
    while let Some((head, rest)) = events.split_at_checked(HEAD) {
        let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        found.push(i32::from_ne_bytes(word(0)));
        let length = usize::try_from(u32::from_ne_bytes(word(12))).unwrap_or(usize::MAX);
        let Some(rest) = rest.get(length..) else { break };
        events = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::testing::run;

    fn counter(name: &'static str, text: &str) -> (tempfile::TempDir, Counter) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        let group = Group { dirs: vec![dir.path().to_owned()] };
        let counter = Counter::find(&group).unwrap();
        (dir, counter)
    }

    #[test]
    fn both_versions_count() {
        let (dir, one) = counter(NAMES[0], "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        assert!(one.is_version_1());
        assert_eq!(one.read().unwrap(), Some(3));
        drop(dir);
        assert_eq!(one.read().unwrap(), None, "it is gone");
        let (_dir, two) = counter(NAMES[1], "oom 7\noom_kill 2\noom_group_kill 1\n");
        assert!(!two.is_version_1());
        assert_eq!(two.read().unwrap(), Some(2));
        let (_dir, old) = counter(NAMES[0], "oom_kill_disable 0\nunder_oom 0\n");
        assert_eq!(old.read().unwrap(), None);
        assert_eq!(Counter::find(&Group::default()), None);
    }

    #[test]
    fn what_was_told_is_a_number_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(told(dir.path()), 0);
        fs::write(dir.path().join(TOLD), "4").unwrap();
        assert_eq!(told(dir.path()), 4);
    }

    /// Whether it rings within a while.
    async fn rings(alarm: &Alarm) -> bool {
        tokio::time::timeout(Duration::from_millis(200), alarm.ring()).await.is_ok()
    }

    #[test]
    fn each_alarm_of_version_2_rings_for_its_own_file() {
        run(|| async {
            let hub = Hub::default();
            let (dir, one) = counter(NAMES[1], "oom_kill 0\n");
            let (_other_dir, other) = counter(NAMES[1], "oom_kill 0\n");
            let alarm = Alarm::set(&one, &hub).await.unwrap();
            let other = Alarm::set(&other, &hub).await.unwrap();
            assert!(!rings(&alarm).await);
            fs::write(dir.path().join(NAMES[1]), "oom_kill 1\n").unwrap();
            assert!(rings(&alarm).await);
            assert!(!rings(&other).await);
            drop(alarm);
            let (inotify, _) = hub.started.get().unwrap();
            assert_eq!(inotify.waiting.borrow().len(), 1);
            // The file goes: nothing rings, and nothing is out of order.
            drop(dir);
            assert!(!rings(&other).await);
        });
    }

    #[test]
    fn a_machine_that_cannot_wake_us_says_so() {
        run(|| async {
            let hub = Hub::default();
            // No cgroup.event_control, and then no file at all.
            let (dir, one) = counter(NAMES[0], "oom_kill 0\n");
            assert!(Alarm::set(&one, &hub).await.is_err());
            drop(dir);
            assert!(Alarm::set(&one, &hub).await.is_err());
        });
    }

    #[test]
    fn events_are_read_one_behind_the_other() {
        let event = |watch: i32, name: &[u8]| {
            let length = u32::try_from(name.len()).unwrap();
            [&watch.to_ne_bytes()[..], &[0; 8], &length.to_ne_bytes(), name].concat()
        };
        let both = [event(1, b""), event(7, b"name"), event(-1, b"")].concat();
        assert_eq!(watches(&both), [1, 7, -1]);
        assert_eq!(watches(&both[..20]), [1]);
        assert_eq!(watches(&[]), Vec::<i32>::new());
    }
}
