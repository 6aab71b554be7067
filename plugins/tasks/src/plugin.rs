//! The plugin.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::containers::{self, Container, MakeProcess};
use capstan_sdk::contract::metrics::Sample;
use capstan_sdk::contract::runtime::{
    self, CloseStdin, DeleteExec, Exit, Inspect, Kill, List, LogPiece, Measure, Pause, ProcessInfo,
    Processes, ReadLog, Resize, Resume, Start, StartExec, Status, Stdio, StdioPaths, TaskInfo,
    TaskKey, Update, Wait, check_exec_id, no_such_task,
};
use capstan_sdk::contract::tasks::{
    Abandon, Checkpoint, Create, Delete, DeleteContainer, Exec, Restore, Run, TasksAddr,
};
use capstan_sdk::contract::{Metadata, Tasks};
use capstan_sdk::{
    Class, Context, Error, Exports, Info, Plugin, Result, export_plugin, random, rpc,
};
use tracing::warn;

use crate::checkpoint::{Checkpoints, Leftovers};
use crate::ephemeral::Ephemerals;
use crate::restart::{Restarts, check_stdio};
use crate::router::Router;

/// tasks.local.
pub struct LocalTasks {
    shared: Rc<Shared>,
    leftovers: Leftovers,
}

impl std::fmt::Debug for LocalTasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalTasks")
    }
}

export_plugin!(LocalTasks);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

struct Shared {
    router: Router,
    ephemerals: Ephemerals,
    restarts: Restarts,
    checkpoints: Checkpoints,
    /// Made by `run` and not started yet: if the start fails, the container goes.
    unstarted: RefCell<HashSet<TaskKey>>,
}

impl Plugin for LocalTasks {
    const INFO: Info = Info {
        id: "tasks.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "containers and runtimes brought together",
        requires: &[
            "containers",
            "metadata",
            "runtime",
            "content?",
            "differ?",
            "images?",
            "leases?",
            "snapshotter?",
        ],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        let metadata = context.link::<Metadata>()?;
        let router = Router::new(context.clone())?;
        let ephemerals = Ephemerals::new(router.clone());
        let restarts = Restarts::open(router.clone(), metadata).await?;
        let checkpoints = Checkpoints::new(&context, router.clone())?;
        let leftovers = checkpoints.leftovers();
        let unstarted = RefCell::default();
        let shared = Rc::new(Shared { router, ephemerals, restarts, checkpoints, unstarted });
        Ok(Self { shared, leftovers })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Tasks>(TasksAddr::from(addr));
        let link = context.link_self::<Tasks>();
        exports.service(move |_peer, namespace| rpc::tasks::serve(link.clone(), namespace));
    }
}

impl Actor for LocalTasks {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        self.shared.restarts.recover();
        cell.spawn(self.shared.ephemerals.clone().recover().into_actor(self));
        let leftovers = std::mem::take(&mut self.leftovers);
        cell.spawn(self.shared.checkpoints.clone().sweep(leftovers).into_actor(self));
    }
}

impl Shared {
    /// Makes the task of a container, and notes what its restart policy needs.
    async fn make_task(
        &self,
        key: &TaskKey,
        container: &Container,
        stdio: Stdio,
    ) -> Result<TaskInfo> {
        check_stdio(container, &stdio)?;
        let info = self.router.make_task(key, container, stdio.clone()).await?;
        if let Err(error) = self.restarts.made(key, container.restart, stdio).await {
            let delete = runtime::Delete { key: key.clone(), is_forced: true, is_log_kept: false };
            if let Err(error) = self.router.runtime(&container.runtime)?.send(delete).await {
                warn!(task = %key, %error, "a task that came to nothing could not be removed");
            }
            return Err(error);
        }
        Ok(info)
    }

    async fn create(self: Rc<Self>, create: Create) -> Result<TaskInfo> {
        // It may be between two runs.
        let _held = self.restarts.hold(&create.key).await;
        let container = self.router.container(&create.key).await?;
        let info = self.make_task(&create.key, &container, create.stdio).await?;
        if container.is_ephemeral {
            self.ephemerals.keep(&create.key);
        }
        Ok(info)
    }

    async fn run(self: Rc<Self>, run: Run) -> Result<TaskInfo> {
        let Run { namespace, id, spec, stdio } = run;
        let key = TaskKey { namespace: namespace.clone(), id: id.clone() };
        let create = containers::Create { namespace, id, spec };
        let container = self.router.containers.send(create).await?;
        match self.make_task(&key, &container, stdio).await {
            Ok(info) => {
                self.unstarted.borrow_mut().insert(key.clone());
                if container.is_ephemeral {
                    self.ephemerals.keep(&key);
                }
                Ok(info)
            }
            Err(error) => {
                self.undo(&key).await;
                Err(error)
            }
        }
    }

    async fn restore(self: Rc<Self>, restore: Restore) -> Result<TaskInfo> {
        let key = restore.key.clone();
        let (info, is_made) = self.checkpoints.restore(restore).await?;
        if is_made {
            self.unstarted.borrow_mut().insert(key);
        }
        Ok(info)
    }

    /// Removes a container that came to nothing, with its task.
    async fn undo(&self, key: &TaskKey) {
        self.unstarted.borrow_mut().remove(key);
        self.checkpoints.settle(key).await;
        if let Err(error) = self.try_undo(key).await {
            warn!(task = %key, %error, "a container that came to nothing could not be removed");
        }
    }

    async fn try_undo(&self, key: &TaskKey) -> Result<()> {
        match self.restarts.hold(key).await {
            Some(held) => {
                self.restarts.stop(key, &held).await?;
                self.ephemerals.remove(key).await?;
                self.restarts.forget(key, held).await
            }
            None => self.ephemerals.remove(key).await,
        }
    }

    async fn start(self: Rc<Self>, key: TaskKey) -> Result<u32> {
        let started = match self.restarts.hold(&key).await {
            Some(held) => self.restarts.start(&key, held).await,
            None => self.router.runtime_of(&key).await?.send(Start(key.clone())).await,
        };
        self.checkpoints.settle(&key).await;
        let is_from_run = self.unstarted.borrow_mut().remove(&key);
        if started.is_err() && is_from_run {
            self.undo(&key).await;
        }
        started
    }

    async fn wait(self: Rc<Self>, wait: Wait) -> Result<Exit> {
        if wait.exec_id.is_empty()
            && let Some(outcome) = self.ephemerals.outcome(&wait.key)
        {
            return outcome.await;
        }
        drop(self.restarts.hold(&wait.key).await);
        self.router.runtime_of(&wait.key).await?.send(wait).await
    }

    async fn kill(self: Rc<Self>, kill: Kill) -> Result<()> {
        match self.restarts.hold(&kill.key).await {
            Some(held) if kill.exec_id.is_empty() => self.restarts.kill(kill, &held).await,
            _ => self.router.runtime_of(&kill.key).await?.send(kill).await,
        }
    }

    async fn delete(self: Rc<Self>, delete: Delete) -> Result<Exit> {
        let Delete { key, is_forced } = delete;
        let held = self.restarts.hold(&key).await;
        let container = self.router.container(&key).await?;
        let runtime = self.router.runtime(&container.runtime)?;
        if let Some(held) = &held {
            // What is refused changes nothing. What could not be made is given up.
            let is_running = match runtime.send(Inspect(key.clone())).await {
                Ok(info) => !matches!(info.status, Status::Stopped | Status::Created),
                Err(error) if error.class() == Class::NotFound => false,
                Err(error) => return Err(error),
            };
            if is_forced || !is_running {
                self.restarts.stop(&key, held).await?;
            }
        }
        let message = runtime::Delete { key: key.clone(), is_forced, is_log_kept: false };
        let exit = runtime.send(message).await?;
        if let Some(held) = held {
            self.restarts.forget(&key, held).await?;
        }
        self.unstarted.borrow_mut().remove(&key);
        self.checkpoints.settle(&key).await;
        if container.is_ephemeral {
            self.ephemerals.remove(&key).await?;
        }
        Ok(exit)
    }

    async fn delete_container(self: Rc<Self>, delete: DeleteContainer) -> Result<()> {
        let DeleteContainer { namespace, id } = delete;
        let key = TaskKey { namespace: namespace.clone(), id: id.clone() };
        let held = self.restarts.hold(&key).await;
        let runtime = self.router.runtime_of(&key).await?;
        match runtime.send(Inspect(key.clone())).await {
            Ok(_) => Err(Error::precondition(format!(
                "container {id} has a task; delete that first (capstan tasks delete {id})"
            ))),
            Err(error) if error.class() == Class::NotFound => {
                if let Some(held) = held {
                    self.restarts.forget(&key, held).await?;
                }
                self.router.containers.send(containers::Delete { namespace, id }).await
            }
            Err(error) => Err(error),
        }
    }

    async fn abandon(self: Rc<Self>, key: TaskKey) -> Result<()> {
        if !self.unstarted.borrow().contains(&key) {
            return Ok(());
        }
        let runtime = self.router.runtime_of(&key).await?;
        if runtime.send(Inspect(key.clone())).await?.status == Status::Created {
            self.undo(&key).await;
        }
        Ok(())
    }

    async fn exec(self: Rc<Self>, exec: Exec) -> Result<(String, StdioPaths)> {
        let Exec { key, exec_id, process, stdio } = exec;
        let exec_id = match exec_id.is_empty() {
            true => format!("x{}", random::hex::<6>()?),
            false => exec_id,
        };
        check_exec_id(&exec_id)?;
        let runtime = self.router.runtime_of(&key).await?;
        let info = runtime.send(Inspect(key.clone())).await?;
        let has_terminal = process.has_terminal;
        let make = MakeProcess {
            namespace: key.namespace.clone(),
            id: key.id.clone(),
            process,
            init_pid: info.pid,
        };
        let process = Arc::from(self.router.containers.send(make).await?);
        let exec_id_text = exec_id.clone();
        let exec = runtime::Exec { key, exec_id, process, stdio, has_terminal };
        let paths = runtime.send(exec).await?;
        Ok((exec_id_text, paths))
    }

    async fn inspect(self: Rc<Self>, key: TaskKey) -> Result<TaskInfo> {
        match self.router.runtime_of(&key).await {
            Ok(runtime) => match runtime.send(Inspect(key.clone())).await {
                Ok(mut info) => {
                    self.restarts.complete(&mut info);
                    Ok(info)
                }
                Err(error) => self.restarts.last(&key).ok_or(error),
            },
            // Without a container there is no task: that is the better thing to say.
            Err(error) if error.class() == Class::NotFound => Err(no_such_task(&key)),
            Err(error) => Err(error),
        }
    }

    async fn list(self: Rc<Self>, list: List) -> Result<Vec<TaskInfo>> {
        let mut all = Vec::new();
        for runtime in self.router.runtimes()? {
            match runtime.send(list.clone()).await {
                Ok(tasks) => all.extend(tasks),
                // One runtime that is down does not hide what the others know.
                Err(error) => warn!(?runtime, %error, "its tasks are not listed"),
            }
        }
        all.iter_mut().for_each(|info| self.restarts.complete(info));
        for info in self.restarts.all_last() {
            let is_wanted =
                list.0.as_ref().is_none_or(|namespace| *namespace == info.key.namespace);
            if is_wanted && !all.iter().any(|other| other.key == info.key) {
                all.push(info);
            }
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }
}

macro_rules! handlers {
    ($($message:ty => $reply:ty, |$shared:ident, $value:ident| $work:expr;)*) => {$(
        impl Handler<$message> for LocalTasks {
            type Result = ResponseFuture<Result<$reply>>;
            fn handle(&mut self, $value: $message, _: &mut Cell<Self>) -> Self::Result {
                let $shared = Rc::clone(&self.shared);
                Box::pin(async move { $work })
            }
        }
    )*};
}

handlers! {
    Create => TaskInfo, |shared, create| shared.create(create).await;
    Run => TaskInfo, |shared, run| shared.run(run).await;
    Start => u32, |shared, start| shared.start(start.0).await;
    Wait => Exit, |shared, wait| shared.wait(wait).await;
    Kill => (), |shared, kill| shared.kill(kill).await;
    Delete => Exit, |shared, delete| shared.delete(delete).await;
    DeleteContainer => (), |shared, delete| shared.delete_container(delete).await;
    Abandon => (), |shared, abandon| shared.abandon(abandon.0).await;
    Exec => (String, StdioPaths), |shared, exec| shared.exec(exec).await;
    Inspect => TaskInfo, |shared, inspect| shared.inspect(inspect.0).await;
    List => Vec<TaskInfo>, |shared, list| shared.list(list).await;
    Checkpoint => String, |shared, checkpoint| shared.checkpoints.checkpoint(checkpoint).await;
    Restore => TaskInfo, |shared, restore| shared.restore(restore).await;
}

/// Messages that go to the container's runtime as they are.
macro_rules! passed_on {
    ($($message:ty => $reply:ty, |$value:ident| $key:expr;)*) => {$(
        impl Handler<$message> for LocalTasks {
            type Result = ResponseFuture<Result<$reply>>;
            fn handle(&mut self, $value: $message, _: &mut Cell<Self>) -> Self::Result {
                let shared = Rc::clone(&self.shared);
                Box::pin(async move { shared.router.runtime_of($key).await?.send($value).await })
            }
        }
    )*};
}

passed_on! {
    StartExec => u32, |start| &start.key;
    DeleteExec => Exit, |delete| &delete.key;
    Processes => Vec<ProcessInfo>, |processes| &processes.0;
    Resize => (), |resize| &resize.key;
    CloseStdin => (), |close| &close.key;
    Pause => (), |pause| &pause.0;
    Resume => (), |resume| &resume.0;
    Update => (), |update| &update.key;
    Measure => Vec<Sample>, |measure| &measure.0;
    ReadLog => LogPiece, |read| &read.key;
}
