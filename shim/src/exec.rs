//! Execs: additional processes in the container.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use capstan_schema::{Error, Result};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::create::read_pid;
use crate::failpoint;
use crate::process::{Exit, Process};
use crate::reap::Moment;
use crate::record::now_unix_ns;
use crate::stdio::{Streams, Wish};
use crate::task::Task;
use crate::terminal::{ConsoleSocket, Terminal};

/// Execs that have ended and that nobody has deleted: the oldest of more are forgotten. Who wants to know how one
/// ended waits for it, and a detached one has nobody.
const ENDED: usize = 128;

/// A process that is ready to run, runs, or ran.
pub(crate) struct Exec {
    id: String,
    /// Taken when it starts.
    process_json: RefCell<Vec<u8>>,
    has_terminal: bool,
    /// Taken when it starts.
    streams: RefCell<Option<Streams>>,
    /// Told once it runs, to those that wait for its end already.
    pub(crate) process: watch::Sender<Option<Rc<Process>>>,
}

impl Task {
    /// Readies an exec: its streams are there when this returns.
    pub(crate) fn prepare_exec(
        &self,
        id: &str,
        process_json: Vec<u8>,
        wish: &Wish,
        has_terminal: bool,
    ) -> Result<()> {
        let container = self.container()?;
        if !container.init.is_started.get() || container.init.exit().is_some() {
            return Err(Error::precondition("the container does not run"));
        }
        // The id becomes a file name: the daemon has checked it, and so do we.
        if id.is_empty() || id == "init" || id.contains('/') || id.starts_with('.') {
            return Err(Error::invalid(format!("exec id {id:?}: use letters, digits and dashes")));
        }
        if self.execs.borrow().contains_key(id) {
            return Err(Error::already_exists(format!("the task has an exec {id:?}")));
        }
        let streams = Streams::make(&self.dir, id, wish, has_terminal)?;
        let exec = Exec {
            id: id.to_owned(),
            process_json: RefCell::new(process_json),
            has_terminal,
            streams: RefCell::new(Some(streams)),
            process: watch::Sender::new(None),
        };
        self.execs.borrow_mut().insert(id.to_owned(), Rc::new(exec));
        Ok(())
    }

    /// Runs a readied exec; answers its number. After an error it is forgotten.
    pub(crate) async fn start_exec(self: &Rc<Self>, id: &str) -> Result<u32> {
        let exec = self.exec(id)?;
        let twice = || Error::precondition(format!("exec {id:?} was started before"));
        let streams = exec.streams.take().ok_or_else(twice)?;
        let started = self.try_start_exec(&exec, streams).await;
        if started.is_err() {
            self.execs.borrow_mut().remove(id);
        }
        started
    }

    async fn try_start_exec(self: &Rc<Self>, exec: &Rc<Exec>, mut streams: Streams) -> Result<u32> {
        let container = self.container()?;
        // Runtimes log and leave files under one name: one exec starts at a time.
        let _step = self.step.lock().await;
        let file = |kind: &str| format!("exec-{}.{kind}", exec.id);
        let (spec, pid_file) = (file("json"), file("pid"));
        fs::write(&spec, exec.process_json.take())
            .map_err(|error| Error::io(format!("write {spec}"), error))?;
        let console = match exec.has_terminal {
            true => Some(ConsoleSocket::listen(file("sock"))?),
            false => None,
        };
        let mut args = vec!["--detach", "--process", &spec, "--pid-file", &pid_file];
        if let Some(console) = &console {
            args.extend(["--console-socket", console.name()]);
        }
        let ends = streams.ends.take();
        failpoint::at("exec:ready");
        let since = self.reaper.now();
        let ran = container.runtime.run(&self.reaper, "exec", &args, ends).await;
        failpoint::at("exec:run");
        let pid = ran.and_then(|()| read_pid(&pid_file));
        for left in [&spec, &pid_file] {
            let _ = fs::remove_file(left);
        }
        let pid = pid?;
        let ends = streams.terminal.take();
        let process = Process::new(pid, streams, None);
        process.is_started.set(true);
        if let (Some(console), Some(ends)) = (console, ends) {
            let terminal = console.take().and_then(|master| Terminal::attach(master, ends));
            match terminal {
                Ok(terminal) => drop(process.terminal.replace(Some(terminal))),
                Err(error) => {
                    // It runs by now, and nobody would ever hear of it. It may have ended: that is as good.
                    let _ = process.signal(Signal::KILL);
                    return Err(error);
                }
            }
        }
        exec.process.send_replace(Some(Rc::clone(&process)));
        self.watch_exec(exec, &process, since);
        Ok(pid)
    }

    /// Waits until an exec has ended, and before that until it is started.
    ///
    /// # Errors
    /// `NotFound`: there is none, or it is forgotten without having run.
    pub(crate) async fn wait_exec(&self, id: &str) -> Result<Exit> {
        let mut started = self.exec(id)?.process.subscribe();
        let process = match started.wait_for(Option::is_some).await {
            Ok(process) => process.clone().expect("it was waited for"),
            Err(_) => return Err(Error::not_found(format!("exec {id:?} never ran"))),
        };
        Ok(process.wait().await)
    }

    fn watch_exec(self: &Rc<Self>, exec: &Rc<Exec>, process: &Rc<Process>, since: Moment) {
        let ended = self.reaper.ended(process.pid, since);
        let (task, exec, process) = (Rc::clone(self), Rc::clone(exec), Rc::clone(process));
        tokio::task::spawn_local(async move {
            let status = ended.await.unwrap_or(255);
            process.finish_streams().await;
            failpoint::at("exec:ended");
            process.set_exit(Exit { status, at_unix_ns: now_unix_ns() });
            task.keep_ended(exec);
        });
    }

    /// Keeps an exec that has ended until it is deleted, or until there are too many.
    fn keep_ended(&self, exec: Rc<Exec>) {
        let mut execs = self.execs.borrow_mut();
        let mut ended = self.ended_execs.borrow_mut();
        // Those that were deleted are not there any more, or another one has the name.
        let is_kept =
            |exec: &Rc<Exec>| execs.get(&exec.id).is_some_and(|one| Rc::ptr_eq(one, exec));
        ended.retain(is_kept);
        if is_kept(&exec) {
            ended.push_back(exec);
        }
        while ended.len() > ENDED {
            let oldest = ended.pop_front().expect("there are too many");
            execs.remove(&oldest.id);
        }
    }

    /// Forgets an exec; answers how it ended, if it ever ran.
    pub(crate) fn delete_exec(&self, id: &str) -> Result<Option<Exit>> {
        let exec = self.exec(id)?;
        let process = exec.process.borrow().clone();
        let exit =
            match &process {
                None if exec.streams.borrow().is_none() => {
                    return Err(Error::precondition(format!("exec {id:?} is being started")));
                }
                None => None,
                Some(process) => Some(process.exit().ok_or_else(|| {
                    Error::precondition(format!("exec {id:?} runs; kill it first"))
                })?),
            };
        self.execs.borrow_mut().remove(id);
        self.ended_execs.borrow_mut().retain(|ended| !Rc::ptr_eq(ended, &exec));
        Ok(exit)
    }
}
