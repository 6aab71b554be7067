//! After a restart: what the records and the shims that live say.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use capstan_sdk::contract::runtime::{Exit, Status, TaskInfo, TaskKey};
use capstan_sdk::{ContainerId, Error, Namespace, Result, blocking};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::cgroup;
use crate::launch::{self, Dirs};
use crate::record::TaskRecord;
use crate::shim::Shim;
use crate::task::Task;

/// How long a boot waits for the shims, which are all asked at once. The record of one that is hung
/// says nearly as much, and what it knows more comes when it goes on.
const SHORTLY: Duration = Duration::from_secs(1);

/// A task that was found, with the connection to its shim if that lives.
pub(crate) struct Found {
    pub(crate) task: Rc<Task>,
    pub(crate) hangup: Option<JoinHandle<()>>,
    /// The container may still run although nobody looks after it: it must be ended.
    pub(crate) is_orphan: bool,
    pub(crate) cgroups: Vec<String>,
    /// An earlier daemon asked for a start, and it is not done yet.
    pub(crate) is_starting: bool,
}

/// All tasks that earlier daemons left. Each is asked at the same time as the others and has its own
/// deadline, so a shim that hangs delays nobody.
pub(crate) async fn all(dirs: &Dirs) -> Result<Vec<Found>> {
    let top = dirs.tasks();
    let keys = blocking::run("list tasks", move || list(&top)).await?;
    let found = futures::future::join_all(keys.into_iter().map(|key| async {
        let found = one(dirs, key).await?;
        if found.task.exit().is_some() {
            // How it ended is told with whether its memory ran out.
            cgroup::look(&found.task).await;
        }
        Some(found)
    }));
    Ok(found.await.into_iter().flatten().collect())
}

fn list(top: &Path) -> Result<Vec<TaskKey>> {
    let names = |dir: &Path| -> Result<Vec<String>> {
        let fail = |error| Error::io(format!("list {}", dir.display()), error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        Ok(names)
    };
    let mut keys = Vec::new();
    for namespace in names(top)? {
        let dir = top.join(&namespace);
        // Nobody makes tasks yet, so a namespace that has none can go.
        if std::fs::remove_dir(&dir).is_ok() {
            continue;
        }
        for id in names(&dir)? {
            match (Namespace::parse(&namespace), ContainerId::parse(&id)) {
                (Ok(namespace), Ok(id)) => keys.push(TaskKey { namespace, id }),
                _ => warn!(namespace, id, "a directory among the tasks is none"),
            }
        }
    }
    Ok(keys)
}

/// One task; `None` if there is nothing left of it.
async fn one(dirs: &Dirs, key: TaskKey) -> Option<Found> {
    let dir = dirs.task(&key);
    let (read, spec) = (dir.clone(), dir.join("config.json"));
    let record = blocking::run("read a task's record", move || {
        Ok((TaskRecord::read(&read)?, std::fs::read(spec).unwrap_or_default()))
    });
    let (record, spec) = match record.await {
        Ok(read) => read,
        Err(error) => {
            warn!(task = %key, %error, "its record cannot be read");
            return None;
        }
    };
    let command = command(&spec);
    match Shim::connect(&dir).await {
        Ok((shim, hangup)) => match shim.state(SHORTLY).await {
            Ok(state) => {
                let mut info = base(&key, &record);
                if state.is_created {
                    info.status = state.status;
                    info.pid = state.pid;
                    info.exit = state.exit;
                }
                let cgroups = record.created.map(|created| created.cgroups).unwrap_or_default();
                let task = Task::new(dir, command, info, Some(shim));
                // One that is not created (yet) is kept: its shim ends by itself if nothing comes of it.
                let is_starting = state.is_starting;
                Some(Found { task, hangup: Some(hangup), is_orphan: false, cgroups, is_starting })
            }
            Err(error) => {
                warn!(task = %key, %error, "its shim does not answer; what its record says is shown");
                let task = Task::new(dir, command, base(&key, &record), Some(shim));
                let cgroups = record.created.map(|created| created.cgroups).unwrap_or_default();
                Some(Found {
                    task,
                    hangup: Some(hangup),
                    is_orphan: false,
                    cgroups,
                    is_starting: false,
                })
            }
        },
        Err(_) => without_shim(key, dir, command, record).await,
    }
}

/// A task whose shim is dead: the record is all there is.
async fn without_shim(
    key: TaskKey,
    dir: PathBuf,
    command: String,
    record: TaskRecord,
) -> Option<Found> {
    let Some(created) = record.created.clone().filter(|_| !record.is_deleted) else {
        info!(task = %key, "what was left of a task that was never whole, or deleted, is removed");
        if let Err(error) = launch::remove(dir).await {
            warn!(task = %key, %error, "it could not be removed");
        }
        return None;
    };
    let mut info = base(&key, &record);
    let is_orphan = record.exited.is_none();
    if is_orphan {
        info.exit = Some(lost(&record));
    }
    info.status = Status::Stopped;
    info.shim_pid = 0;
    let task = Task::new(dir, command, info, None);
    let cgroups = created.cgroups;
    Some(Found { task, hangup: None, is_orphan, cgroups, is_starting: false })
}

/// The end of a container whose shim did not live to see it.
fn lost(record: &TaskRecord) -> Exit {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let is_this_boot = record.shim.as_ref().is_some_and(|shim| shim.boot_id == boot_id.trim());
    let why = match is_this_boot {
        true => "its shim ended before the container did",
        false => "the machine was restarted while it ran",
    };
    Exit::lost(why)
}

fn base(key: &TaskKey, record: &TaskRecord) -> TaskInfo {
    let created = record.created.clone().unwrap_or_default();
    let status = match (record.exited, record.started_at_unix_ns) {
        (Some(_), _) => Status::Stopped,
        (None, 1..) if record.is_paused => Status::Paused,
        (None, 1..) => Status::Running,
        (None, _) => Status::Created,
    };
    let exit = record.exited.map(|(status, at_unix_ns)| Exit::new(status, at_unix_ns));
    TaskInfo {
        key: key.clone(),
        pid: created.pid,
        status,
        exit,
        stdio: created.stdio,
        has_terminal: created.has_terminal,
        created_at_unix_ns: created.at_unix_ns,
        started_at_unix_ns: record.started_at_unix_ns,
        shim_pid: record.shim.as_ref().map_or(0, |shim| shim.pid),
        runtime: created.runtime,
        restarts: 0,
    }
}

/// The first word of a spec's command.
pub(crate) fn command(spec: &[u8]) -> String {
    let spec: serde_json::Value = serde_json::from_slice(spec).unwrap_or_default();
    first_word(&spec["process"])
}

/// The first word of a process's command.
pub(crate) fn process_command(process: &[u8]) -> String {
    first_word(&serde_json::from_slice(process).unwrap_or_default())
}

fn first_word(process: &serde_json::Value) -> String {
    process["args"][0].as_str().unwrap_or_default().to_owned()
}
