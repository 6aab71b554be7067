//! Children: how each ended, told once to whoever waits for it.
//!
//! As subreaper the shim gets processes that it never started: a container's init is one. One that
//! ends before anybody asked for it is remembered until it is asked for.

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
    unclaimed: VecDeque<(i32, u32)>,
}

/// Who waits for which child.
#[derive(Clone, Default)]
pub(crate) struct Reaper(Rc<RefCell<Table>>);

impl Reaper {
    /// How a child ended, or will end: exit code, or 128 + signal.
    pub(crate) fn ended(&self, pid: u32) -> oneshot::Receiver<u32> {
        let (tell, ended) = oneshot::channel();
        let pid = i32::try_from(pid).unwrap_or(-1);
        let mut table = self.0.borrow_mut();
        match table.unclaimed.iter().position(|(dead, _)| *dead == pid) {
            Some(index) => {
                let (_, status) = table.unclaimed.remove(index).expect("it was just found");
                let _ = tell.send(status);
            }
            None => {
                table.waiting.insert(pid, tell);
            }
        }
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
            let pid = pid.as_raw_nonzero().get();
            let mut table = self.0.borrow_mut();
            match table.waiting.remove(&pid) {
                Some(tell) => {
                    let _ = tell.send(status);
                }
                None => {
                    if table.unclaimed.len() == UNCLAIMED {
                        table.unclaimed.pop_front();
                    }
                    table.unclaimed.push_back((pid, status));
                }
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
