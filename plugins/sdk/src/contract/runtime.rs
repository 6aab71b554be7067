//! runtime: containers as processes.
//!
//! The truth about a task is with whoever holds its process (the shim); a runtime plugin keeps a
//! copy that it can always answer from. It publishes `/tasks/*` events itself, because it is the
//! first to know.

use std::sync::Arc;

use capstan_schema::{ContainerId, Error, Mount, Namespace, Result};

use crate::contract::metrics::Sample;
use crate::contract::resources::Resources;

/// Which task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// In which namespace.
    pub namespace: Namespace,
    /// Also the container's id.
    pub id: ContainerId,
}

impl std::fmt::Display for TaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.id)
    }
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The init process exists and waits.
    Created,
    /// It runs.
    Running,
    /// It is being frozen.
    Pausing,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

impl Status {
    /// The word that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub status: u32,
    /// When the shim noticed.
    pub at_unix_ns: i64,
    /// Not empty: the status is not known, and this is why. It is 255 then.
    pub lost: String,
    /// The kernel killed a process of the container for want of memory.
    pub is_out_of_memory: bool,
}

impl Exit {
    /// An end that was seen.
    pub fn new(status: u32, at_unix_ns: i64) -> Self {
        Self { status, at_unix_ns, lost: String::new(), is_out_of_memory: false }
    }

    /// An end whose status nobody knows, noticed now.
    pub fn lost(why: impl Into<String>) -> Self {
        let at_unix_ns = crate::clock::now_unix_ns();
        Self { status: 255, at_unix_ns, lost: why.into(), is_out_of_memory: false }
    }
}

/// Where the streams of a process go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// FIFOs beside the task's other files.
    Fifos {
        /// Else stdin is `/dev/null`.
        has_stdin: bool,
    },
    /// They pass through the shim.
    Kept {
        /// Else stdin is `/dev/null`.
        has_stdin: bool,
        /// `None`: none; then the process waits while nobody reads its output.
        log: Option<Log>,
    },
}

/// A log that the shim writes. It never makes the process wait: what cannot be written is dropped and
/// counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Absolute; empty = in the task's own directory.
    pub path: String,
    /// The bytes as they come, instead of lines of the CRI log format.
    pub is_raw: bool,
    /// Of one file, in bytes; 0 = 16 MiB.
    pub max_bytes: u64,
    /// With those that were rotated; 0 = 2.
    pub max_files: u32,
}

/// Where clients find the streams of a process; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// Written by the client.
    pub stdin: String,
    /// Read by the client.
    pub stdout: String,
    /// Read by the client; empty with a terminal.
    pub stderr: String,
    /// The socket to attach to (task.capnp says how).
    pub attach: String,
    /// The log that the shim writes.
    pub log: String,
}

/// What is known of a task.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// Which.
    pub key: TaskKey,
    /// Of the init process.
    pub pid: u32,
    /// Where it is in its life.
    pub status: Status,
    /// Once it is stopped.
    pub exit: Option<Exit>,
    /// FIFOs of the init process.
    pub stdio: StdioPaths,
    /// Whether init has a terminal.
    pub has_terminal: bool,
    /// When it was made.
    pub created_at_unix_ns: i64,
    /// When it was started; 0 = not yet.
    pub started_at_unix_ns: i64,
    /// Of the shim; 0 if that is gone.
    pub shim_pid: u32,
    /// `embedded`, `runc`, ...
    pub runtime: String,
    /// How often its restart policy has started it anew.
    pub restarts: u32,
}

/// Makes a task: a shim, and an init process that waits for [`Start`].
///
/// `AlreadyExists`: the key has a task. `NotFound`: no such runtime. `InvalidArgument`: the runtime refuses
/// the spec, in its own words. After an error nothing is left.
#[derive(Clone, Debug)]
pub struct Create {
    /// Which.
    pub key: TaskKey,
    /// Name of a runtime; empty = the default.
    pub runtime: String,
    /// OCI runtime spec, JSON.
    pub spec: Arc<[u8]>,
    /// Mounted in order to make the root filesystem, in the shim's own mount namespace.
    pub rootfs: Vec<Mount>,
    /// Where the streams go.
    pub stdio: Stdio,
    /// Whether init has a terminal.
    pub has_terminal: bool,
}

/// Runs the user's process; answers its pid. `FailedPrecondition`: it was started before.
/// `NotFound`, `PermissionDenied`: the command.
#[derive(Clone, Debug)]
pub struct Start(pub TaskKey);

/// Waits for the end of a process: of init, or of an exec, also before it is started. Answers at once if it has ended.
/// `NotFound`: there is no such exec, or it never ran.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Which task.
    pub key: TaskKey,
    /// Which process; empty = init.
    pub exec_id: String,
}

/// Sends a signal. `FailedPrecondition`: the process has ended.
#[derive(Clone, Debug)]
pub struct Kill {
    /// Which task.
    pub key: TaskKey,
    /// Which process; empty = init.
    pub exec_id: String,
    /// Signal number.
    pub signal: u32,
    /// To all processes in the container instead.
    pub is_to_all: bool,
}

/// Removes a task. `FailedPrecondition`: it runs, and `is_forced` is not set. Answers how it ended.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Which.
    pub key: TaskKey,
    /// Kill it first.
    pub is_forced: bool,
    /// Its log stays, for a task that follows.
    pub is_log_kept: bool,
}

/// Looks a task up. `NotFound`.
#[derive(Clone, Debug)]
pub struct Inspect(pub TaskKey);

/// Lists tasks, in all namespaces if none is given. Never waits for a shim.
#[derive(Clone, Debug)]
pub struct List(pub Option<Namespace>);

/// An additional process in a container.
#[derive(Clone, Debug, Default)]
pub struct ProcessSpec {
    /// The command.
    pub args: Vec<String>,
    /// Added to the container's.
    pub env: Vec<String>,
    /// Empty = the container's.
    pub workdir: String,
    /// Empty = the container's.
    pub user: String,
    /// Whether it gets a terminal.
    pub has_terminal: bool,
}

/// Readies an additional process. `FailedPrecondition`: the task does not run. `AlreadyExists`: exec id.
#[derive(Clone, Debug)]
pub struct Exec {
    /// In which task.
    pub key: TaskKey,
    /// Its name in the task.
    pub exec_id: String,
    /// OCI process object, JSON.
    pub process: Arc<[u8]>,
    /// Where its streams go.
    pub stdio: Stdio,
    /// Whether it has a terminal.
    pub has_terminal: bool,
}

/// Runs a readied process; answers its pid. `NotFound`, `PermissionDenied`: the command.
#[derive(Clone, Debug)]
pub struct StartExec {
    /// In which task.
    pub key: TaskKey,
    /// Which.
    pub exec_id: String,
}

/// Forgets an exec. `FailedPrecondition`: it runs, or is being started.
#[derive(Clone, Debug)]
pub struct DeleteExec {
    /// In which task.
    pub key: TaskKey,
    /// Which.
    pub exec_id: String,
}

/// A process in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Seen from the daemon.
    pub pid: u32,
    /// `init`, an exec id, or empty for a child of those.
    pub exec_id: String,
}

/// Lists the processes in a container.
#[derive(Clone, Debug)]
pub struct Processes(pub TaskKey);

/// Tells a terminal how large it is. `FailedPrecondition`: there is none.
#[derive(Clone, Debug)]
pub struct Resize {
    /// Which task.
    pub key: TaskKey,
    /// Which process; empty = init.
    pub exec_id: String,
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Closes the shim's own hold on a process's stdin.
#[derive(Clone, Debug)]
pub struct CloseStdin {
    /// Which task.
    pub key: TaskKey,
    /// Which process; empty = init.
    pub exec_id: String,
}

/// Freezes every process of a container. `FailedPrecondition`: it does not run, or is paused.
#[derive(Clone, Debug)]
pub struct Pause(pub TaskKey);

/// Lets a container go on. `FailedPrecondition`: it is not paused.
#[derive(Clone, Debug)]
pub struct Resume(pub TaskKey);

/// Changes limits of a container while it runs, all or none of them. `InvalidArgument`: the kernel
/// refuses a value. `FailedPrecondition`: it has ended, or the machine has no such controller.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which task.
    pub key: TaskKey,
    /// What is 0 or empty stays as it is.
    pub resources: Resources,
}

/// What the cgroups of a container say, now.
#[derive(Clone, Debug)]
pub struct Measure(pub TaskKey);

/// Writes the processes of a container to an empty directory of the caller's. `FailedPrecondition`: it
/// does not run, or its runtime cannot do that; the message ends with the path of the dump's log.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Which task.
    pub key: TaskKey,
    /// Absolute path.
    pub directory: String,
    /// End it, instead of letting it go on.
    pub is_exit: bool,
}

/// Makes a task from such a directory: [`Start`] lets it go on where it was.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Everything else.
    pub create: Create,
    /// Absolute path; it must stay until the task is started.
    pub directory: String,
}

/// Reads a piece of a task's log; task.capnp says how. `FailedPrecondition`: it keeps none.
#[derive(Clone, Debug)]
pub struct ReadLog {
    /// Which task.
    pub key: TaskKey,
    /// Where the piece before ended; empty = the beginning.
    pub cursor: String,
    /// With an empty cursor: one more than the lines to begin before the end; 0 = all.
    pub tail: u32,
    /// How long to wait for something new.
    pub wait_millis: u32,
}

/// A piece of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPiece {
    /// Whole lines, unless it is raw.
    pub data: Vec<u8>,
    /// Bytes as they came.
    pub is_raw: bool,
    /// The cursor for the next piece.
    pub next: String,
    /// The task has ended, and that was all.
    pub is_end: bool,
    /// What the cursor pointed at was rotated away.
    pub is_missed: bool,
}

crate::contract! {
    /// The contract of kind `runtime`.
    Runtime ("runtime") as RuntimeAddr {
        create: Create => TaskInfo,
        start: Start => u32,
        wait: Wait => Exit [again, lasting],
        kill: Kill => (),
        delete: Delete => Exit,
        inspect: Inspect => TaskInfo [again],
        list: List => Vec<TaskInfo> [again],
        exec: Exec => StdioPaths,
        start_exec: StartExec => u32,
        delete_exec: DeleteExec => Exit,
        processes: Processes => Vec<ProcessInfo> [again],
        resize: Resize => () [again],
        close_stdin: CloseStdin => () [again],
        pause: Pause => (),
        resume: Resume => (),
        update: Update => () [again],
        measure: Measure => Vec<Sample> [again],
        checkpoint: Checkpoint => (),
        restore: Restore => TaskInfo,
        read_log: ReadLog => LogPiece [again, lasting],
    }
}

/// The error that all parts use for a task that is not there.
pub fn no_such_task(key: &TaskKey) -> Error {
    Error::not_found(format!(
        "container {} has no task; start it with `capstan tasks create`",
        key.id
    ))
}

/// Checks an exec id: it becomes a file name.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_exec_id(text: &str) -> Result<()> {
    ContainerId::parse(text)
        .map(drop)
        .map_err(|_| Error::invalid(format!("exec id {text:?}: use letters, digits, dots, dashes")))
}
