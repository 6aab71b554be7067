//! The interface `Shim` of shim.capnp.

use std::future::Future;
use std::rc::Rc;

use capstan_schema::shim_capnp::shim;
use capstan_schema::task_capnp::{self, exit};
use capstan_schema::{Error, Result};

use crate::cgroup;
use crate::create::Wanted;
use crate::exec::Exec;
use crate::process::{Exit, Process};
use crate::stdio::Wish;
use crate::sys;
use crate::task::{Freeze, Task};

/// What a peer holds.
#[derive(Clone)]
pub(crate) struct Server(pub(crate) Rc<Task>);

fn write(exit: Exit, mut out: exit::Builder<'_>) {
    out.set_status(exit.status);
    out.set_at_unix_ns(exit.at_unix_ns);
}

/// Fills the results of a method, or their `error`.
macro_rules! answer {
    ($results:ident, $work:expr, |$out:ident, $value:pat_param| $fill:expr) => {{
        let outcome: Result<_> = $work.await;
        match outcome {
            Ok($value) => {
                #[allow(unused_mut, reason = "some answers only pass it on")]
                let mut $out = $results.get();
                $fill
            }
            Err(error) => error.write($results.get().init_error()),
        }
        Ok(())
    }};
}

/// Work that must be finished even if the peer goes away in the middle of it: a container that is half
/// created has nobody else.
async fn to_the_end<T: 'static>(work: impl Future<Output = Result<T>> + 'static) -> Result<T> {
    let done = tokio::task::spawn_local(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("the shim failed: {error}"))))
}

impl shim::Server for Server {
    async fn create(
        self: Rc<Self>,
        params: shim::CreateParams,
        mut results: shim::CreateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let wanted = Wanted::read(params.get()?.get_params()?)?;
            let task = Rc::clone(&self.0);
            to_the_end(async move { task.create(wanted).await }).await
        };
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn start(
        self: Rc<Self>,
        _params: shim::StartParams,
        mut results: shim::StartResults,
    ) -> capnp::Result<()> {
        let task = Rc::clone(&self.0);
        let work = to_the_end(async move { task.start().await });
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn wait(
        self: Rc<Self>,
        params: shim::WaitParams,
        mut results: shim::WaitResults,
    ) -> capnp::Result<()> {
        let work = async {
            match params.get()?.get_exec_id()?.to_str()? {
                "" => Ok(self.0.process("")?.wait().await),
                exec => self.0.wait_exec(exec).await,
            }
        };
        answer!(results, work, |out, exit| write(exit, out.init_exit()))
    }

    async fn kill(
        self: Rc<Self>,
        params: shim::KillParams,
        mut results: shim::KillResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let number = params.get_signal();
            let signal = sys::signal::from_number(number)
                .ok_or_else(|| Error::invalid(format!("signal {number}: there is none")))?;
            self.0.kill(params.get_exec_id()?.to_str()?, signal, params.get_all())
        };
        answer!(results, work, |_out, ()| ())
    }

    async fn exec(
        self: Rc<Self>,
        params: shim::ExecParams,
        mut results: shim::ExecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            self.0.prepare_exec(
                params.get_exec_id()?.to_str()?,
                params.get_process_json()?.to_vec(),
                &Wish::read(params.get_stdio()?)?,
                params.get_terminal(),
            )
        };
        answer!(results, work, |_out, ()| ())
    }

    async fn start_exec(
        self: Rc<Self>,
        params: shim::StartExecParams,
        mut results: shim::StartExecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let id = params.get()?.get_exec_id()?.to_str()?.to_owned();
            let task = Rc::clone(&self.0);
            to_the_end(async move { task.start_exec(&id).await }).await
        };
        answer!(results, work, |out, pid| out.set_pid(pid))
    }

    async fn delete_exec(
        self: Rc<Self>,
        params: shim::DeleteExecParams,
        mut results: shim::DeleteExecResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.delete_exec(params.get()?.get_exec_id()?.to_str()?) };
        answer!(results, work, |out, exit| {
            if let Some(exit) = exit {
                write(exit, out.init_exit());
            }
        })
    }

    async fn state(
        self: Rc<Self>,
        _params: shim::StateParams,
        mut results: shim::StateResults,
    ) -> capnp::Result<()> {
        let mut out = results.get().init_state();
        out.set_starting(self.0.is_starting.get());
        let container = self.0.container.borrow().clone();
        let Some(container) = container else {
            // What is to be restored has no process yet.
            out.set_created(self.0.pending.borrow().is_some());
            return Ok(());
        };
        let init = &container.init;
        out.set_created(true);
        out.set_dropped_log_bytes(init.hub().map_or(0, |hub| hub.dropped()));
        out.set_pid(init.pid);
        out.set_status(match init.exit() {
            Some(_) => task_capnp::Status::Stopped,
            None if init.is_started.get() => match container.freeze.get() {
                Freeze::No => task_capnp::Status::Running,
                Freeze::Begun => task_capnp::Status::Pausing,
                Freeze::Done => task_capnp::Status::Paused,
            },
            None => task_capnp::Status::Created,
        });
        if let Some(exit) = init.exit() {
            write(exit, out.init_exit());
        }
        Ok(())
    }

    async fn processes(
        self: Rc<Self>,
        _params: shim::ProcessesParams,
        mut results: shim::ProcessesResults,
    ) -> capnp::Result<()> {
        let work = async {
            let container = self.0.container()?;
            let mut pids = cgroup::processes(&container.cgroups);
            if pids.is_empty() && container.init.exit().is_none() {
                pids.push(container.init.pid);
            }
            Ok((pids, container))
        };
        answer!(results, work, |out, (pids, container)| {
            let execs = self.0.execs.borrow();
            let name = |pid: u32| {
                // One that has ended is in no cgroup, though another one may have its number by now.
                let is = |process: &Process| process.pid == pid && process.exit().is_none();
                if is(&container.init) {
                    return "init";
                }
                let is_it = |exec: &Exec| exec.process.borrow().as_ref().is_some_and(|it| is(it));
                execs.iter().find(|(_, exec)| is_it(exec)).map_or("", |(id, _)| id.as_str())
            };
            let count = u32::try_from(pids.len()).unwrap_or(0);
            let mut list = out.init_processes(count);
            for (index, &pid) in (0..count).zip(&pids) {
                let mut out = list.reborrow().get(index);
                out.set_pid(pid);
                out.set_exec_id(name(pid));
            }
        })
    }

    async fn resize(
        self: Rc<Self>,
        params: shim::ResizeParams,
        mut results: shim::ResizeResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let process = self.0.process(params.get_exec_id()?.to_str()?)?;
            process.resize(params.get_columns(), params.get_rows())
        };
        answer!(results, work, |_out, ()| ())
    }

    async fn close_stdin(
        self: Rc<Self>,
        params: shim::CloseStdinParams,
        mut results: shim::CloseStdinResults,
    ) -> capnp::Result<()> {
        let work = async {
            let process = self.0.process(params.get()?.get_exec_id()?.to_str()?)?;
            process.streams.borrow_mut().close_stdin();
            Ok(())
        };
        answer!(results, work, |_out, ()| ())
    }

    async fn pause(
        self: Rc<Self>,
        _params: shim::PauseParams,
        mut results: shim::PauseResults,
    ) -> capnp::Result<()> {
        let task = Rc::clone(&self.0);
        let work = to_the_end(async move { task.pause().await });
        answer!(results, work, |_out, ()| ())
    }

    async fn resume(
        self: Rc<Self>,
        _params: shim::ResumeParams,
        mut results: shim::ResumeResults,
    ) -> capnp::Result<()> {
        let task = Rc::clone(&self.0);
        let work = to_the_end(async move { task.resume().await });
        answer!(results, work, |_out, ()| ())
    }

    async fn delete(
        self: Rc<Self>,
        params: shim::DeleteParams,
        mut results: shim::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let is_forced = params.get()?.get_force();
            let task = Rc::clone(&self.0);
            to_the_end(async move { task.delete(is_forced).await }).await
        };
        answer!(results, work, |out, exit| write(exit, out.init_exit()))
    }

    async fn checkpoint(
        self: Rc<Self>,
        params: shim::CheckpointParams,
        mut results: shim::CheckpointResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let directory = params.get_directory()?.to_str()?.to_owned();
            let work = params.get_work_directory()?.to_str()?.to_owned();
            let (task, is_exit) = (Rc::clone(&self.0), params.get_exit());
            to_the_end(async move { task.checkpoint(&directory, &work, is_exit).await }).await
        };
        answer!(results, work, |_out, ()| ())
    }
}
