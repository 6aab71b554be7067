//! `Tasks`, `Task` and `Process` of task.capnp.

use std::cell::Cell;
use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{ContainerId, Error, Namespace, Result, read_texts, task_capnp as wire};
use tokio::sync::oneshot;

use super::{answer, containers, length, text};
use crate::Link;
use crate::contract::Tasks;
use crate::contract::runtime::{
    CloseStdin, DeleteExec, Exit, Inspect, Kill, List, ProcessInfo, ProcessSpec, Processes, Resize,
    Start, StartExec, Status, Stdio, TaskInfo, TaskKey, Wait,
};
use crate::contract::tasks::{Abandon, Create, Delete, Exec, Run};

struct Server {
    link: Link<Tasks>,
    namespace: Namespace,
}

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Tasks>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::tasks::Client, _>(Server { link, namespace }).client
}

/// Reads where streams go; the shim has the same struct.
///
/// # Errors
/// `Unimplemented`: a kind of stream that is newer than this program.
pub fn read_stdio(reader: wire::stdio::Reader<'_>) -> Result<Stdio> {
    Ok(match reader.which()? {
        wire::stdio::Null(()) => Stdio::Null,
        wire::stdio::Fifos(fifos) => Stdio::Fifos { has_stdin: fifos?.get_stdin() },
        wire::stdio::LogFile(path) => Stdio::File(text(path)?),
    })
}

/// Writes where streams go.
pub fn write_stdio(stdio: &Stdio, mut out: wire::stdio::Builder<'_>) {
    match stdio {
        Stdio::Null => out.set_null(()),
        Stdio::Fifos { has_stdin } => out.init_fifos().set_stdin(*has_stdin),
        Stdio::File(path) => out.set_log_file(path),
    }
}

pub(crate) fn write_exit(exit: &Exit, mut out: wire::exit::Builder<'_>) {
    out.set_status(exit.status);
    out.set_at_unix_ns(exit.at_unix_ns);
    out.set_lost(&exit.lost);
}

pub(crate) fn write_info(info: &TaskInfo, mut out: wire::task_info::Builder<'_>) {
    out.set_id(info.key.id.as_str());
    out.set_pid(info.pid);
    out.set_status(match info.status {
        Status::Created => wire::Status::Created,
        Status::Running => wire::Status::Running,
        Status::Pausing => wire::Status::Pausing,
        Status::Paused => wire::Status::Paused,
        Status::Stopped => wire::Status::Stopped,
    });
    if let Some(exit) = &info.exit {
        write_exit(exit, out.reborrow().init_exit());
    }
    out.set_stdin(&info.stdio.stdin);
    out.set_stdout(&info.stdio.stdout);
    out.set_stderr(&info.stdio.stderr);
    out.set_terminal(info.has_terminal);
    out.set_created_at_unix_ns(info.created_at_unix_ns);
    out.set_started_at_unix_ns(info.started_at_unix_ns);
    out.set_shim_pid(info.shim_pid);
    out.set_runtime(&info.runtime);
}

pub(crate) fn write_processes(
    processes: &[ProcessInfo],
    mut list: capnp::struct_list::Builder<'_, wire::process_info::Owned>,
) {
    for (index, process) in (0..).zip(processes) {
        let mut out = list.reborrow().get(index);
        out.set_pid(process.pid);
        out.set_exec_id(&process.exec_id);
    }
}

impl Server {
    fn key(&self, reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<TaskKey> {
        let id = ContainerId::parse(&text(reader)?)?;
        Ok(TaskKey { namespace: self.namespace.clone(), id })
    }

    fn task(&self, key: TaskKey) -> wire::task::Client {
        self.task_from(key, false)
    }

    fn task_from(&self, key: TaskKey, is_from_run: bool) -> wire::task::Client {
        let link = self.link.clone();
        capnp_rpc::new_client(TaskServer { link, key, is_unstarted: Cell::new(is_from_run) })
    }
}

impl wire::tasks::Server for Server {
    async fn create(
        self: Rc<Self>,
        params: wire::tasks::CreateParams,
        mut results: wire::tasks::CreateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let key = self.key(params.get_container())?;
            self.link.send(Create { key, stdio: read_stdio(params.get_stdio()?)? }).await
        };
        answer!(results, work, |out, info| {
            write_info(&info, out.reborrow().init_info());
            out.set_task(self.task(info.key));
        })
    }

    async fn run(
        self: Rc<Self>,
        params: wire::tasks::RunParams,
        mut results: wire::tasks::RunResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let key = self.key(params.get_id())?;
            let message = Run {
                namespace: key.namespace,
                id: key.id,
                spec: containers::read_spec(params.get_spec()?)?,
                stdio: read_stdio(params.get_stdio()?)?,
            };
            run_for_caller(self.link.clone(), message).await
        };
        answer!(results, work, |out, info| {
            write_info(&info, out.reborrow().init_info());
            out.set_task(self.task_from(info.key, true));
        })
    }

    async fn get(
        self: Rc<Self>,
        params: wire::tasks::GetParams,
        mut results: wire::tasks::GetResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = self.key(params.get()?.get_id())?;
            self.link.send(Inspect(key)).await
        };
        answer!(results, work, |out, info| {
            write_info(&info, out.reborrow().init_info());
            out.set_task(self.task(info.key));
        })
    }

    async fn list(
        self: Rc<Self>,
        _params: wire::tasks::ListParams,
        mut results: wire::tasks::ListResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(List(Some(self.namespace.clone())));
        answer!(results, work, |out, tasks| {
            let mut list = out.init_tasks(length(&tasks));
            for (index, info) in (0..).zip(&tasks) {
                write_info(info, list.reborrow().get(index));
            }
        })
    }
}

/// Makes a task that goes again if the caller, who drops this future, is not there when it is made.
async fn run_for_caller(link: Link<Tasks>, run: Run) -> Result<TaskInfo> {
    let (tell, told) = oneshot::channel();
    actix_rt::spawn(async move {
        if let Err(Ok(info)) = tell.send(link.send(run).await) {
            // What cannot be told now is found at the next start of the daemon.
            let _ = link.send(Abandon(info.key)).await;
        }
    });
    told.await.unwrap_or_else(|_| Err(Error::unavailable("the daemon stops")))
}

struct TaskServer {
    link: Link<Tasks>,
    key: TaskKey,
    /// Made by `run`, and nobody has started it: it goes if its maker goes.
    is_unstarted: Cell<bool>,
}

impl Drop for TaskServer {
    fn drop(&mut self) {
        if self.is_unstarted.get() {
            let (link, key) = (self.link.clone(), self.key.clone());
            // What cannot be told now is found at the next start of the daemon.
            actix_rt::spawn(async move { link.send(Abandon(key)).await });
        }
    }
}

impl wire::task::Server for TaskServer {
    async fn start(
        self: Rc<Self>,
        _params: wire::task::StartParams,
        mut results: wire::task::StartResults,
    ) -> capnp::Result<()> {
        self.is_unstarted.set(false);
        let work = self.link.send(Start(self.key.clone()));
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn wait(
        self: Rc<Self>,
        _params: wire::task::WaitParams,
        mut results: wire::task::WaitResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Wait { key: self.key.clone(), exec_id: String::new() });
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }

    async fn kill(
        self: Rc<Self>,
        params: wire::task::KillParams,
        mut results: wire::task::KillResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Kill {
                key: self.key.clone(),
                exec_id: text(params.get_exec_id())?,
                signal: params.get_signal(),
                is_to_all: params.get_all(),
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn delete(
        self: Rc<Self>,
        params: wire::task::DeleteParams,
        mut results: wire::task::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let is_forced = params.get()?.get_force();
            self.link.send(Delete { key: self.key.clone(), is_forced }).await
        };
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }

    async fn info(
        self: Rc<Self>,
        _params: wire::task::InfoParams,
        mut results: wire::task::InfoResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Inspect(self.key.clone()));
        answer!(results, work, |out, info| write_info(&info, out.init_info()))
    }

    async fn exec(
        self: Rc<Self>,
        params: wire::task::ExecParams,
        mut results: wire::task::ExecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let process = params.get_process()?;
            let message = Exec {
                key: self.key.clone(),
                exec_id: text(params.get_exec_id())?,
                process: ProcessSpec {
                    args: read_texts(process.get_args()?)?,
                    env: read_texts(process.get_env()?)?,
                    workdir: text(process.get_workdir())?,
                    user: text(process.get_user())?,
                    has_terminal: process.get_terminal(),
                },
                stdio: read_stdio(params.get_stdio()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, (exec_id, paths)| {
            out.set_exec_id(&exec_id);
            out.set_stdin(&paths.stdin);
            out.set_stdout(&paths.stdout);
            out.set_stderr(&paths.stderr);
            let (link, key) = (self.link.clone(), self.key.clone());
            out.set_process(capnp_rpc::new_client(ProcessServer { link, key, exec_id }));
        })
    }

    async fn processes(
        self: Rc<Self>,
        _params: wire::task::ProcessesParams,
        mut results: wire::task::ProcessesResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Processes(self.key.clone()));
        answer!(results, work, |out, processes| write_processes(
            &processes,
            out.init_processes(length(&processes))
        ))
    }

    async fn resize(
        self: Rc<Self>,
        params: wire::task::ResizeParams,
        mut results: wire::task::ResizeResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Resize {
                key: self.key.clone(),
                exec_id: String::new(),
                columns: params.get_columns(),
                rows: params.get_rows(),
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn close_stdin(
        self: Rc<Self>,
        _params: wire::task::CloseStdinParams,
        mut results: wire::task::CloseStdinResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(CloseStdin { key: self.key.clone(), exec_id: String::new() });
        answer!(results, work)
    }
}

struct ProcessServer {
    link: Link<Tasks>,
    key: TaskKey,
    exec_id: String,
}

impl wire::process::Server for ProcessServer {
    async fn start(
        self: Rc<Self>,
        _params: wire::process::StartParams,
        mut results: wire::process::StartResults,
    ) -> capnp::Result<()> {
        let message = StartExec { key: self.key.clone(), exec_id: self.exec_id.clone() };
        let work = self.link.send(message);
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn wait(
        self: Rc<Self>,
        _params: wire::process::WaitParams,
        mut results: wire::process::WaitResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Wait { key: self.key.clone(), exec_id: self.exec_id.clone() });
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }

    async fn kill(
        self: Rc<Self>,
        params: wire::process::KillParams,
        mut results: wire::process::KillResults,
    ) -> capnp::Result<()> {
        let work = async {
            let message = Kill {
                key: self.key.clone(),
                exec_id: self.exec_id.clone(),
                signal: params.get()?.get_signal(),
                is_to_all: false,
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn resize(
        self: Rc<Self>,
        params: wire::process::ResizeParams,
        mut results: wire::process::ResizeResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Resize {
                key: self.key.clone(),
                exec_id: self.exec_id.clone(),
                columns: params.get_columns(),
                rows: params.get_rows(),
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn close_stdin(
        self: Rc<Self>,
        _params: wire::process::CloseStdinParams,
        mut results: wire::process::CloseStdinResults,
    ) -> capnp::Result<()> {
        let message = CloseStdin { key: self.key.clone(), exec_id: self.exec_id.clone() };
        let work = self.link.send(message);
        answer!(results, work)
    }

    async fn delete(
        self: Rc<Self>,
        _params: wire::process::DeleteParams,
        mut results: wire::process::DeleteResults,
    ) -> capnp::Result<()> {
        let message = DeleteExec { key: self.key.clone(), exec_id: self.exec_id.clone() };
        let work = self.link.send(message);
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }
}
