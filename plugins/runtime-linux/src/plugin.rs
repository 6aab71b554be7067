//! The plugin.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::metrics::Sample;
use capstan_sdk::contract::runtime::{
    Checkpoint, CloseStdin, Create, Delete, DeleteExec, Exec, Exit, Inspect, Kill, List, LogPiece,
    Measure, Pause, ProcessInfo, Processes, ReadLog, Resize, Restore, Resume, RuntimeAddr, Start,
    StartExec, Status, StdioPaths, TaskInfo, TaskKey, Update, Wait, no_such_task,
};
use capstan_sdk::contract::{Events, Runtime};
use capstan_sdk::mount::RawMount;
use capstan_sdk::{
    Class, Context, Error, Exports, Info, Plugin, Result, blocking, clock, export_plugin,
};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::cgroup::{self, Hub};
use crate::config::EMBEDDED;
use crate::failpoint;
use crate::failure::classify;
use crate::launch::{self, Dirs};
use crate::live::not_in_state;
use crate::logs::Logs;
use crate::publish::Publisher;
use crate::record::TaskRecord;
use crate::recover::{self, Found, Left};
use crate::remains;
use crate::settle::{Name, Table, unsettled};
use crate::shim::{CreateParams, DUMP, FAREWELL, PATIENT, Shim};
use crate::task::Task;
use crate::userns;
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

/// How long a shim may take to answer before a forced delete ends it.
const HUNG: Duration = Duration::from_secs(5);

/// What calls work with.
pub(crate) struct Shared {
    pub(crate) config: Config,
    dirs: Dirs,
    logs: Logs,
    pub(crate) publisher: Publisher,
    tasks: Table,
    /// The commands of execs that are ready and not started, for errors.
    exec_commands: RefCell<HashMap<(TaskKey, String), String>>,
    /// Cgroups above those of containers, to be removed when they are empty.
    cgroup_parents: RefCell<BTreeSet<PathBuf>>,
    /// What wakes us when a container's memory runs out.
    oom: Rc<Hub>,
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
        let logs = Logs::new(&context.root_dir()?);
        logs.sweep(|namespace, id| {
            let is_it =
                |key: &TaskKey| key.namespace.as_str() == namespace && key.id.as_str() == id;
            found.iter().any(|found| is_it(&found.task.key))
        })?;
        let shared = Rc::new(Shared {
            config,
            dirs,
            logs,
            publisher,
            tasks: Table::default(),
            exec_commands: RefCell::default(),
            cgroup_parents: RefCell::default(),
            oom: Rc::default(),
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
        match self.tasks.get(key) {
            Name::Task(task) => Ok(task),
            Name::Unsettled => Err(unsettled(key)),
            Name::Free => Err(no_such_task(key)),
        }
    }

    /// Takes a task of an earlier daemon over.
    fn adopt(self: &Rc<Self>, found: Found) {
        let Found { task, hangup, left, cgroups, is_starting } = found;
        match left {
            Left::Whole | Left::Orphan => {}
            Left::Half => {
                self.tasks.reserve(&task.key);
                let shared = Rc::clone(self);
                actix::spawn(async move { shared.complete(&task).await });
                return;
            }
            Left::Deleted => {
                self.tasks.reserve(&task.key);
                let shared = Rc::clone(self);
                actix::spawn(async move { shared.finish_delete(&task).await });
                return;
            }
        }
        task.set_runtime(self.config.name_of(&task.info().runtime));
        info!(task = %task.key, status = task.info().status.name(), "found");
        self.remember_cgroups(&cgroups);
        self.tasks.insert(Rc::clone(&task));
        if task.exit().is_some() {
            cgroup::tell(&task, &self.publisher);
            self.tell_exit(&task);
        }
        if let Some(hangup) = hangup {
            self.watch(&task, hangup);
        }
        if is_starting {
            let (shared, task) = (Rc::clone(self), Rc::clone(&task));
            actix::spawn(async move { shared.see_start(&task).await });
        }
        if task.info().status == Status::Pausing {
            let (shared, task) = (Rc::clone(self), Rc::clone(&task));
            actix::spawn(async move { shared.see_pause(&task).await });
        }
        if left == Left::Orphan {
            let shared = Rc::clone(self);
            actix::spawn(async move {
                let _step = task.step.lock().await;
                shared.conclude(&task).await;
            });
        }
    }

    /// Waits for a create of an earlier daemon to come to its end, whatever that is.
    async fn complete(self: &Rc<Self>, task: &Rc<Task>) {
        let key = &task.key;
        if let Some(found) = recover::completed(&self.dirs, key).await {
            info!(task = %key, "its create has come to its end");
            return self.adopt(found);
        }
        info!(task = %key, "what was left of a task that was never whole is removed");
        self.end_without_shim(task).await;
        self.forget(task).await;
    }

    /// Tells what an earlier daemon did not live to tell of a task that it deleted, and removes it.
    async fn finish_delete(&self, task: &Rc<Task>) {
        info!(task = %task.key, "what was left of a task that was deleted is removed");
        self.end_without_shim(task).await;
        task.is_going.set(true);
        self.tell_exit(task);
        self.forget(task).await;
        let status = task.exit().map_or(255, |exit| exit.status);
        self.publisher.tell(&task.key, "/tasks/delete", &[field("exitStatus", status)]);
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
        cgroup::follow(task, &self.publisher, &self.oom);
        let (shared, watched) = (Rc::clone(self), Rc::clone(task));
        if task.exit().is_none()
            && let Ok(shim) = task.shim()
        {
            actix::spawn(async move {
                let Ok(exit) = shared.follow(&watched, &shim).await else { return };
                cgroup::look(&watched).await;
                if watched.set_exit(&exit) {
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
                let _step = watched.step.lock().await;
                shared.conclude(&watched).await;
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
        cgroup::tell(task, &self.publisher);
        info!(task = %task.key, status = exit.status, lost = exit.lost, "exited");
        let mut fields = vec![field("pid", task.info().pid), field("exitStatus", exit.status)];
        if !exit.lost.is_empty() {
            fields.push(field("lost", &exit.lost));
        }
        self.publisher.tell_exit(task, &fields);
    }

    /// A shim is gone that was not told to go: what it leaves is ended first, and told then.
    async fn conclude(&self, task: &Rc<Task>) {
        let record = TaskRecord::read(&task.dir).unwrap_or_default();
        if record.exited.is_none() {
            warn!(task = %task.key, "its shim is gone; the container is ended");
        }
        self.end_without_shim(task).await;
        let exit = match record.exited {
            Some((status, at_unix_ns)) => Exit::new(status, at_unix_ns),
            None => recover::lost(&record),
        };
        cgroup::look(task).await;
        if task.set_exit(&exit) {
            self.tell_exit(task);
        }
    }

    /// Ends what is left of a container that has no shim.
    async fn end_without_shim(&self, task: &Task) {
        if let Err(error) = remains::end(&task.dir, &task.key).await {
            warn!(task = %task.key, %error, "what is left of it could not be ended");
        }
    }

    /// Ends a shim that does not answer, and what it looked after: whoever forces a delete wants that.
    async fn end_hung_shim(&self, task: &Rc<Task>) -> Result<()> {
        let Ok(shim) = task.shim() else { return Ok(()) };
        if shim.state(HUNG).await.is_ok() {
            return Ok(());
        }
        warn!(task = %task.key, "its shim does not answer, and is ended with the container");
        // That it hangs up is no news then.
        task.is_going.set(true);
        let mut hangup = task.hangup.subscribe();
        remains::end(&task.dir, &task.key).await?;
        let _ = tokio::time::timeout(HUNG, hangup.wait_for(|is_gone| *is_gone)).await;
        Ok(())
    }

    /// Removes a task from the table and from disk.
    async fn forget(&self, task: &Task) {
        if let Err(error) = launch::remove(task.dir.clone()).await {
            warn!(task = %task.key, %error, "its directory is left; the next start removes it");
        }
        self.exec_commands.borrow_mut().retain(|(key, _), _| *key != task.key);
        self.tasks.remove(&task.key);
    }

    async fn remove_logs(&self, key: &TaskKey) {
        let (logs, removed) = (self.logs.clone(), key.clone());
        let work = blocking::run("remove a task's logs", move || logs.remove(&removed));
        if let Err(error) = work.await {
            warn!(task = %key, %error, "its log is left; the next start removes it");
        }
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
        // What is no JSON is for the runtime to refuse.
        let spec: serde_json::Value = serde_json::from_slice(&create.spec).unwrap_or_default();
        checkpoint::check_cgroup(&spec, !checkpoint.is_empty())?;
        let command = recover::command(&spec);
        let (runtime, is_systemd_cgroup) = self.config.runtime(&create.runtime)?;
        let rootfs: Vec<RawMount> =
            create.rootfs.iter().map(RawMount::parse).collect::<Result<_>>()?;
        self.tasks.settle(&key).await?;
        match self.tasks.get(&key) {
            Name::Free => self.tasks.reserve(&key),
            Name::Task(_) | Name::Unsettled => {
                return Err(Error::already_exists(format!(
                    "container {} has a task; delete that first (capstan tasks delete {})",
                    key.id, key.id
                )));
            }
        }
        let is_log_new = match self.logs.place(&key, "init", &mut create.stdio) {
            Ok(is_new) => is_new,
            Err(error) => {
                self.tasks.remove(&key);
                return Err(error);
            }
        };
        let made =
            self.make(&create, command, &runtime, is_systemd_cgroup, &rootfs, checkpoint).await;
        match made {
            Ok(task) => {
                let info = task.info();
                self.tasks.insert(task);
                failpoint::at(&self.dirs.tasks(), &key, "daemon:listed");
                let fields = [field("pid", info.pid), field("runtime", &info.runtime)];
                self.publisher.tell(&key, "/tasks/create", &fields);
                Ok(info)
            }
            Err(error) => {
                // The runtime may have made them for the container that came to nothing.
                let parents = cgroup::parents_in_spec(&create.spec);
                self.cgroup_parents.borrow_mut().extend(parents);
                if error.class() == Class::Unavailable {
                    // Its shim was killed, or hangs.
                    if let Err(error) = remains::end(&self.dirs.task(&key), &key).await {
                        warn!(task = %key, %error, "what is left of it could not be ended");
                    }
                }
                if let Err(error) = launch::remove(self.dirs.task(&key)).await {
                    warn!(task = %key, %error, "its directory is left; the next start removes it");
                }
                if is_log_new {
                    self.remove_logs(&key).await;
                }
                self.tasks.remove(&key);
                Err(error)
            }
        }
    }

    async fn make(
        self: &Rc<Self>,
        create: &Create,
        command: String,
        runtime: &Path,
        is_systemd_cgroup: bool,
        rootfs: &[RawMount],
        checkpoint: &str,
    ) -> Result<Rc<Task>> {
        let key = &create.key;
        let shim = self.config.shim()?;
        let runtime_root = self.config.runtime_root(&create.runtime, &key.namespace)?;
        let id_mappings = userns::mappings(&create.spec)?;
        if create.runtime == EMBEDDED {
            userns::check_embedded(&id_mappings)?;
        }
        let (dirs, spec) = (self.dirs.clone(), Arc::clone(&create.spec));
        let begin = Instant::now();
        let launched = launch::launch(shim, dirs, key.clone(), spec, !id_mappings.is_empty()).await;
        let launch_time = begin.elapsed();
        let (mut child, stream) = launched?;
        let shim_pid = child.id().unwrap_or(0);
        let (shim, hangup) = Shim::new(stream);
        // A child that has ended must be waited for, or it stays in the list of processes.
        let ended = actix::spawn(async move {
            let _ = child.wait().await;
        });
        failpoint::at(&self.dirs.tasks(), key, "daemon:launched");
        let runtime_root = runtime_root.unwrap_or_else(|| self.dirs.runtime_root(&key.namespace));
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
                id_mappings: &id_mappings,
                checkpoint,
                criu: &self.config.criu.to_string_lossy(),
            })
            .await;
        failpoint::at(&self.dirs.tasks(), key, "daemon:created");
        debug!(task = %key, ?launch_time, create_time = ?(begin.elapsed() - launch_time), "created");
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
        self.tasks.settle(&key).await?;
        let task = self.find(&key)?;
        let _step = task.step.lock().await;
        if task.info().started_at_unix_ns > 0 || task.exit().is_some() {
            return Err(Error::precondition(format!("container {} was started before", key.id)));
        }
        failpoint::at(&self.dirs.tasks(), &key, "daemon:start");
        let is_restored = task.info().pid == 0;
        let deadline = if is_restored { DUMP } else { PATIENT };
        let begin = Instant::now();
        let started = task.shim()?.start(deadline).await;
        debug!(task = %key, start_time = ?begin.elapsed(), "started");
        failpoint::at(&self.dirs.tasks(), &key, "daemon:started");
        let pid = started.map_err(|error| classify(error, &task.command))?;
        if is_restored {
            // Only now it has cgroups.
            let record = TaskRecord::read(&task.dir)?;
            self.remember_cgroups(&record.created.unwrap_or_default().cgroups);
        }
        task.set_running(pid, clock::now_unix_ns());
        cgroup::follow(&task, &self.publisher, &self.oom);
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
        self.tasks.settle(&key).await?;
        let task = self.find(&key)?;
        let _step = task.step.lock().await;
        // Whoever waited for the step may find the task deleted.
        self.find(&key)?;
        if delete.is_forced {
            self.end_hung_shim(&task).await?;
        }
        let exit = if task.has_shim() {
            if task.exit().is_none() {
                // Its cgroups go with it.
                cgroup::look(&task).await;
            }
            task.is_going.set(true);
            let shim = task.shim()?;
            failpoint::at(&self.dirs.tasks(), &key, "daemon:delete");
            let begin = Instant::now();
            let deleted = shim.delete(delete.is_forced).await;
            let delete_time = begin.elapsed();
            failpoint::at(&self.dirs.tasks(), &key, "daemon:deleted");
            match deleted {
                Ok(exit) => {
                    task.set_exit(&exit);
                    if let Err(error) = shim.dismiss(task.info().shim_pid).await {
                        warn!(task = %key, %error, "the task is deleted");
                    }
                    let dismiss_time = begin.elapsed() - delete_time;
                    debug!(task = %key, ?delete_time, ?dismiss_time, "deleted");
                    exit
                }
                // It went away meanwhile: what its record says counts.
                Err(error) if error.class() == Class::Unavailable && task.is_gone_soon().await => {
                    self.conclude(&task).await;
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
            self.conclude(&task).await;
            task.exit().unwrap_or_else(|| Exit::lost("not known"))
        };
        let exit = task.exit().unwrap_or(exit);
        task.is_going.set(true);
        self.tell_exit(&task);
        failpoint::at(&self.dirs.tasks(), &key, "daemon:dismissed");
        self.forget(&task).await;
        if !delete.is_log_kept {
            self.remove_logs(&key).await;
        }
        failpoint::at(&self.dirs.tasks(), &key, "daemon:forgotten");
        self.publisher.tell(&key, "/tasks/delete", &[field("exitStatus", exit.status)]);
        // Whoever goes on to remove the container tells that behind this.
        self.publisher.flush().await;
        Ok(exit)
    }

    async fn exec(self: Rc<Self>, mut exec: Exec) -> Result<StdioPaths> {
        let task = self.find(&exec.key)?;
        self.logs.place(&exec.key, &format!("exec-{}", exec.exec_id), &mut exec.stdio)?;
        if task.info().status != Status::Running {
            return Err(not_in_state(&exec.key, "does not run", task.info().status));
        }
        failpoint::at(&self.dirs.tasks(), &exec.key, "daemon:exec");
        task.shim()?.exec(&exec.exec_id, &exec.process, &exec.stdio, exec.has_terminal).await?;
        let fields = [field("execId", &exec.exec_id)];
        self.publisher.tell(&exec.key, "/tasks/exec-added", &fields);
        Ok(task.exec_paths(&exec.exec_id, &exec.stdio, exec.has_terminal))
    }

    async fn start_exec(self: Rc<Self>, start: StartExec, command: String) -> Result<u32> {
        let task = self.find(&start.key)?;
        let shim = task.shim()?;
        failpoint::at(&self.dirs.tasks(), &start.key, "daemon:exec-start");
        let started = shim.start_exec(&start.exec_id).await;
        failpoint::at(&self.dirs.tasks(), &start.key, "daemon:exec-started");
        let pid = started.map_err(|error| classify(error, &command))?;
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
    // Whoever tries again what somebody has begun is told what comes of that.
    Inspect => TaskInfo, |shared, inspect| {
        shared.tasks.settle(&inspect.0).await?;
        Ok(shared.find(&inspect.0)?.info())
    };
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
    DeleteExec => Exit, |shared, delete| {
        // It may never have been started.
        let key = (delete.key.clone(), delete.exec_id.clone());
        shared.exec_commands.borrow_mut().remove(&key);
        shared.delete_exec(delete).await
    };
    Kill => (), |shared, kill| {
        let task = shared.find(&kill.key)?;
        if kill.exec_id.is_empty() && task.exit().is_some() {
            return Err(Error::precondition(format!("container {} has ended", kill.key.id)));
        }
        failpoint::at(&shared.dirs.tasks(), &kill.key, "daemon:kill");
        let killed = task.shim()?.kill(&kill.exec_id, kill.signal, kill.is_to_all).await;
        failpoint::at(&shared.dirs.tasks(), &kill.key, "daemon:killed");
        killed
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
    Pause => (), |shared, pause| shared.pause(&pause.0).await;
    Resume => (), |shared, resume| shared.resume(&resume.0).await;
    Update => (), |shared, update| {
        let task = shared.find(&update.key)?;
        let changes = cgroup::changes(&update.resources);
        cgroup::update(&task, update.resources).await?;
        if !changes.is_empty() {
            shared.publisher.tell(&update.key, "/tasks/update", &changes);
        }
        Ok(())
    };
    Measure => Vec<Sample>, |shared, measure| shared.measure(&measure.0).await;
    Checkpoint => (), |shared, checkpoint| shared.checkpoint(checkpoint).await;
    Restore => TaskInfo, |shared, restore| shared.restore(restore).await;
    ReadLog => LogPiece, |shared, read| shared.read_log(read).await;
    CloseStdin => (), |shared, close| {
        shared.find(&close.key)?.shim()?.close_stdin(&close.exec_id).await
    };
}

impl Handler<List> for LinuxRuntime {
    type Result = Result<Vec<TaskInfo>>;
    fn handle(&mut self, List(namespace): List, _: &mut Cell<Self>) -> Self::Result {
        let is_wanted = |key: &TaskKey| namespace.as_ref().is_none_or(|n| key.namespace == *n);
        let all = self.shared.tasks.all();
        let mut list: Vec<TaskInfo> =
            all.iter().filter(|task| is_wanted(&task.key)).map(|task| task.info()).collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(list)
    }
}
