//! A process of the container: its init, or an exec.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use capstan_schema::{Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

use crate::hub::Hub;
use crate::stdio::Streams;
use crate::terminal::Terminal;

/// How long a client of a process that has ended may take nothing before its end is told all the same.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a task that has ended stays for a client that takes nothing of what is left.
const LAST_READERS: Duration = Duration::from_secs(60);

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exit {
    pub(crate) status: u32,
    pub(crate) at_unix_ns: i64,
}

/// A process that exists, or existed.
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// `None` if it was gone before it could be held, and once it is gone.
    handle: RefCell<Option<OwnedFd>>,
    pub(crate) streams: RefCell<Streams>,
    pub(crate) terminal: RefCell<Option<Terminal>>,
    exit: watch::Sender<Option<Exit>>,
    pub(crate) is_started: Cell<bool>,
}

impl Process {
    pub(crate) fn new(pid: u32, streams: Streams, terminal: Option<Terminal>) -> Rc<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let handle = raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Rc::new(Self {
            pid,
            handle: RefCell::new(handle),
            streams: RefCell::new(streams),
            terminal: RefCell::new(terminal),
            exit: watch::Sender::new(None),
            is_started: Cell::new(false),
        })
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Its end was seen and written down.
    pub(crate) fn set_exit(&self, exit: Exit) {
        self.exit.send_replace(Some(exit));
        self.handle.take();
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.expect("we hold the sender");
        exit.expect("it was waited for")
    }

    /// Sends a signal to just this process, never to a later one of the same number.
    ///
    /// # Errors
    /// `FailedPrecondition`: it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let ended = || Error::precondition("the process has ended");
        if self.exit().is_some() {
            return Err(ended());
        }
        let handle = self.handle.borrow();
        let handle = handle.as_ref().ok_or_else(ended)?;
        pidfd_send_signal(handle, signal).map_err(|error| match error {
            rustix::io::Errno::SRCH => ended(),
            error => Error::io(format!("send a signal to process {}", self.pid), error),
        })
    }

    /// Tells its terminal how large it is.
    ///
    /// # Errors
    /// `FailedPrecondition`: it has none.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &*self.terminal.borrow() {
            Some(terminal) => terminal.resize(columns, rows),
            None => Err(Error::precondition("the process has no terminal")),
        }
    }

    /// Lets go of its streams, so that readers see their end. Output is complete before this returns,
    /// but for a client that takes nothing for so long that it cannot be waited for.
    pub(crate) async fn finish_streams(&self) {
        let terminal = self.terminal.take();
        if let Some(terminal) = terminal {
            let left = terminal.finish(DRAIN).await;
            self.terminal.replace(left);
        } else if let Some(hub) = self.hub() {
            hub.set_ending();
            hub.drained(DRAIN, DRAIN).await;
        }
        self.streams.borrow_mut().close();
    }

    /// Waits for the clients that still read what a process left that has ended.
    pub(crate) async fn wait_for_readers(&self) {
        if let Some(hub) = self.hub() {
            hub.drained(LAST_READERS, LAST_READERS).await;
        }
    }

    /// Where its output goes through the shim.
    pub(crate) fn hub(&self) -> Option<Rc<Hub>> {
        self.streams.borrow().kept.as_ref().map(|kept| Rc::clone(&kept.hub))
    }
}
