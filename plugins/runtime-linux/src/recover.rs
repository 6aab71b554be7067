//! After a restart: what the records and the shims that live say.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use capstan_sdk::contract::runtime::{Exit, Status, TaskInfo, TaskKey};
use capstan_sdk::{ContainerId, Error, Namespace, Result, blocking};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::cgroup;
use crate::launch::Dirs;
use crate::record::TaskRecord;
use crate::remains;
use crate::shim::{PATIENT, Shim};
use crate::task::Task;

/// How long a boot waits for the shims, which are all asked at once. The record of one that is hung
/// says nearly as much, and what it knows more comes when it goes on.
const SHORTLY: Duration = Duration::from_secs(1);

/// How often it is looked whether a create has come to its end.
const LOOK: Duration = Duration::from_millis(20);

/// What an earlier daemon left of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it, or all that is to be known of one that has ended.
    Whole,
    /// A container without a shim: nobody looks after it, so it must be ended.
    Orphan,
    /// One that is not created, or not yet.
    Half,
    /// One that was deleted; what of it can still be seen is to be removed.
    Deleted,
}

/// A task that was found, with the connection to its shim if that lives.
pub(crate) struct Found {
    pub(crate) task: Rc<Task>,
    pub(crate) hangup: Option<JoinHandle<()>>,
    pub(crate) left: Left,
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
    let command = command(&serde_json::from_slice(&spec).unwrap_or_default());
    let info = base(&key, &record);
    let cgroups = record.created.as_ref().map(|it| it.cgroups.clone()).unwrap_or_default();
    let found = |info, shim: Option<(Shim, JoinHandle<()>)>, left| {
        let (shim, hangup) = shim.unzip();
        let task = Task::new(dir.clone(), command.clone(), info, shim);
        Some(Found { task, hangup, left, cgroups: cgroups.clone(), is_starting: false })
    };
    if record.is_deleted {
        return found(info, None, Left::Deleted);
    }
    let Ok((shim, hangup)) = Shim::connect(&dir).await else {
        let (info, left) = without_shim(info, &record);
        return found(info, None, left);
    };
    match shim.state(SHORTLY).await {
        Ok(state) if state.is_created => {
            let info = TaskInfo { status: state.status, pid: state.pid, exit: state.exit, ..info };
            let found = found(info, Some((shim, hangup)), Left::Whole);
            found.map(|found| Found { is_starting: state.is_starting, ..found })
        }
        // Its shim ends by itself if nothing is going on; for that it must be left alone.
        answer if answer.is_ok() || record.created.is_none() => {
            drop(shim);
            hangup.abort();
            found(info, None, Left::Half)
        }
        answer => {
            warn!(task = %key, error = ?answer.err(), "its shim does not answer; what its record says is shown");
            found(info, Some((shim, hangup)), Left::Whole)
        }
    }
}

/// A task whose shim is dead: the record is all there is.
fn without_shim(info: TaskInfo, record: &TaskRecord) -> (TaskInfo, Left) {
    let left = match record {
        TaskRecord { created: None, .. } => Left::Half,
        TaskRecord { exited: None, .. } => Left::Orphan,
        _ => Left::Whole,
    };
    (TaskInfo { shim_pid: 0, ..info }, left)
}

/// Waits for the end of a create that an earlier daemon asked for. `None` if nothing comes of it.
pub(crate) async fn completed(dirs: &Dirs, key: &TaskKey) -> Option<Found> {
    let deadline = Instant::now() + PATIENT;
    let is_going_on = |record: &TaskRecord| {
        record.shim.as_ref().is_some_and(|shim| remains::is_alive(shim.pid, shim.start_ticks))
    };
    while Instant::now() < deadline {
        let record = TaskRecord::read(&dirs.task(key)).unwrap_or_default();
        if record.created.is_some() {
            return one(dirs, key.clone()).await.filter(|found| found.left != Left::Half);
        }
        if !is_going_on(&record) {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

/// The end of a container whose shim did not live to see it.
pub(crate) fn lost(record: &TaskRecord) -> Exit {
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
pub(crate) fn command(spec: &serde_json::Value) -> String {
    first_word(&spec["process"])
}

/// The first word of a process's command.
pub(crate) fn process_command(process: &[u8]) -> String {
    first_word(&serde_json::from_slice(process).unwrap_or_default())
}

fn first_word(process: &serde_json::Value) -> String {
    process["args"][0].as_str().unwrap_or_default().to_owned()
}
