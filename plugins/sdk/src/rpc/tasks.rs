//! `Tasks`, `Task` and `Process` of task.capnp.

use std::cell::Cell;
use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{
    Class, ContainerId, Error, Filters, Namespace, Result, read_texts, task_capnp as wire,
};
use tokio::sync::oneshot;

use super::metrics::write_samples;
use super::resources::read_resources;
use super::{answer, containers, length, text};
use crate::Link;
use crate::contract::Tasks;
use crate::contract::runtime::{
    CloseStdin, DeleteExec, Exit, Inspect, Kill, List, Log, Measure, Pause, ProcessInfo,
    ProcessSpec, Processes, ReadLog, Resize, Resume, Start, StartExec, Status, Stdio, TaskInfo,
    TaskKey, Update, Wait,
};
use crate::contract::tasks::{Abandon, Checkpoint, Create, Delete, Exec, Restore, Run};

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
        wire::stdio::LogFile(path) => {
            let log = Log { path: text(path)?, is_raw: true, ..Log::default() };
            Stdio::Kept { has_stdin: false, log: Some(log) }
        }
        wire::stdio::Kept(kept) => {
            let kept = kept?;
            let log = match kept.has_log() {
                true => Some(read_log(kept.get_log()?)?),
                false => None,
            };
            Stdio::Kept { has_stdin: kept.get_stdin(), log }
        }
    })
}

fn read_log(reader: wire::stdio::log::Reader<'_>) -> Result<Log> {
    Ok(Log {
        path: text(reader.get_path())?,
        is_raw: reader.get_raw(),
        max_bytes: reader.get_max_bytes(),
        max_files: reader.get_max_files(),
    })
}

/// Writes where streams go.
pub fn write_stdio(stdio: &Stdio, mut out: wire::stdio::Builder<'_>) {
    match stdio {
        Stdio::Null => out.set_null(()),
        Stdio::Fifos { has_stdin } => out.init_fifos().set_stdin(*has_stdin),
        Stdio::Kept { has_stdin, log } => {
            let mut out = out.init_kept();
            out.set_stdin(*has_stdin);
            if let Some(log) = log {
                let mut out = out.init_log();
                out.set_path(&log.path);
                out.set_raw(log.is_raw);
                out.set_max_bytes(log.max_bytes);
                out.set_max_files(log.max_files);
            }
        }
    }
}

pub(crate) fn write_exit(exit: &Exit, mut out: wire::exit::Builder<'_>) {
    out.set_status(exit.status);
    out.set_at_unix_ns(exit.at_unix_ns);
    out.set_lost(&exit.lost);
    out.set_out_of_memory(exit.is_out_of_memory);
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
    out.set_attach(&info.stdio.attach);
    out.set_log(&info.stdio.log);
    out.set_restarts(info.restarts);
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
        params: wire::tasks::ListParams,
        mut results: wire::tasks::ListResults,
    ) -> capnp::Result<()> {
        let work = async {
            let filters = Filters::parse(read_texts(params.get()?.get_filters()?)?)?;
            let mut tasks = self.link.send(List(Some(self.namespace.clone()))).await?;
            tasks.retain(|task| filters.matches(task));
            Ok(tasks)
        };
        answer!(results, work, |out, tasks| {
            let mut list = out.init_tasks(length(&tasks));
            for (index, info) in (0..).zip(&tasks) {
                write_info(info, list.reborrow().get(index));
            }
        })
    }

    async fn restore(
        self: Rc<Self>,
        params: wire::tasks::RestoreParams,
        mut results: wire::tasks::RestoreResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Restore {
                key: self.key(params.get_container())?,
                checkpoint: text(params.get_checkpoint())?,
                stdio: read_stdio(params.get_stdio()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, info| {
            write_info(&info, out.reborrow().init_info());
            out.set_task(self.task(info.key));
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
            out.set_attach(&paths.attach);
            let (link, key) = (self.link.clone(), self.key.clone());
            let phase = Cell::new(Phase::Ready);
            let server = ProcessServer { link, key, exec_id, phase };
            out.set_process(capnp_rpc::new_client(server));
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

    async fn pause(
        self: Rc<Self>,
        _params: wire::task::PauseParams,
        mut results: wire::task::PauseResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Pause(self.key.clone()));
        answer!(results, work)
    }

    async fn resume(
        self: Rc<Self>,
        _params: wire::task::ResumeParams,
        mut results: wire::task::ResumeResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Resume(self.key.clone()));
        answer!(results, work)
    }

    async fn update(
        self: Rc<Self>,
        params: wire::task::UpdateParams,
        mut results: wire::task::UpdateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let resources = read_resources(params.get()?.get_resources()?)?;
            self.link.send(Update { key: self.key.clone(), resources }).await
        };
        answer!(results, work)
    }

    async fn metrics(
        self: Rc<Self>,
        _params: wire::task::MetricsParams,
        mut results: wire::task::MetricsResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Measure(self.key.clone()));
        answer!(results, work, |out, samples| write_samples(
            &samples,
            out.init_samples(length(&samples))
        ))
    }

    async fn checkpoint(
        self: Rc<Self>,
        params: wire::task::CheckpointParams,
        mut results: wire::task::CheckpointResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (image, is_exit) = (text(params.get_image())?, params.get_exit());
            self.link.send(Checkpoint { key: self.key.clone(), image, is_exit }).await
        };
        answer!(results, work, |out, digest| out.set_digest(&digest))
    }

    async fn read_log(
        self: Rc<Self>,
        params: wire::task::ReadLogParams,
        mut results: wire::task::ReadLogResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = ReadLog {
                key: self.key.clone(),
                cursor: text(params.get_cursor())?,
                tail: params.get_tail(),
                wait_millis: params.get_wait_millis(),
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, piece| {
            out.set_data(&piece.data);
            out.set_raw(piece.is_raw);
            out.set_next(&piece.next);
            out.set_is_end(piece.is_end);
            out.set_missed(piece.is_missed);
        })
    }
}

struct ProcessServer {
    link: Link<Tasks>,
    key: TaskKey,
    exec_id: String,
    phase: Cell<Phase>,
}

/// How far an exec is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ready,
    Started,
    /// Deleted, or it could not start.
    Gone,
}

/// Its maker goes, and nobody else can start it, wait for it or delete it: it goes too, at once or when it has ended.
impl Drop for ProcessServer {
    fn drop(&mut self) {
        let phase = self.phase.get();
        if phase == Phase::Gone {
            return;
        }
        let (link, key, exec_id) = (self.link.clone(), self.key.clone(), self.exec_id.clone());
        // What cannot be told now goes with the task, or is forgotten when many others have ended.
        actix_rt::spawn(async move {
            if phase == Phase::Started {
                link.send(Wait { key: key.clone(), exec_id: exec_id.clone() }).await?;
            }
            link.send(DeleteExec { key, exec_id }).await
        });
    }
}

impl wire::process::Server for ProcessServer {
    async fn start(
        self: Rc<Self>,
        _params: wire::process::StartParams,
        mut results: wire::process::StartResults,
    ) -> capnp::Result<()> {
        let before = self.phase.replace(Phase::Started);
        let message = StartExec { key: self.key.clone(), exec_id: self.exec_id.clone() };
        let work = async {
            let started = self.link.send(message).await;
            let is_refused =
                started.as_ref().is_err_and(|error| error.class() != Class::Unavailable);
            if is_refused && before == Phase::Ready {
                self.phase.set(Phase::Gone);
            }
            started
        };
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
        let work = async {
            let deleted = self.link.send(message).await;
            if deleted.is_ok() {
                self.phase.set(Phase::Gone);
            }
            deleted
        };
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }
}
