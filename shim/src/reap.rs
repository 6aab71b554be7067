//! Children: how each ended, told once to whoever waits for it.
//!
//! As subreaper the shim gets processes that it never started: a container's init is one. One that
//! ends before anybody asked for it is remembered until it is asked for. Numbers are used again, so whoever
//! asks says since when the process that is meant has been there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::rc::Rc;

use capstan_schema::{Error, Result};
use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Ends that nobody asked for yet. A container's other orphans end here too, so the oldest go.
const UNCLAIMED: usize = 64;

#[derive(Default)]
struct Table {
    waiting: HashMap<i32, oneshot::Sender<u32>>,
    /// With the moment, as [`Moment`] counts, the number and the status.
    unclaimed: VecDeque<(u64, i32, u32)>,
    /// Ends so far.
    count: u64,
}

/// A point in time: how many children had ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

/// Who waits for which child.
#[derive(Clone, Default)]
pub(crate) struct Reaper(Rc<RefCell<Table>>);

impl Reaper {
    /// What a child that is about to be made will have begun after.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.0.borrow().count)
    }

    /// How a child ended, or will end: exit code, or 128 + signal. It was made after `since`: what had the
    /// same number before is not meant.
    pub(crate) fn ended(&self, pid: u32, since: Moment) -> oneshot::Receiver<u32> {
        let (tell, ended) = oneshot::channel();
        let pid = i32::try_from(pid).unwrap_or(-1);
        let mut table = self.0.borrow_mut();
        let is_it = |(at, dead, _): &&(u64, i32, u32)| *dead == pid && *at > since.0;
        match table.unclaimed.iter().rev().find(is_it).map(|(.., status)| *status) {
            Some(status) => {
                let _ = tell.send(status);
            }
            None => {
                table.waiting.insert(pid, tell);
            }
        }
        table.unclaimed.retain(|(_, dead, _)| *dead != pid);
        ended
    }

    /// Reaps for ever.
    ///
    /// # Errors
    /// The signal cannot be received.
    pub(crate) async fn run(self) -> Result<()> {
        let mut signals = signal(SignalKind::child())
            .map_err(|error| Error::io("watch for the end of children", error))?;
        loop {
            // Signals are merged: one may stand for many ends.
            self.reap();
            signals.recv().await;
        }
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(status) = code(status) else { continue };
            self.0.borrow_mut().end(pid.as_raw_nonzero().get(), status);
        }
    }
}

impl Table {
    fn end(&mut self, pid: i32, status: u32) {
        self.count += 1;
        match self.waiting.remove(&pid) {
            Some(tell) => {
                let _ = tell.send(status);
            }
            None => {
                if self.unclaimed.len() == UNCLAIMED {
                    self.unclaimed.pop_front();
                }
                self.unclaimed.push_back((self.count, pid, status));
            }
        }
    }
}

/// What a shell would show; `None` for a child that has not ended.
fn code(status: WaitStatus) -> Option<u32> {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (_, Some(signal)) => 128 + signal,
        _ => return None,
    };
    u32::try_from(code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-204: the end of a real child that nobody had asked for yet.
    #[test]
    #[expect(clippy::zombie_processes, reason = "it is the reaper that waits")]
    fn an_end_before_it_was_asked_for_is_told() {
        let reaper = Reaper::default();
        let since = reaper.now();
        let child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pid = child.id();
        while reaper.0.borrow().unclaimed.is_empty() {
            reaper.reap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(reaper.ended(pid, since).try_recv(), Ok(7));
        let killed = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut ended = reaper.ended(killed.id(), reaper.now());
        assert!(ended.try_recv().is_err(), "it runs");
        let pid = rustix::process::Pid::from_raw(i32::try_from(killed.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let status = loop {
            reaper.reap();
            if let Ok(status) = ended.try_recv() {
                break status;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(status, 137);
        let table = reaper.0.borrow();
        assert!(table.waiting.is_empty() && table.unclaimed.is_empty(), "nothing is kept");
    }

    /// An exec with the number of an orphan that had ended long ago was told to have ended as that had.
    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let reaper = Reaper::default();
        reaper.0.borrow_mut().end(50, 3);
        let since = reaper.now();
        let mut ended = reaper.ended(50, since);
        assert!(ended.try_recv().is_err(), "that was another one");
        reaper.0.borrow_mut().end(50, 4);
        assert_eq!(ended.try_recv(), Ok(4));
        // Of several since then the last one is meant.
        for status in [5, 6] {
            reaper.0.borrow_mut().end(50, status);
        }
        assert_eq!(reaper.ended(50, since).try_recv(), Ok(6));
        assert!(reaper.0.borrow().unclaimed.is_empty());
    }

    /// D83: orphans that nobody asks for do not pile up.
    #[test]
    fn what_nobody_asks_for_has_an_end() {
        let reaper = Reaper::default();
        let since = reaper.now();
        for pid in 1..1000 {
            reaper.0.borrow_mut().end(pid, 0);
        }
        assert_eq!(reaper.0.borrow().unclaimed.len(), UNCLAIMED);
        assert_eq!(reaper.ended(999, since).try_recv(), Ok(0), "the oldest go first");
    }
}
