//! `Runtime` of runtime.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{ContainerId, Mount, Namespace, Result, runtime_capnp as wire};

use super::metrics::write_samples;
use super::resources::read_resources;
use super::tasks::{read_stdio, write_exit, write_info, write_processes};
use super::{answer, length, namespace, text};
use crate::Link;
use crate::contract::Runtime;
use crate::contract::runtime::{
    Checkpoint, CloseStdin, Create, Delete, DeleteExec, Exec, Inspect, Kill, List, Measure, Pause,
    Processes, ReadLog, Resize, Restore, Resume, Start, StartExec, TaskInfo, TaskKey, Update, Wait,
    check_exec_id,
};

struct Server {
    link: Link<Runtime>,
}

/// The interface for one plugin.
pub fn serve(link: Link<Runtime>) -> Client {
    capnp_rpc::new_client::<wire::runtime::Client, _>(Server { link }).client
}

fn read_key(reader: capnp::Result<wire::task_key::Reader<'_>>) -> Result<TaskKey> {
    let reader = reader?;
    Ok(TaskKey {
        namespace: Namespace::parse(&text(reader.get_namespace())?)?,
        id: ContainerId::parse(&text(reader.get_id())?)?,
    })
}

fn write_key_and_info(info: &TaskInfo, mut out: wire::info::Builder<'_>) {
    write_info(info, out.reborrow().init_task());
    let mut key = out.init_key();
    key.set_namespace(info.key.namespace.as_str());
    key.set_id(info.key.id.as_str());
}

impl wire::runtime::Server for Server {
    async fn create(
        self: Rc<Self>,
        params: wire::runtime::CreateParams,
        mut results: wire::runtime::CreateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Create {
                key: read_key(params.get_key())?,
                runtime: text(params.get_runtime())?,
                spec: params.get_spec()?.into(),
                rootfs: params.get_rootfs()?.iter().map(Mount::read).collect::<Result<_>>()?,
                stdio: read_stdio(params.get_stdio()?)?,
                has_terminal: params.get_terminal(),
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, info| write_key_and_info(&info, out.init_info()))
    }

    async fn start(
        self: Rc<Self>,
        params: wire::runtime::StartParams,
        mut results: wire::runtime::StartResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(Start(read_key(params.get()?.get_key())?)).await };
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn wait(
        self: Rc<Self>,
        params: wire::runtime::WaitParams,
        mut results: wire::runtime::WaitResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (key, exec_id) = (read_key(params.get_key())?, text(params.get_exec_id())?);
            self.link.send(Wait { key, exec_id }).await
        };
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }

    async fn kill(
        self: Rc<Self>,
        params: wire::runtime::KillParams,
        mut results: wire::runtime::KillResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Kill {
                key: read_key(params.get_key())?,
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
        params: wire::runtime::DeleteParams,
        mut results: wire::runtime::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (is_forced, is_log_kept) = (params.get_force(), params.get_keep_log());
            let key = read_key(params.get_key())?;
            self.link.send(Delete { key, is_forced, is_log_kept }).await
        };
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }

    async fn inspect(
        self: Rc<Self>,
        params: wire::runtime::InspectParams,
        mut results: wire::runtime::InspectResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(Inspect(read_key(params.get()?.get_key())?)).await };
        answer!(results, work, |out, info| write_key_and_info(&info, out.init_info()))
    }

    async fn list(
        self: Rc<Self>,
        params: wire::runtime::ListParams,
        mut results: wire::runtime::ListResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(List(namespace(params.get()?.get_namespace())?)).await };
        answer!(results, work, |out, tasks| {
            let mut list = out.init_tasks(length(&tasks));
            for (index, info) in (0..).zip(&tasks) {
                write_key_and_info(info, list.reborrow().get(index));
            }
        })
    }

    async fn exec(
        self: Rc<Self>,
        params: wire::runtime::ExecParams,
        mut results: wire::runtime::ExecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Exec {
                key: read_key(params.get_key())?,
                exec_id: text(params.get_exec_id())?,
                process: params.get_process()?.into(),
                stdio: read_stdio(params.get_stdio()?)?,
                has_terminal: params.get_terminal(),
            };
            check_exec_id(&message.exec_id)?;
            self.link.send(message).await
        };
        answer!(results, work, |out, paths| {
            out.set_stdin(&paths.stdin);
            out.set_stdout(&paths.stdout);
            out.set_stderr(&paths.stderr);
            out.set_attach(&paths.attach);
        })
    }

    async fn start_exec(
        self: Rc<Self>,
        params: wire::runtime::StartExecParams,
        mut results: wire::runtime::StartExecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (key, exec_id) = (read_key(params.get_key())?, text(params.get_exec_id())?);
            self.link.send(StartExec { key, exec_id }).await
        };
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn delete_exec(
        self: Rc<Self>,
        params: wire::runtime::DeleteExecParams,
        mut results: wire::runtime::DeleteExecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (key, exec_id) = (read_key(params.get_key())?, text(params.get_exec_id())?);
            self.link.send(DeleteExec { key, exec_id }).await
        };
        answer!(results, work, |out, exit| write_exit(&exit, out.init_exit()))
    }

    async fn processes(
        self: Rc<Self>,
        params: wire::runtime::ProcessesParams,
        mut results: wire::runtime::ProcessesResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(Processes(read_key(params.get()?.get_key())?)).await };
        answer!(results, work, |out, processes| write_processes(
            &processes,
            out.init_processes(length(&processes))
        ))
    }

    async fn resize(
        self: Rc<Self>,
        params: wire::runtime::ResizeParams,
        mut results: wire::runtime::ResizeResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Resize {
                key: read_key(params.get_key())?,
                exec_id: text(params.get_exec_id())?,
                columns: params.get_columns(),
                rows: params.get_rows(),
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn close_stdin(
        self: Rc<Self>,
        params: wire::runtime::CloseStdinParams,
        mut results: wire::runtime::CloseStdinResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (key, exec_id) = (read_key(params.get_key())?, text(params.get_exec_id())?);
            self.link.send(CloseStdin { key, exec_id }).await
        };
        answer!(results, work)
    }

    async fn pause(
        self: Rc<Self>,
        params: wire::runtime::PauseParams,
        mut results: wire::runtime::PauseResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(Pause(read_key(params.get()?.get_key())?)).await };
        answer!(results, work)
    }

    async fn resume(
        self: Rc<Self>,
        params: wire::runtime::ResumeParams,
        mut results: wire::runtime::ResumeResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(Resume(read_key(params.get()?.get_key())?)).await };
        answer!(results, work)
    }

    async fn update(
        self: Rc<Self>,
        params: wire::runtime::UpdateParams,
        mut results: wire::runtime::UpdateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let resources = read_resources(params.get_resources()?)?;
            self.link.send(Update { key: read_key(params.get_key())?, resources }).await
        };
        answer!(results, work)
    }

    async fn metrics(
        self: Rc<Self>,
        params: wire::runtime::MetricsParams,
        mut results: wire::runtime::MetricsResults,
    ) -> capnp::Result<()> {
        let work = async { self.link.send(Measure(read_key(params.get()?.get_key())?)).await };
        answer!(results, work, |out, samples| write_samples(
            &samples,
            out.init_samples(length(&samples))
        ))
    }

    async fn checkpoint(
        self: Rc<Self>,
        params: wire::runtime::CheckpointParams,
        mut results: wire::runtime::CheckpointResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Checkpoint {
                key: read_key(params.get_key())?,
                directory: text(params.get_directory())?,
                is_exit: params.get_exit(),
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn restore(
        self: Rc<Self>,
        params: wire::runtime::RestoreParams,
        mut results: wire::runtime::RestoreResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let create = Create {
                key: read_key(params.get_key())?,
                runtime: text(params.get_runtime())?,
                spec: params.get_spec()?.into(),
                rootfs: params.get_rootfs()?.iter().map(Mount::read).collect::<Result<_>>()?,
                stdio: read_stdio(params.get_stdio()?)?,
                has_terminal: params.get_terminal(),
            };
            self.link.send(Restore { create, directory: text(params.get_directory())? }).await
        };
        answer!(results, work, |out, info| write_key_and_info(&info, out.init_info()))
    }

    async fn read_log(
        self: Rc<Self>,
        params: wire::runtime::ReadLogParams,
        mut results: wire::runtime::ReadLogResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = ReadLog {
                key: read_key(params.get_key())?,
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
