//! The first steps, in a process that has one thread and no connection yet.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use capstan_schema::{Error, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::failpoint;
use crate::record::{Entry, Record};

/// What the rest of the shim starts with.
pub(crate) struct Prepared {
    /// The task's directory, which is also the working directory.
    pub(crate) dir: PathBuf,
    /// To the daemon that started us.
    pub(crate) daemon: UnixStream,
    pub(crate) record: Record,
}

/// Takes the connection, leaves the daemon's session, becomes the parent of orphans, and gets a mount
/// namespace whose mounts nobody else sees.
///
/// # Errors
/// What the system says.
pub(crate) fn prepare() -> Result<Prepared> {
    let dir =
        std::env::current_dir().map_err(|error| Error::io("find the task's directory", error))?;
    let daemon = take_stdin()?;
    // It fails only for the leader of a group, which a child of the daemon is not.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::io("become the parent of orphans", error))?;
    protect_from_oom();
    // First of all on disk, so that a daemon that died meanwhile finds us.
    failpoint::at("shim:begun");
    let mut record = Record::create(&dir)?;
    record.append(Entry::Shim)?;
    failpoint::at("shim:noted");
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| Error::io("make a mount namespace", error))?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .map_err(|error| Error::io("keep mounts to ourselves", error))?;
    Ok(Prepared { dir, daemon, record })
}

/// The socket that the daemon left in stdin; `/dev/null` takes its place.
fn take_stdin() -> Result<UnixStream> {
    let stdin = std::io::stdin();
    let fail = |error| Error::io("take the connection from stdin", error);
    let socket: OwnedFd = stdin.as_fd().try_clone_to_owned().map_err(fail)?;
    let null = File::open("/dev/null").map_err(fail)?;
    rustix::stdio::dup2_stdin(null).map_err(|error| fail(error.into()))?;
    let stream = UnixStream::from(socket);
    stream.peer_addr().map_err(|_| {
        Error::invalid("stdin is no socket: capstand starts this program, people do not")
    })?;
    stream.set_nonblocking(true).map_err(fail)?;
    Ok(stream)
}

/// The shim must be there to tell how its container ended. Not every machine lets it say so.
fn protect_from_oom() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
}
