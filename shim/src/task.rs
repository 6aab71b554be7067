//! The task: one container, from before its creation to its deletion.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use capstan_schema::{Error, Result};
use rustix::process::Signal;
use tokio::sync::{Mutex, Notify};

use crate::cgroup;
use crate::checkpoint::Pending;
use crate::exec::Exec;
use crate::failpoint;
use crate::process::{Exit, Process};
use crate::reap::{Moment, Reaper};
use crate::record::{Entry, Record, now_unix_ns};
use crate::runtime::Runtime;

/// What exists of the container.
pub(crate) struct Container {
    pub(crate) runtime: Runtime,
    pub(crate) init: Rc<Process>,
    pub(crate) cgroups: Vec<String>,
    pub(crate) freeze: Cell<Freeze>,
}

/// Whether a container is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freeze {
    No,
    Begun,
    Done,
}

/// Shared by all connections. One thread, so cells are enough; `step` keeps create, start and delete
/// apart, which take their time.
pub(crate) struct Task {
    pub(crate) dir: PathBuf,
    pub(crate) reaper: Reaper,
    record: RefCell<Record>,
    pub(crate) container: RefCell<Option<Rc<Container>>>,
    pub(crate) execs: RefCell<BTreeMap<String, Rc<Exec>>>,
    /// Those of them that have ended, the oldest first.
    pub(crate) ended_execs: RefCell<VecDeque<Rc<Exec>>>,
    pub(crate) step: Mutex<()>,
    pub(crate) is_creating: Cell<bool>,
    /// A start is under way, which nobody may be waiting for any more.
    pub(crate) is_starting: Cell<bool>,
    /// A container that `start` will restore.
    pub(crate) pending: RefCell<Option<Pending>>,
    /// The task is deleted: the shim ends.
    pub(crate) done: Notify,
}

impl Task {
    pub(crate) fn new(dir: PathBuf, record: Record, reaper: Reaper) -> Rc<Self> {
        Rc::new(Self {
            dir,
            reaper,
            record: RefCell::new(record),
            container: RefCell::new(None),
            execs: RefCell::default(),
            ended_execs: RefCell::default(),
            step: Mutex::new(()),
            is_creating: Cell::new(false),
            is_starting: Cell::new(false),
            pending: RefCell::new(None),
            done: Notify::new(),
        })
    }

    pub(crate) fn container(&self) -> Result<Rc<Container>> {
        let container = self.container.borrow();
        container.clone().ok_or_else(|| Error::precondition("the container has not been created"))
    }

    /// One line for whoever wonders what it does.
    pub(crate) fn describe(&self) -> String {
        let dir = self.dir.display();
        let execs = self.execs.borrow().len();
        let step = if self.step.try_lock().is_err() { ", in the middle of a step" } else { "" };
        match &*self.container.borrow() {
            None => format!("task in {dir}: no container{step}"),
            Some(container) => {
                let init = &container.init;
                let (pid, is_started, exit) = (init.pid, init.is_started.get(), init.exit());
                format!(
                    "task in {dir}: init {pid}, started {is_started}, exit {exit:?}, execs {execs}{step}"
                )
            }
        }
    }

    /// Whether there is anything that must not be left alone.
    pub(crate) fn is_idle(&self) -> bool {
        self.container.borrow().is_none()
            && !self.is_creating.get()
            && self.pending.borrow().is_none()
    }

    /// Writes down what happened.
    pub(crate) fn note(&self, entry: Entry<'_>) -> Result<i64> {
        self.record.borrow_mut().append(entry)
    }

    /// The process that a name means; the empty one is init.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Rc<Process>> {
        if exec_id.is_empty() {
            return Ok(Rc::clone(&self.container()?.init));
        }
        let exec = self.exec(exec_id)?;
        let process = exec.process.borrow();
        process
            .clone()
            .ok_or_else(|| Error::precondition(format!("exec {exec_id} has not been started")))
    }

    pub(crate) fn exec(&self, exec_id: &str) -> Result<Rc<Exec>> {
        let execs = self.execs.borrow();
        execs
            .get(exec_id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("the task has no exec {exec_id:?}")))
    }

    /// Waits for the end of init, writes it down, and only then tells.
    pub(crate) fn watch_init(self: &Rc<Self>, init: &Rc<Process>, since: Moment) {
        let (task, init) = (Rc::clone(self), Rc::clone(init));
        let ended = task.reaper.ended(init.pid, since);
        tokio::task::spawn_local(async move {
            let status = ended.await.unwrap_or(255);
            init.finish_streams().await;
            failpoint::at("exit:seen");
            let at_unix_ns = match task.note(Entry::Exited(status)) {
                Ok(at_unix_ns) => at_unix_ns,
                Err(error) => {
                    // A full disk must not hide an end from those who can still be told.
                    eprintln!("capstan-shim: {error}");
                    now_unix_ns()
                }
            };
            failpoint::at("exit:noted");
            init.set_exit(Exit { status, at_unix_ns });
        });
    }

    /// Starts the user's process.
    pub(crate) async fn start(self: &Rc<Self>) -> Result<u32> {
        let _step = self.step.lock().await;
        self.is_starting.set(true);
        let started = self.try_start().await;
        self.is_starting.set(false);
        started
    }

    async fn try_start(self: &Rc<Self>) -> Result<u32> {
        if self.pending.borrow().is_some() {
            return self.restore().await;
        }
        let container = self.container()?;
        if container.init.is_started.get() || container.init.exit().is_some() {
            return Err(Error::precondition("the container was started before"));
        }
        failpoint::at("start:asked");
        container.runtime.run(&self.reaper, "start", &[], None).await?;
        container.init.is_started.set(true);
        failpoint::at("start:run");
        self.note(Entry::Started)?;
        failpoint::at("start:noted");
        Ok(container.init.pid)
    }

    /// Freezes every process of the container; answers when all are frozen. After an error it goes on.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _step = self.step.lock().await;
        let container = self.container()?;
        if !container.init.is_started.get() || container.init.exit().is_some() {
            return Err(Error::precondition("the container does not run"));
        }
        if container.freeze.get() != Freeze::No {
            return Err(Error::precondition("the container is paused"));
        }
        container.freeze.set(Freeze::Begun);
        let frozen = cgroup::freeze(&container.cgroups).await;
        let frozen = frozen.and_then(|()| self.note(Entry::Paused(true)).map(drop));
        if frozen.is_err() {
            cgroup::thaw(&container.cgroups);
        }
        container.freeze.set(if frozen.is_ok() { Freeze::Done } else { Freeze::No });
        frozen
    }

    /// Lets a paused container go on.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _step = self.step.lock().await;
        let container = self.container()?;
        if container.freeze.get() == Freeze::No {
            return Err(Error::precondition("the container is not paused"));
        }
        cgroup::thaw(&container.cgroups);
        container.freeze.set(Freeze::No);
        // It goes on already, whatever the disk says.
        let _ = self.note(Entry::Paused(false));
        Ok(())
    }

    pub(crate) fn kill(&self, exec_id: &str, signal: Signal, is_to_all: bool) -> Result<()> {
        if is_to_all {
            let container = self.container()?;
            cgroup::guard(&container.cgroups)?;
            cgroup::signal_all(&container.cgroups, signal);
            // A container that shares its host's cgroup has none of its own: init at least.
            if container.cgroups.is_empty() {
                return container.init.signal(signal);
            }
        } else {
            self.process(exec_id)?.signal(signal)?;
        }
        if signal == Signal::KILL
            && let Ok(container) = self.container()
            && container.freeze.replace(Freeze::No) != Freeze::No
        {
            // Whoever kills wants an end, and on cgroups v1 it comes only when the freeze ends.
            cgroup::thaw(&container.cgroups);
        }
        Ok(())
    }

    /// Removes the container from its runtime. With `is_forced` what runs is killed first.
    pub(crate) async fn delete(&self, is_forced: bool) -> Result<Exit> {
        let _step = self.step.lock().await;
        if self.pending.borrow().is_some() {
            return self.forget_pending().await;
        }
        let container = self.container()?;
        cgroup::guard(&container.cgroups)?;
        let init = &container.init;
        failpoint::at("delete:asked");
        if init.exit().is_none() {
            if !is_forced && init.is_started.get() {
                return Err(Error::precondition(
                    "the task runs; kill it first, or delete it with --force",
                ));
            }
            // It may end by itself just now.
            let _ = init.signal(Signal::KILL);
        }
        // What is frozen does not die of a signal on cgroups v1.
        cgroup::thaw(&container.cgroups);
        let exit = init.wait().await;
        if !is_forced {
            init.wait_for_readers().await;
        }
        // Without a pid namespace of their own, other processes have not ended with init.
        cgroup::signal_all(&container.cgroups, Signal::KILL);
        failpoint::at("delete:ended");
        container.runtime.run(&self.reaper, "delete", &["--force"], None).await?;
        failpoint::at("delete:run");
        self.note(Entry::Deleted)?;
        failpoint::at("delete:noted");
        self.container.replace(None);
        self.execs.borrow_mut().clear();
        self.ended_execs.borrow_mut().clear();
        self.done.notify_one();
        Ok(exit)
    }
}
