//! The plugin.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::metrics::Sample;
use capstan_sdk::contract::runtime::{
    Checkpoint, CloseStdin, Create, Delete, DeleteExec, Exec, Exit, Inspect, Kill, List, LogPiece,
    Measure, Pause, ProcessInfo, Processes, ReadLog, Resize, Restore, Resume, RuntimeAddr, Start,
    StartExec, Status, Stdio, StdioPaths, TaskInfo, TaskKey, Update, Wait, no_such_task,
};
use capstan_sdk::contract::{Events, Runtime};
use capstan_sdk::mount::RawMount;
use capstan_sdk::{Class, Context, Error, Exports, Info, Plugin, Result, clock, export_plugin};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::EMBEDDED;
use crate::failure::classify;
use crate::launch::{self, Dirs};
use crate::publish::Publisher;
use crate::record::TaskRecord;
use crate::recover::{self, Found};
use crate::shim::{CreateParams, DUMP, FAREWELL, PATIENT, Shim};
use crate::task::Task;
use crate::{Config, checkpoint};

/// runtime.linux.
pub struct LinuxRuntime {
    shared: Rc<Shared>,
    found: Vec<Found>,
    publishing: Option<std::pin::Pin<Box<dyn Future<Output = ()>>>>,
}

impl std::fmt::Debug for LinuxRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinuxRuntime")
    }
}

export_plugin!(LinuxRuntime);

/// What calls work with.
pub(crate) struct Shared {
    pub(crate) config: Config,
    dirs: Dirs,
    pub(crate) publisher: Publisher,
    /// `None` while a task is being made: the name is taken already.
    tasks: RefCell<HashMap<TaskKey, Option<Rc<Task>>>>,
    /// The commands of execs that are ready and not started, for errors.
    exec_commands: RefCell<HashMap<(TaskKey, String), String>>,
    /// Cgroups above those of containers, to be removed when they are empty.
    cgroup_parents: RefCell<BTreeSet<PathBuf>>,
}

impl Plugin for LinuxRuntime {
    const INFO: Info = Info {
        id: "runtime.linux",
        version: env!("CARGO_PKG_VERSION"),
        about: "a shim behind each task, and an OCI runtime behind each shim",
        requires: &["events"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        config.check()?;
        config.shim()?;
        let dirs = Dirs::open(context.state_dir()?)?;
        let (publisher, publishing) = Publisher::new(context.link::<Events>()?);
        let found = recover::all(&dirs).await?;
        let shared = Rc::new(Shared {
            config,
            dirs,
            publisher,
            tasks: RefCell::default(),
            exec_commands: RefCell::default(),
            cgroup_parents: RefCell::default(),
        });
        Ok(Self { shared, found, publishing: Some(Box::pin(publishing)) })
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        exports.contract::<Runtime>(RuntimeAddr::from(addr));
        let addr = addr.clone();
        exports.drain(move || {
            let flushed = addr.send(Flush);
            async move {
                // It fails only if the actor has ended already.
                let _ = flushed.await;
                Ok(Vec::new())
            }
        });
    }
}

/// Answers when all that was told of tasks is in the event log.
#[derive(Debug)]
struct Flush;

impl actix::Message for Flush {
    type Result = ();
}

impl Handler<Flush> for LinuxRuntime {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: Flush, _: &mut Cell<Self>) -> Self::Result {
        let publisher = self.shared.publisher.clone();
        Box::pin(async move { publisher.flush().await })
    }
}

impl Actor for LinuxRuntime {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        if let Some(publishing) = self.publishing.take() {
            cell.spawn(publishing.into_actor(self));
        }
        for found in self.found.drain(..) {
            self.shared.adopt(found);
        }
    }
}

impl Drop for Shared {
    /// Cgroups that were only there to hold containers go with the last of them.
    fn drop(&mut self) {
        for parent in self.cgroup_parents.borrow().iter().rev() {
            // It fails where something is left inside, and then it must stay.
            let _ = std::fs::remove_dir(parent);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and references")]
pub(crate) fn field(name: &'static str, value: impl ToString) -> (&'static str, String) {
    (name, value.to_string())
}

impl Shared {
    pub(crate) fn find(&self, key: &TaskKey) -> Result<Rc<Task>> {
        let tasks = self.tasks.borrow();
        match tasks.get(key) {
            Some(Some(task)) => Ok(Rc::clone(task)),
            Some(None) => Err(Error::unavailable(format!(
                "the task of container {} is just being created; try again",
                key.id
            ))),
            None => Err(no_such_task(key)),
        }
    }

    /// Takes a task of an earlier daemon over.
    fn adopt(self: &Rc<Self>, found: Found) {
        let Found { task, hangup, is_orphan, cgroups, is_starting } = found;
        task.set_runtime(self.config.name_of(&task.info().runtime));
        info!(task = %task.key, status = task.info().status.name(), "found");
        self.remember_cgroups(&cgroups);
        self.tasks.borrow_mut().insert(task.key.clone(), Some(Rc::clone(&task)));
        if task.exit().is_some() {
            self.tell_exit(&task);
        }
        if let Some(hangup) = hangup {
            self.watch(&task, hangup);
        }
        if is_starting {
            let (shared, task) = (Rc::clone(self), Rc::clone(&task));
            actix::spawn(async move { shared.see_start(&task).await });
        }
        if is_orphan {
            let shared = Rc::clone(self);
            actix::spawn(async move { shared.end_without_shim(&task).await });
        }
    }

    pub(crate) fn remember_cgroups(&self, cgroups: &[String]) {
        let mut parents = self.cgroup_parents.borrow_mut();
        for dir in cgroups {
            // `<parent>/<namespace>/<id>`: the two above the container's own.
            parents.extend(Path::new(dir).ancestors().skip(1).take(2).map(Path::to_owned));
        }
    }

    /// Follows a task to its end: the container's, and the shim's.
    fn watch(self: &Rc<Self>, task: &Rc<Task>, hangup: JoinHandle<()>) {
        let (shared, watched) = (Rc::clone(self), Rc::clone(task));
        if task.exit().is_none()
            && let Ok(shim) = task.shim()
        {
            actix::spawn(async move {
                if let Ok(exit) = shared.follow(&watched, &shim).await
                    && watched.set_exit(&exit)
                {
                    // A start that is under way is told first, however soon the end came.
                    let _step = watched.step.lock().await;
                    shared.tell_exit(&watched);
                }
            });
        }
        let (shared, watched) = (Rc::clone(self), Rc::clone(task));
        actix::spawn(async move {
            let _ = hangup.await;
            watched.set_gone();
            if !watched.is_going.get() {
                shared.lost(&watched).await;
            }
        });
    }

    /// Waits for the end of init. A task that was found half made is waited for until it is whole.
    async fn follow(&self, task: &Task, shim: &Shim) -> Result<Exit> {
        loop {
            match shim.wait("").await {
                Err(error) if error.class() == Class::FailedPrecondition => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if task.hangup.borrow().to_owned() {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn tell_exit(&self, task: &Rc<Task>) {
        let Some(exit) = task.untold_exit() else { return };
        info!(task = %task.key, status = exit.status, lost = exit.lost, "exited");
        let mut fields = vec![field("pid", task.info().pid), field("exitStatus", exit.status)];
        if !exit.lost.is_empty() {
            fields.push(field("lost", &exit.lost));
        }
        self.publisher.tell_exit(task, &fields);
    }

    /// A shim hung up that was not told to go.
    async fn lost(&self, task: &Rc<Task>) {
        let dir = task.dir.clone();
        let record = TaskRecord::read(&dir).unwrap_or_default();
        if record.created.is_none() || record.is_deleted {
            // Nothing came of it, and it has ended as it should.
            self.forget(task).await;
            return;
        }
        let exit = match record.exited {
            Some((status, at_unix_ns)) => Exit::new(status, at_unix_ns),
            None => {
                warn!(task = %task.key, "its shim is gone; the container is ended");
                Exit::lost("its shim ended before the container did")
            }
        };
        if task.set_exit(&exit) {
            self.tell_exit(task);
        }
        self.end_without_shim(task).await;
    }

    /// Ends what is left of a container that has no shim, by its runtime.
    async fn end_without_shim(&self, task: &Task) {
        let record = TaskRecord::read(&task.dir).unwrap_or_default();
        let Some(created) = record.created else { return };
        let mut command = tokio::process::Command::new(&created.runtime);
        command
            .args(["--root", &created.runtime_root, "delete", "--force", task.key.id.as_str()])
            .stdin(ProcessStdio::null())
            .stdout(ProcessStdio::null())
            .stderr(ProcessStdio::null())
            .kill_on_drop(true);
        match tokio::time::timeout(PATIENT, command.status()).await {
            Ok(Ok(status)) if status.success() => {}
            outcome => warn!(task = %task.key, ?outcome, "what is left of it could not be ended"),
        }
        if created.pid == 0 {
            // In the middle of a restore: the runtime did not get to know the container.
            checkpoint::end_unfinished(&task.dir).await;
        }
    }

    /// Removes a task from the table and from disk.
    async fn forget(&self, task: &Task) {
        if let Err(error) = launch::remove(task.dir.clone()).await {
            warn!(task = %task.key, %error, "its directory is left; the next start removes it");
        }
        self.tasks.borrow_mut().remove(&task.key);
    }

    /// Makes a task; with a `checkpoint`, one that `start` restores from that directory.
    pub(crate) async fn create(
        self: Rc<Self>,
        mut create: Create,
        checkpoint: &str,
    ) -> Result<TaskInfo> {
        if create.runtime.is_empty() {
            create.runtime = EMBEDDED.into();
        }
        let key = create.key.clone();
        checkpoint::check_cgroup(&create.spec, !checkpoint.is_empty())?;
        let (runtime, is_systemd_cgroup) = self.config.runtime(&create.runtime)?;
        let rootfs: Vec<RawMount> =
            create.rootfs.iter().map(RawMount::parse).collect::<Result<_>>()?;
        {
            let mut tasks = self.tasks.borrow_mut();
            if tasks.contains_key(&key) {
                return Err(Error::already_exists(format!(
                    "container {} has a task; delete that first (capstan tasks delete {})",
                    key.id, key.id
                )));
            }
            tasks.insert(key.clone(), None);
        }
        let made = self.make(&create, &runtime, is_systemd_cgroup, &rootfs, checkpoint).await;
        match made {
            Ok(task) => {
                let info = task.info();
                self.tasks.borrow_mut().insert(key.clone(), Some(task));
                let fields = [field("pid", info.pid), field("runtime", &info.runtime)];
                self.publisher.tell(&key, "/tasks/create", &fields);
                Ok(info)
            }
            Err(error) => {
                if let Err(error) = launch::remove(self.dirs.task(&key)).await {
                    warn!(task = %key, %error, "its directory is left; the next start removes it");
                }
                self.tasks.borrow_mut().remove(&key);
                Err(error)
            }
        }
    }

    async fn make(
        self: &Rc<Self>,
        create: &Create,
        runtime: &Path,
        is_systemd_cgroup: bool,
        rootfs: &[RawMount],
        checkpoint: &str,
    ) -> Result<Rc<Task>> {
        let key = &create.key;
        let shim = self.config.shim()?;
        let launched =
            launch::launch(shim, self.dirs.clone(), key.clone(), Arc::clone(&create.spec)).await;
        let (mut child, stream) = launched?;
        let shim_pid = child.id().unwrap_or(0);
        let (shim, hangup) = Shim::new(stream);
        // A child that has ended must be waited for, or it stays in the list of processes.
        let ended = actix::spawn(async move {
            let _ = child.wait().await;
        });
        let command = recover::command(&create.spec);
        let runtime_root = self.dirs.runtime_root(&key.namespace);
        let name = runtime.file_name().unwrap_or_default().to_string_lossy();
        let created = shim
            .create(&CreateParams {
                id: key.id.as_str(),
                runtime: &runtime.to_string_lossy(),
                runtime_root: &runtime_root.to_string_lossy(),
                is_systemd_cgroup,
                rootfs,
                stdio: &create.stdio,
                has_terminal: create.has_terminal,
                is_unified_hidden: name.contains("crun") && launch::is_hybrid(),
                checkpoint,
                criu: &self.config.criu.to_string_lossy(),
            })
            .await;
        let pid = match created {
            Ok(pid) => pid,
            Err(error) => {
                // With nobody connected and nothing made it ends by itself.
                drop(shim);
                hangup.abort();
                let _ = tokio::time::timeout(FAREWELL, ended).await;
                return Err(classify(error, &command));
            }
        };
        let dir = self.dirs.task(key);
        let record = TaskRecord::read(&dir)?;
        let created = record.created.unwrap_or_default();
        self.remember_cgroups(&created.cgroups);
        let info = TaskInfo {
            key: key.clone(),
            pid,
            status: Status::Created,
            exit: None,
            stdio: created.stdio,
            has_terminal: create.has_terminal,
            created_at_unix_ns: created.at_unix_ns,
            started_at_unix_ns: 0,
            shim_pid,
            runtime: create.runtime.clone(),
            restarts: 0,
        };
        let task = Task::new(dir, command, info, Some(shim));
        self.watch(&task, hangup);
        Ok(task)
    }

    async fn start(self: Rc<Self>, key: TaskKey) -> Result<u32> {
        let task = self.find(&key)?;
        let _step = task.step.lock().await;
        if task.info().started_at_unix_ns > 0 || task.exit().is_some() {
            return Err(Error::precondition(format!("container {} was started before", key.id)));
        }
        let is_restored = task.info().pid == 0;
        let deadline = if is_restored { DUMP } else { PATIENT };
        let started = task.shim()?.start(deadline).await;
        let pid = started.map_err(|error| classify(error, &task.command))?;
        if is_restored {
            // Only now it has cgroups.
            let record = TaskRecord::read(&task.dir)?;
            self.remember_cgroups(&record.created.unwrap_or_default().cgroups);
        }
        task.set_running(pid, clock::now_unix_ns());
        self.publisher.tell(&key, "/tasks/start", &[field("pid", pid)]);
        Ok(pid)
    }

    async fn wait(self: Rc<Self>, wait: Wait) -> Result<Exit> {
        let task = self.find(&wait.key)?;
        if wait.exec_id.is_empty() {
            return Ok(task.wait().await);
        }
        task.shim()?.wait(&wait.exec_id).await
    }

    async fn delete(self: Rc<Self>, delete: Delete) -> Result<Exit> {
        let key = delete.key;
        let task = self.find(&key)?;
        let _step = task.step.lock().await;
        // Whoever waited for the step may find the task deleted.
        self.find(&key)?;
        let exit = if task.has_shim() {
            task.is_going.set(true);
            let shim = task.shim()?;
            match shim.delete(delete.is_forced).await {
                Ok(exit) => {
                    task.set_exit(&exit);
                    if let Err(error) = shim.dismiss(task.info().shim_pid).await {
                        warn!(task = %key, %error, "the task is deleted");
                    }
                    exit
                }
                // It went away meanwhile: what its record says counts.
                Err(error) if error.class() == Class::Unavailable && !task.has_shim() => {
                    task.is_going.set(false);
                    self.lost(&task).await;
                    task.exit().ok_or(error)?
                }
                Err(error) => {
                    task.is_going.set(false);
                    return Err(match error.class() {
                        Class::FailedPrecondition => running(&key),
                        _ => classify(error, &task.command),
                    });
                }
            }
        } else {
            self.end_without_shim(&task).await;
            task.exit().unwrap_or_else(|| Exit::lost("not known"))
        };
        self.tell_exit(&task);
        self.forget(&task).await;
        self.publisher.tell(&key, "/tasks/delete", &[field("exitStatus", exit.status)]);
        Ok(exit)
    }

    async fn exec(self: Rc<Self>, exec: Exec) -> Result<StdioPaths> {
        let task = self.find(&exec.key)?;
        if task.info().status != Status::Running {
            return Err(Error::precondition(format!("container {} does not run", exec.key.id)));
        }
        task.shim()?.exec(&exec.exec_id, &exec.process, &exec.stdio, exec.has_terminal).await?;
        let fields = [field("execId", &exec.exec_id)];
        self.publisher.tell(&exec.key, "/tasks/exec-added", &fields);
        Ok(match exec.stdio {
            Stdio::Fifos { has_stdin } => {
                task.exec_paths(&exec.exec_id, has_stdin, exec.has_terminal)
            }
            Stdio::Null | Stdio::Kept { .. } => StdioPaths::default(),
        })
    }

    async fn start_exec(self: Rc<Self>, start: StartExec, command: String) -> Result<u32> {
        let task = self.find(&start.key)?;
        let shim = task.shim()?;
        let pid =
            shim.start_exec(&start.exec_id).await.map_err(|error| classify(error, &command))?;
        let fields = [field("execId", &start.exec_id), field("pid", pid)];
        self.publisher.tell(&start.key, "/tasks/exec-started", &fields);
        let (shared, key, exec_id) = (Rc::clone(&self), start.key, start.exec_id);
        actix::spawn(async move {
            if let Ok(exit) = shim.wait(&exec_id).await {
                let fields = [
                    field("execId", &exec_id),
                    field("pid", pid),
                    field("exitStatus", exit.status),
                ];
                shared.publisher.tell(&key, "/tasks/exec-exit", &fields);
            }
        });
        Ok(pid)
    }

    async fn delete_exec(self: Rc<Self>, delete: DeleteExec) -> Result<Exit> {
        let task = self.find(&delete.key)?;
        let exit = task.shim()?.delete_exec(&delete.exec_id).await?;
        Ok(exit.unwrap_or_else(|| Exit::lost("it was never started")))
    }
}

fn running(key: &TaskKey) -> Error {
    Error::precondition(format!(
        "container {} runs; kill it first (capstan tasks kill {}), or use --force",
        key.id, key.id
    ))
}

macro_rules! handlers {
    ($($message:ty => $reply:ty, |$shared:ident, $value:ident| $work:expr;)*) => {$(
        impl Handler<$message> for LinuxRuntime {
            type Result = ResponseFuture<Result<$reply>>;
            fn handle(&mut self, $value: $message, _: &mut Cell<Self>) -> Self::Result {
                let $shared = Rc::clone(&self.shared);
                Box::pin(async move { $work })
            }
        }
    )*};
}

handlers! {
    Create => TaskInfo, |shared, create| shared.create(create, "").await;
    Start => u32, |shared, start| shared.start(start.0).await;
    Wait => Exit, |shared, wait| shared.wait(wait).await;
    Delete => Exit, |shared, delete| shared.delete(delete).await;
    Exec => StdioPaths, |shared, exec| {
        let command = recover::process_command(&exec.process);
        let key = (exec.key.clone(), exec.exec_id.clone());
        let paths = Rc::clone(&shared).exec(exec).await?;
        shared.exec_commands.borrow_mut().insert(key, command);
        Ok(paths)
    };
    StartExec => u32, |shared, start| {
        let key = (start.key.clone(), start.exec_id.clone());
        let command = shared.exec_commands.borrow_mut().remove(&key).unwrap_or_default();
        shared.start_exec(start, command).await
    };
    DeleteExec => Exit, |shared, delete| shared.delete_exec(delete).await;
    Kill => (), |shared, kill| {
        let task = shared.find(&kill.key)?;
        if kill.exec_id.is_empty() && task.exit().is_some() {
            return Err(Error::precondition(format!("container {} has ended", kill.key.id)));
        }
        task.shim()?.kill(&kill.exec_id, kill.signal, kill.is_to_all).await
    };
    Processes => Vec<ProcessInfo>, |shared, processes| {
        let task = shared.find(&processes.0)?;
        if task.exit().is_some() {
            return Ok(Vec::new());
        }
        task.shim()?.processes().await
    };
    Resize => (), |shared, resize| {
        shared.find(&resize.key)?.shim()?.resize(&resize.exec_id, resize.columns, resize.rows).await
    };
    Pause => (), |_shared, _pause| Err(Error::unimplemented("pause"));
    Resume => (), |_shared, _resume| Err(Error::unimplemented("resume"));
    Update => (), |_shared, _update| Err(Error::unimplemented("update"));
    Measure => Vec<Sample>, |_shared, _measure| Err(Error::unimplemented("metrics"));
    Checkpoint => (), |shared, checkpoint| shared.checkpoint(checkpoint).await;
    Restore => TaskInfo, |shared, restore| shared.restore(restore).await;
    ReadLog => LogPiece, |_shared, _read| Err(Error::unimplemented("logs"));
    CloseStdin => (), |shared, close| {
        shared.find(&close.key)?.shim()?.close_stdin(&close.exec_id).await
    };
}

impl Handler<Inspect> for LinuxRuntime {
    type Result = Result<TaskInfo>;
    fn handle(&mut self, Inspect(key): Inspect, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.shared.find(&key)?.info())
    }
}

impl Handler<List> for LinuxRuntime {
    type Result = Result<Vec<TaskInfo>>;
    fn handle(&mut self, List(namespace): List, _: &mut Cell<Self>) -> Self::Result {
        let tasks = self.shared.tasks.borrow();
        let is_wanted = |key: &TaskKey| namespace.as_ref().is_none_or(|n| key.namespace == *n);
        let mut list: Vec<TaskInfo> = tasks
            .values()
            .flatten()
            .filter(|task| is_wanted(&task.key))
            .map(|task| task.info())
            .collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(list)
    }
}
