//! Making a task's directory and starting its shim.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;

use capstan_sdk::contract::runtime::TaskKey;
use capstan_sdk::{Error, Namespace, Result, blocking, tree};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::failpoint;
use crate::userns;

/// The plugin's directories.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    state: PathBuf,
}

impl Dirs {
    /// Opens them, or makes them.
    pub(crate) fn open(state: PathBuf) -> Result<Self> {
        let dirs = Self { state };
        make(&dirs.tasks())?;
        Ok(dirs)
    }

    pub(crate) fn tasks(&self) -> PathBuf {
        self.state.join("tasks")
    }

    /// A task's own, which is also its bundle.
    pub(crate) fn task(&self, key: &TaskKey) -> PathBuf {
        self.tasks().join(key.namespace.as_str()).join(key.id.as_str())
    }

    /// Where runtimes keep what they know of a namespace's containers.
    pub(crate) fn runtime_root(&self, namespace: &Namespace) -> PathBuf {
        self.state.join("oci").join(namespace.as_str())
    }
}

fn make(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::io(format!("make {}", dir.display()), error))
}

/// Makes the bundle of a task: what the runtime reads, and a place for the root filesystem.
fn bundle(dirs: &Dirs, key: &TaskKey, spec: &[u8]) -> Result<PathBuf> {
    let dir = dirs.task(key);
    if let Some(parent) = dir.parent() {
        make(parent)?;
    }
    make(&dirs.runtime_root(&key.namespace))?;
    let fail = |error| Error::io(format!("make {}", dir.display()), error);
    DirBuilder::new().mode(0o700).create(&dir).map_err(fail)?;
    DirBuilder::new().mode(0o755).create(dir.join("rootfs")).map_err(fail)?;
    let path = dir.join("config.json");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(spec))
        .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
    Ok(dir)
}

/// Makes a task's directory and starts its shim there, connected to us.
///
/// # Errors
/// What the system says. The directory is left to the caller.
pub(crate) async fn launch(
    program: PathBuf,
    dirs: Dirs,
    key: TaskKey,
    spec: std::sync::Arc<[u8]>,
    has_user_namespace: bool,
) -> Result<(Child, UnixStream)> {
    blocking::run("start a shim", move || {
        let dir = bundle(&dirs, &key, &spec)?;
        if has_user_namespace {
            userns::open_way(&dir, dirs.state.parent().unwrap_or(&dirs.state))?;
        }
        failpoint::at(&dirs.tasks(), &key, "daemon:bundle");
        let fail = |error| Error::io(format!("start the shim {}", program.display()), error);
        let (ours, theirs) = StdStream::pair().map_err(fail)?;
        ours.set_nonblocking(true).map_err(fail)?;
        let mut command = Command::new(&program);
        command
            // For whoever looks at a list of processes.
            .arg(key.to_string())
            .current_dir(&dir)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(ProcessStdio::null())
            .kill_on_drop(false);
        let child = command.spawn().map_err(fail)?;
        failpoint::at(&dirs.tasks(), &key, "daemon:spawned");
        Ok((child, UnixStream::from_std(ours).map_err(fail)?))
    })
    .await
}

/// Removes a task's directory. Nothing is mounted below it: mounts are in the shim's namespace.
///
/// The namespace's directory stays: another task may be on its way into it.
pub(crate) async fn remove(dir: PathBuf) -> Result<()> {
    blocking::run("remove a task's directory", move || tree::remove(&dir)).await
}

/// Whether this machine has cgroups v1 with controllers left in v2: crun refuses that.
pub(crate) fn is_hybrid() -> bool {
    let left = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    left.is_ok_and(|controllers| !controllers.trim().is_empty())
}
