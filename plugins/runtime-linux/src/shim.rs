//! The daemon's end of a shim: a connection, and the calls on it.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use capstan_schema::shim_capnp::shim;
use capstan_schema::task_capnp;
use capstan_sdk::contract::runtime::{Exit, ProcessInfo, Status, Stdio};
use capstan_sdk::mount::RawMount;
use capstan_sdk::rpc::tasks::write_stdio;
use capstan_sdk::{Class, Error, Result, blocking};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};

use crate::userns::IdMapping;

/// How long a shim may take for what it does at once. One that takes longer is stopped, or hung.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);

/// How long a runtime may take behind a shim.
pub(crate) const PATIENT: Duration = Duration::from_secs(120);

/// How long the memory of a container may take to be written to disk, or to be read from there.
pub(crate) const DUMP: Duration = Duration::from_secs(15 * 60);

/// How long a shim that has nothing left to do may take to end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(3);

/// A connection to a shim.
#[derive(Clone)]
pub(crate) struct Shim {
    client: shim::Client,
    connection: AbortHandle,
}

/// What a shim says of its task.
pub(crate) struct State {
    pub(crate) is_created: bool,
    pub(crate) status: Status,
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
    /// A start is under way, that an earlier daemon asked for.
    pub(crate) is_starting: bool,
}

/// What a shim needs to create a container.
pub(crate) struct CreateParams<'a> {
    pub(crate) id: &'a str,
    pub(crate) runtime: &'a str,
    pub(crate) runtime_root: &'a str,
    pub(crate) is_systemd_cgroup: bool,
    pub(crate) rootfs: &'a [RawMount],
    pub(crate) stdio: &'a Stdio,
    pub(crate) has_terminal: bool,
    pub(crate) is_unified_hidden: bool,
    pub(crate) id_mappings: &'a [IdMapping],
    /// What to restore from; empty = an ordinary container.
    pub(crate) checkpoint: &'a str,
    /// Empty = the runtime looks for it.
    pub(crate) criu: &'a str,
}

/// Waits for a call and takes its error out; a deadline that passes is `Unavailable`.
macro_rules! ask {
    ($deadline:expr, $request:expr) => {{
        let response = within($deadline, $request.send().promise).await?;
        let reply = response.get()?;
        if let Some(error) = Error::read(reply.has_error(), reply.get_error()) {
            return Err(error);
        }
        response
    }};
}

async fn within<T>(deadline: Duration, call: impl Future<Output = capnp::Result<T>>) -> Result<T> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(gone(error)),
        Err(_) => Err(Error::unavailable(format!(
            "the shim did not answer within {deadline:?}; is it stopped?"
        ))),
    }
}

fn gone(error: capnp::Error) -> Error {
    let error = Error::from(error);
    match error.class() {
        Class::Unavailable => Error::unavailable("the shim is gone"),
        _ => error.at("the shim"),
    }
}

fn read_exit(reader: task_capnp::exit::Reader<'_>) -> Exit {
    Exit::new(reader.get_status(), reader.get_at_unix_ns())
}

impl Shim {
    /// Takes a connected stream. The handle resolves when the shim hangs up.
    pub(crate) fn new(stream: UnixStream) -> (Self, JoinHandle<()>) {
        let (read, write) = stream.into_split();
        let network = twoparty::VatNetwork::new(
            tokio::io::BufReader::new(read).compat(),
            write.compat_write(),
            Side::Client,
            capstan_schema::limits(),
        );
        let mut system = RpcSystem::new(Box::new(network), None);
        let client: shim::Client = system.bootstrap(Side::Server);
        let hangup = actix::spawn(async move {
            // How it ends does not matter: that it ends is the news.
            let _ = system.await;
        });
        (Self { client, connection: hangup.abort_handle() }, hangup)
    }

    /// Connects to the shim in a task's directory, however long its path is.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`: there is none. Else what the system says.
    pub(crate) async fn connect(dir: &Path) -> Result<(Self, JoinHandle<()>)> {
        let fail = |error| Error::io(format!("connect to the shim in {}", dir.display()), error);
        let handle = std::fs::File::open(dir).map_err(fail)?;
        let path = format!("/proc/self/fd/{}/shim.sock", handle.as_raw_fd());
        match tokio::time::timeout(PROMPT, UnixStream::connect(path)).await {
            Ok(stream) => Ok(Self::new(stream.map_err(fail)?)),
            Err(_) => Err(Error::unavailable("the shim does not take connections; is it stopped?")),
        }
    }

    pub(crate) async fn create(&self, params: &CreateParams<'_>) -> Result<u32> {
        let mut request = self.client.create_request();
        let mut out = request.get().init_params();
        out.set_id(params.id);
        out.set_runtime(params.runtime);
        out.set_runtime_root(params.runtime_root);
        out.set_systemd_cgroup(params.is_systemd_cgroup);
        out.set_terminal(params.has_terminal);
        out.set_hide_unified_cgroup(params.is_unified_hidden);
        out.set_checkpoint(params.checkpoint);
        out.set_criu(params.criu);
        write_stdio(params.stdio, out.reborrow().init_stdio());
        let count = u32::try_from(params.id_mappings.len()).unwrap_or(0);
        let mut mappings = out.reborrow().init_id_mappings(count);
        for (index, mapping) in (0..count).zip(params.id_mappings) {
            let mut out = mappings.reborrow().get(index);
            out.set_is_group(mapping.is_group);
            out.set_container(mapping.container);
            out.set_host(mapping.host);
            out.set_size(mapping.size);
        }
        let count = u32::try_from(params.rootfs.len()).unwrap_or(0);
        let mut mounts = out.init_rootfs(count);
        for (index, mount) in (0..count).zip(params.rootfs) {
            let mut out = mounts.reborrow().get(index);
            out.set_type(&mount.kind);
            out.set_source(&mount.source);
            out.set_flags(mount.flags.bits());
            out.set_data(&mount.data);
            out.set_read_only_bind(mount.is_read_only_bind);
            out.set_workdir(&mount.workdir);
        }
        Ok(ask!(PATIENT, request).get()?.get_pid())
    }

    pub(crate) async fn start(&self, deadline: Duration) -> Result<u32> {
        Ok(ask!(deadline, self.client.start_request()).get()?.get_pid())
    }

    /// Writes the processes to `directory`; `work` is for the runtime to work in.
    pub(crate) async fn checkpoint(
        &self,
        directory: &str,
        work: &str,
        is_exit: bool,
    ) -> Result<()> {
        let mut request = self.client.checkpoint_request();
        request.get().set_directory(directory);
        request.get().set_work_directory(work);
        request.get().set_exit(is_exit);
        ask!(DUMP, request);
        Ok(())
    }

    /// Waits as long as it takes.
    pub(crate) async fn wait(&self, exec_id: &str) -> Result<Exit> {
        let mut request = self.client.wait_request();
        request.get().set_exec_id(exec_id);
        let response = request.send().promise.await.map_err(gone)?;
        let reply = response.get()?;
        if let Some(error) = Error::read(reply.has_error(), reply.get_error()) {
            return Err(error);
        }
        Ok(read_exit(reply.get_exit()?))
    }

    pub(crate) async fn kill(&self, exec_id: &str, signal: u32, is_to_all: bool) -> Result<()> {
        let mut request = self.client.kill_request();
        request.get().set_exec_id(exec_id);
        request.get().set_signal(signal);
        request.get().set_all(is_to_all);
        ask!(PROMPT, request);
        Ok(())
    }

    pub(crate) async fn exec(
        &self,
        exec_id: &str,
        process: &[u8],
        stdio: &Stdio,
        has_terminal: bool,
    ) -> Result<()> {
        let mut request = self.client.exec_request();
        request.get().set_exec_id(exec_id);
        request.get().set_process_json(process);
        request.get().set_terminal(has_terminal);
        write_stdio(stdio, request.get().init_stdio());
        ask!(PROMPT, request);
        Ok(())
    }

    pub(crate) async fn start_exec(&self, exec_id: &str) -> Result<u32> {
        let mut request = self.client.start_exec_request();
        request.get().set_exec_id(exec_id);
        Ok(ask!(PATIENT, request).get()?.get_pid())
    }

    /// How the exec ended; `None` if it never ran.
    pub(crate) async fn delete_exec(&self, exec_id: &str) -> Result<Option<Exit>> {
        let mut request = self.client.delete_exec_request();
        request.get().set_exec_id(exec_id);
        let response = ask!(PROMPT, request);
        let reply = response.get()?;
        if !reply.has_exit() {
            return Ok(None);
        }
        Ok(Some(read_exit(reply.get_exit()?)))
    }

    /// What it is at; `deadline` is the caller's, because a boot waits for this one.
    pub(crate) async fn state(&self, deadline: Duration) -> Result<State> {
        let response = ask!(deadline, self.client.state_request());
        let state = response.get()?.get_state()?;
        let status = match state.get_status()? {
            task_capnp::Status::Created => Status::Created,
            task_capnp::Status::Running => Status::Running,
            task_capnp::Status::Pausing => Status::Pausing,
            task_capnp::Status::Paused => Status::Paused,
            task_capnp::Status::Stopped => Status::Stopped,
        };
        let exit = match state.has_exit() {
            true => Some(read_exit(state.get_exit()?)),
            false => None,
        };
        Ok(State {
            is_created: state.get_created(),
            status,
            pid: state.get_pid(),
            exit,
            is_starting: state.get_starting(),
        })
    }

    /// Output that its log did not take, in bytes; of the init process, by the caller's deadline.
    pub(crate) async fn dropped_log_bytes(&self, deadline: Duration) -> Result<u64> {
        let response = ask!(deadline, self.client.state_request());
        Ok(response.get()?.get_state()?.get_dropped_log_bytes())
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        ask!(PATIENT, self.client.pause_request());
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        ask!(PROMPT, self.client.resume_request());
        Ok(())
    }

    pub(crate) async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let response = ask!(PROMPT, self.client.processes_request());
        let mut processes = Vec::new();
        for process in response.get()?.get_processes()? {
            let exec_id = process.get_exec_id()?.to_string()?;
            processes.push(ProcessInfo { pid: process.get_pid(), exec_id });
        }
        Ok(processes)
    }

    pub(crate) async fn resize(&self, exec_id: &str, columns: u16, rows: u16) -> Result<()> {
        let mut request = self.client.resize_request();
        request.get().set_exec_id(exec_id);
        request.get().set_columns(columns);
        request.get().set_rows(rows);
        ask!(PROMPT, request);
        Ok(())
    }

    pub(crate) async fn close_stdin(&self, exec_id: &str) -> Result<()> {
        let mut request = self.client.close_stdin_request();
        request.get().set_exec_id(exec_id);
        ask!(PROMPT, request);
        Ok(())
    }

    /// Removes the container. The shim then only waits for us to hang up.
    pub(crate) async fn delete(&self, is_forced: bool) -> Result<Exit> {
        let mut request = self.client.delete_request();
        request.get().set_force(is_forced);
        let response = ask!(PATIENT, request);
        Ok(read_exit(response.get()?.get_exit()?))
    }

    /// Hangs up on a shim that has nothing left to do, and waits until its process has ended: what it
    /// had mounted is gone then.
    ///
    /// # Errors
    /// `Unavailable`: it did not end within [`FAREWELL`]. It is left alone.
    pub(crate) async fn dismiss(&self, pid: u32) -> Result<()> {
        // Opened while it lives, so the number is its own and no later process's.
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let handle = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.connection.abort();
        let Some(handle) = handle else { return Ok(()) };
        blocking::run("wait for a shim to end", move || {
            let deadline = Instant::now() + FAREWELL;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let left = Timespec::try_from(left).expect("at most a constant that fits");
                match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)) {
                    Ok(0) => {
                        return Err(Error::unavailable(format!("shim process {pid} does not end")));
                    }
                    Ok(_) => return Ok(()),
                    // A signal for the daemon, such as the end of another child.
                    Err(Errno::INTR) => {}
                    Err(error) => {
                        return Err(Error::io(format!("wait for shim process {pid}"), error));
                    }
                }
            }
        })
        .await
    }
}
