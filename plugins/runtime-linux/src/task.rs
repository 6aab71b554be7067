//! A task, as the daemon knows it: a copy of what its shim knows, that answers at once.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use capstan_sdk::contract::runtime::{Exit, Status, Stdio, StdioPaths, TaskInfo, TaskKey};
use capstan_sdk::{Error, Result};
use tokio::sync::{Mutex, watch};

use crate::cgroup;
use crate::shim::Shim;

/// The file in a task's directory that says that its exit is in the event log.
const TOLD: &str = "exit-told";

/// How long after a failed call the end of a connection may be seen.
const SOON: Duration = Duration::from_secs(1);

/// Shared by all calls that concern the task. One thread, so cells are enough.
pub(crate) struct Task {
    pub(crate) key: TaskKey,
    pub(crate) dir: PathBuf,
    /// The first word of the command, for errors.
    pub(crate) command: String,
    info: RefCell<TaskInfo>,
    exit: watch::Sender<Option<Exit>>,
    /// `None` when the shim is gone.
    shim: RefCell<Option<Shim>>,
    /// Set when the shim has hung up.
    pub(crate) hangup: watch::Sender<bool>,
    /// Keeps start, delete and the like apart.
    pub(crate) step: Mutex<()>,
    /// Being deleted: that the shim hangs up is no news then, and its directory is not to be touched.
    pub(crate) is_going: Cell<bool>,
    /// Its exit is in the event log, or on its way there.
    is_exit_told: Cell<bool>,
    pub(crate) cgroup: cgroup::Kept,
}

impl Task {
    pub(crate) fn new(
        dir: PathBuf,
        command: String,
        mut info: TaskInfo,
        shim: Option<Shim>,
    ) -> Rc<Self> {
        let cgroup = cgroup::Kept::of(&dir);
        if let Some(exit) = &mut info.exit {
            exit.is_out_of_memory |= cgroup.was_out_of_memory();
        }
        let exit = info.exit.clone();
        let is_gone = shim.is_none();
        let is_exit_told = dir.join(TOLD).exists();
        Rc::new(Self {
            key: info.key.clone(),
            dir,
            command,
            info: RefCell::new(info),
            exit: watch::Sender::new(exit),
            shim: RefCell::new(shim),
            hangup: watch::Sender::new(is_gone),
            step: Mutex::new(()),
            is_going: Cell::new(false),
            is_exit_told: Cell::new(is_exit_told),
            cgroup,
        })
    }

    pub(crate) fn info(&self) -> TaskInfo {
        self.info.borrow().clone()
    }

    /// The way to the shim.
    ///
    /// # Errors
    /// `FailedPrecondition`: the shim is gone, and with it the container.
    pub(crate) fn shim(&self) -> Result<Shim> {
        self.shim.borrow().clone().ok_or_else(|| {
            Error::precondition(format!(
                "the shim of container {} is gone; delete the task (capstan tasks delete {})",
                self.key.id, self.key.id
            ))
        })
    }

    pub(crate) fn has_shim(&self) -> bool {
        self.shim.borrow().is_some()
    }

    pub(crate) fn set_runtime(&self, name: String) {
        self.info.borrow_mut().runtime = name;
    }

    pub(crate) fn set_running(&self, pid: u32, at_unix_ns: i64) {
        let mut info = self.info.borrow_mut();
        // It may have ended before we heard that it was started.
        if info.status == Status::Created {
            info.status = Status::Running;
        }
        info.pid = pid;
        info.started_at_unix_ns = at_unix_ns;
    }

    /// Frozen, on its way to that, or not.
    pub(crate) fn set_status(&self, status: Status) {
        let mut info = self.info.borrow_mut();
        if info.status != Status::Stopped && status != Status::Stopped {
            info.status = status;
        }
    }

    /// The first news counts: a shim that dies later does not change how its container ended.
    pub(crate) fn set_exit(&self, exit: &Exit) -> bool {
        let is_out_of_memory = exit.is_out_of_memory || self.cgroup.was_out_of_memory();
        let exit = &Exit { is_out_of_memory, ..exit.clone() };
        let is_first = self.exit.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert_with(|| exit.clone());
            is_first
        });
        if is_first {
            let mut info = self.info.borrow_mut();
            info.status = Status::Stopped;
            info.exit = Some(exit.clone());
        }
        is_first
    }

    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// The kernel killed a process of it for want of memory, which belongs to how it ended.
    pub(crate) fn set_out_of_memory(&self) {
        let set = |exit: &mut Option<Exit>| {
            if let Some(exit) = exit {
                exit.is_out_of_memory = true;
            }
        };
        self.exit.send_if_modified(|exit| {
            set(exit);
            // It is no news to those who wait for the end.
            false
        });
        set(&mut self.info.borrow_mut().exit);
    }

    /// The exit, if nobody was told of it yet: whoever asks tells.
    pub(crate) fn untold_exit(&self) -> Option<Exit> {
        let exit = self.exit()?;
        (!self.is_exit_told.replace(true)).then_some(exit)
    }

    /// Its exit is in the log, so a later daemon need not tell it.
    pub(crate) fn note_told(&self) {
        if !self.is_going.get() {
            // If this is lost, the exit is told twice, which is better than never.
            let _ = std::fs::write(self.dir.join(TOLD), "");
        }
    }

    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.expect("we hold the sender");
        exit.clone().expect("it was waited for")
    }

    /// Whether a shim that did not answer is gone; that it hangs up may come a little later.
    pub(crate) async fn is_gone_soon(&self) -> bool {
        let mut hangup = self.hangup.subscribe();
        let gone = hangup.wait_for(|is_gone| *is_gone);
        tokio::time::timeout(SOON, gone).await.is_ok()
    }

    /// The shim has hung up.
    pub(crate) fn set_gone(&self) {
        self.shim.replace(None);
        self.info.borrow_mut().shim_pid = 0;
        self.hangup.send_replace(true);
    }

    /// Where the streams of an exec are: the shim makes them, we tell.
    pub(crate) fn exec_paths(
        &self,
        exec_id: &str,
        stdio: &Stdio,
        has_terminal: bool,
    ) -> StdioPaths {
        let dir = self.dir.join("io").join(exec_id);
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        match stdio {
            Stdio::Null => StdioPaths::default(),
            Stdio::Fifos { has_stdin } => StdioPaths {
                stdin: if *has_stdin { path("stdin") } else { String::new() },
                stdout: path("stdout"),
                stderr: if has_terminal { String::new() } else { path("stderr") },
                ..StdioPaths::default()
            },
            Stdio::Kept { log, .. } => StdioPaths {
                attach: path("attach.sock"),
                log: log.as_ref().map(|log| log.path.clone()).unwrap_or_default(),
                ..StdioPaths::default()
            },
        }
    }
}
