//! The record: what happened to the task, on disk before anybody is told.
//!
//! A file of Cap'n Proto messages (record.capnp `TaskRecord`), appended and synced one by one. A
//! message that a crash cut short is the last one and is ignored. It can be read after both daemon
//! and shim have died.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use capnp::message::{Builder, HeapAllocator};
use capstan_schema::record_capnp::task_record;
use capstan_schema::{Error, Result, write_texts};

use crate::stdio::Paths;

/// The file's name in the task's directory.
const NAME: &str = "record";

/// What may happen to a task.
#[derive(Clone, Copy)]
pub(crate) enum Entry<'a> {
    /// The shim is there, and nothing else yet.
    Shim,
    /// The runtime is about to make the container: from here on there may be something of it.
    Creating { id: &'a str, runtime: &'a str, runtime_root: &'a str, is_systemd_cgroup: bool },
    /// The init process exists.
    Created {
        id: &'a str,
        pid: u32,
        runtime: &'a str,
        runtime_root: &'a str,
        has_terminal: bool,
        paths: &'a Paths,
        cgroups: &'a [String],
    },
    /// The user's process runs.
    Started,
    /// The init process ended.
    Exited(u32),
    /// The container is frozen, or goes on.
    Paused(bool),
    /// The task was deleted; the shim ends.
    Deleted,
}

/// The open file.
pub(crate) struct Record {
    file: File,
}

/// Nanoseconds since 1970.
pub(crate) fn now_unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Field 22 of `/proc/<pid>/stat`: when the process started, in clock ticks since boot. Together with
/// the boot it tells one process from a later one of the same number.
pub(crate) fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is in parentheses and may hold anything, parentheses too.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    behind.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl Record {
    /// Makes the file; there must be none.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io(format!("make {}", path.display()), error))?;
        Ok(Self { file })
    }

    /// Writes an entry and waits until it is on disk. Answers the time that it says.
    pub(crate) fn append(&mut self, entry: Entry<'_>) -> Result<i64> {
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(64));
        let mut out = message.init_root::<task_record::Builder<'_>>();
        let now = now_unix_ns();
        out.set_at_unix_ns(now);
        match entry {
            Entry::Shim => {
                let pid = std::process::id();
                let mut shim = out.init_shim();
                shim.set_pid(pid);
                shim.set_start_ticks(start_ticks(pid));
                shim.set_boot_id(&*boot_id());
            }
            Entry::Creating { id, runtime, runtime_root, is_systemd_cgroup } => {
                let mut creating = out.init_creating();
                creating.set_id(id);
                creating.set_runtime(runtime);
                creating.set_runtime_root(runtime_root);
                creating.set_systemd_cgroup(is_systemd_cgroup);
            }
            Entry::Created { id, pid, runtime, runtime_root, has_terminal, paths, cgroups } => {
                let mut created = out.init_created();
                created.set_id(id);
                created.set_pid(pid);
                created.set_start_ticks(start_ticks(pid));
                created.set_runtime(runtime);
                created.set_runtime_root(runtime_root);
                created.set_terminal(has_terminal);
                created.set_stdin(&paths.stdin);
                created.set_stdout(&paths.stdout);
                created.set_stderr(&paths.stderr);
                created.set_attach(&paths.attach);
                created.set_log(&paths.log);
                created.set_log_is_raw(paths.is_log_raw);
                let count = u32::try_from(cgroups.len()).unwrap_or(0);
                write_texts(cgroups, created.init_cgroups(count));
            }
            Entry::Started => out.set_started(()),
            Entry::Exited(status) => out.set_exited(status),
            Entry::Paused(is_paused) => out.set_paused(is_paused),
            Entry::Deleted => out.set_deleted(()),
        }
        let bytes = capnp::serialize::write_message_to_words(&message);
        // One write, so that a crash leaves an entry whole or cut, never mixed.
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::io("write the task's record", error))?;
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::create(dir.path()).unwrap();
        assert!(Record::create(dir.path()).is_err(), "a task has one record");
        record.append(Entry::Shim).unwrap();
        record.append(Entry::Started).unwrap();
        record.append(Entry::Exited(137)).unwrap();
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        let mut slice = bytes.as_slice();
        let mut seen = Vec::new();
        while !slice.is_empty() {
            let options = capstan_schema::limits();
            let message = capnp::serialize::read_message(&mut slice, options).unwrap();
            let entry: task_record::Reader<'_> = message.get_root().unwrap();
            seen.push(match entry.which().unwrap() {
                task_record::Shim(shim) => {
                    let shim = shim.unwrap();
                    assert_eq!(shim.get_pid(), std::process::id());
                    assert!(shim.get_start_ticks() > 0);
                    "shim".to_owned()
                }
                task_record::Started(()) => "started".to_owned(),
                task_record::Exited(status) => format!("exited {status}"),
                _ => "?".to_owned(),
            });
        }
        assert_eq!(seen, ["shim", "started", "exited 137"]);
    }
}
