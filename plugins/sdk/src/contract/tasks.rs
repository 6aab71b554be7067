//! tasks: containers and runtimes brought together.
//!
//! It finds the runtime of a container and passes the messages of [`runtime`] on; it removes
//! ephemeral containers with their tasks, also when the client that wanted it is long gone.

use capstan_schema::{ContainerId, Namespace};

use crate::contract::containers::ContainerSpec;
use crate::contract::runtime::{
    CloseStdin, DeleteExec, Exit, Inspect, Kill, List, Measure, Pause, ProcessSpec, Processes,
    ReadLog, Resize, Resume, Start, StartExec, Stdio, StdioPaths, TaskInfo, TaskKey, Update, Wait,
};

/// Makes a task for a container. `NotFound`: container. Otherwise as `runtime::Create`.
#[derive(Clone, Debug)]
pub struct Create {
    /// Of which container.
    pub key: TaskKey,
    /// Where the streams go.
    pub stdio: Stdio,
}

/// Makes a container and its task; if either fails nothing is left.
#[derive(Clone, Debug)]
pub struct Run {
    /// In which namespace.
    pub namespace: Namespace,
    /// Its id.
    pub id: ContainerId,
    /// What the user asked for.
    pub spec: ContainerSpec,
    /// Where the streams go.
    pub stdio: Stdio,
}

/// Removes a task, and the container too if that is ephemeral. Otherwise as `runtime::Delete`.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Which.
    pub key: TaskKey,
    /// Kill it first.
    pub is_forced: bool,
}

/// Removes a container that has no task. `FailedPrecondition`: it has one. `NotFound`.
#[derive(Clone, Debug)]
pub struct DeleteContainer {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub id: ContainerId,
}

/// Says that whoever made a container with [`Run`] is gone. What was not started is removed.
#[derive(Clone, Debug)]
pub struct Abandon(pub TaskKey);

/// Readies an additional process. Answers its exec id and paths. Otherwise as `runtime::Exec`.
#[derive(Clone, Debug)]
pub struct Exec {
    /// In which task.
    pub key: TaskKey,
    /// Empty = chosen by the plugin.
    pub exec_id: String,
    /// What to run.
    pub process: ProcessSpec,
    /// Where its streams go.
    pub stdio: Stdio,
}

/// Writes a running task to the content store, as an image (task.capnp, `Task.checkpoint`).
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Which task.
    pub key: TaskKey,
    /// The image's name; empty = none.
    pub image: String,
    /// End it, instead of letting it go on.
    pub is_exit: bool,
}

/// Makes a task from such an image; the container too, if there is none of that id.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Of which container.
    pub key: TaskKey,
    /// The checkpoint's image name.
    pub checkpoint: String,
    /// Where the streams go.
    pub stdio: Stdio,
}

crate::contract! {
    /// The contract of kind `tasks`.
    Tasks ("tasks") as TasksAddr {
        create: Create => TaskInfo,
        run: Run => TaskInfo,
        delete: Delete => Exit,
        delete_container: DeleteContainer => (),
        abandon: Abandon => (),
        exec: Exec => (String, StdioPaths),
        checkpoint: Checkpoint => String,
        restore: Restore => TaskInfo,
    }
    shared {
        start: Start,
        wait: Wait,
        kill: Kill,
        inspect: Inspect,
        list: List,
        start_exec: StartExec,
        delete_exec: DeleteExec,
        processes: Processes,
        resize: Resize,
        close_stdin: CloseStdin,
        pause: Pause,
        resume: Resume,
        update: Update,
        measure: Measure,
        read_log: ReadLog,
    }
}
