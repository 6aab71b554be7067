//! The record of a task, as its shim wrote it (record.capnp, `TaskRecord`).

use std::path::Path;

use capstan_schema::record_capnp::task_record;
use capstan_schema::{limits, read_texts};
use capstan_sdk::contract::runtime::StdioPaths;
use capstan_sdk::{Error, Result};

/// Everything that a record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskRecord {
    pub(crate) shim: Option<Shim>,
    pub(crate) creating: Option<Creating>,
    pub(crate) created: Option<Created>,
    /// When it was started; 0 = not.
    pub(crate) started_at_unix_ns: i64,
    /// Status and time.
    pub(crate) exited: Option<(u32, i64)>,
    pub(crate) is_paused: bool,
    pub(crate) is_deleted: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shim {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) boot_id: String,
}

/// The runtime was called, or is about to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Creating {
    pub(crate) runtime: String,
    pub(crate) runtime_root: String,
    pub(crate) is_systemd_cgroup: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Created {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) at_unix_ns: i64,
    pub(crate) runtime: String,
    pub(crate) runtime_root: String,
    pub(crate) has_terminal: bool,
    pub(crate) stdio: StdioPaths,
    pub(crate) cgroups: Vec<String>,
    pub(crate) is_log_raw: bool,
}

impl TaskRecord {
    /// Reads the record in a task's directory; one that is not there is empty. What a crash cut short
    /// at the end is ignored.
    ///
    /// # Errors
    /// It cannot be read at all.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("record");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self::parse(&bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
        }
    }

    /// What may know the container: the runtime's program, its directory, whether its cgroups are systemd's.
    pub(crate) fn runtime(&self) -> Option<(&str, &str, bool)> {
        let creating = self.creating.as_ref();
        let creating =
            creating.map(|known| (&*known.runtime, &*known.runtime_root, known.is_systemd_cgroup));
        // A record of an earlier version has only the second.
        let created = self.created.as_ref();
        creating.or(created.map(|known| (&*known.runtime, &*known.runtime_root, false)))
    }

    fn parse(mut bytes: &[u8]) -> Self {
        let mut record = Self::default();
        while !bytes.is_empty() {
            let Ok(message) = capnp::serialize::read_message(&mut bytes, limits()) else { break };
            let Ok(entry) = message.get_root::<task_record::Reader<'_>>() else { break };
            if record.take(entry).is_err() {
                break;
            }
        }
        record
    }

    fn take(&mut self, entry: task_record::Reader<'_>) -> Result<()> {
        let at_unix_ns = entry.get_at_unix_ns();
        match entry.which()? {
            task_record::Shim(shim) => {
                let shim = shim?;
                self.shim = Some(Shim {
                    pid: shim.get_pid(),
                    start_ticks: shim.get_start_ticks(),
                    boot_id: shim.get_boot_id()?.to_string()?,
                });
            }
            task_record::Creating(creating) => {
                let creating = creating?;
                self.creating = Some(Creating {
                    runtime: creating.get_runtime()?.to_string()?,
                    runtime_root: creating.get_runtime_root()?.to_string()?,
                    is_systemd_cgroup: creating.get_systemd_cgroup(),
                });
            }
            task_record::Created(created) => {
                let created = created?;
                self.created = Some(Created {
                    pid: created.get_pid(),
                    start_ticks: created.get_start_ticks(),
                    at_unix_ns,
                    runtime: created.get_runtime()?.to_string()?,
                    runtime_root: created.get_runtime_root()?.to_string()?,
                    has_terminal: created.get_terminal(),
                    stdio: StdioPaths {
                        stdin: created.get_stdin()?.to_string()?,
                        stdout: created.get_stdout()?.to_string()?,
                        stderr: created.get_stderr()?.to_string()?,
                        attach: created.get_attach()?.to_string()?,
                        log: created.get_log()?.to_string()?,
                    },
                    cgroups: read_texts(created.get_cgroups()?)?,
                    is_log_raw: created.get_log_is_raw(),
                });
            }
            task_record::Started(()) => self.started_at_unix_ns = at_unix_ns,
            task_record::Exited(status) => self.exited = Some((status, at_unix_ns)),
            task_record::Deleted(()) => self.is_deleted = true,
            task_record::Paused(is_paused) => self.is_paused = is_paused,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp::message::Builder;

    fn entry(fill: impl FnOnce(task_record::Builder<'_>)) -> Vec<u8> {
        let mut message = Builder::new_default();
        fill(message.init_root());
        capnp::serialize::write_message_to_words(&message)
    }

    fn whole() -> Vec<u8> {
        let mut bytes = entry(|entry| entry.init_shim().set_pid(7));
        bytes.extend(entry(|entry| entry.init_created().set_pid(8)));
        bytes.extend(entry(|mut entry| {
            entry.set_at_unix_ns(5);
            entry.set_started(());
        }));
        bytes.extend(entry(|mut entry| {
            entry.set_at_unix_ns(6);
            entry.set_exited(137);
        }));
        bytes
    }

    #[test]
    fn entries_add_up() {
        let record = TaskRecord::parse(&whole());
        assert_eq!(record.shim.unwrap().pid, 7);
        assert_eq!(record.created.unwrap().pid, 8);
        assert_eq!((record.started_at_unix_ns, record.exited), (5, Some((137, 6))));
        assert!(!record.is_deleted);
    }

    #[test]
    fn any_cut_leaves_what_was_whole() {
        let bytes = whole();
        let mut last = 0;
        for end in 0..=bytes.len() {
            let record = TaskRecord::parse(&bytes[..end]);
            let known = usize::from(record.shim.is_some())
                + usize::from(record.created.is_some())
                + usize::from(record.started_at_unix_ns > 0)
                + usize::from(record.exited.is_some());
            assert!(known >= last, "a longer record says less");
            last = known;
        }
        assert_eq!(last, 4);
    }

    #[test]
    fn garbage_is_no_record() {
        assert_eq!(TaskRecord::parse(&[0xff; 1000]), TaskRecord::default());
        assert_eq!(TaskRecord::parse(b"short"), TaskRecord::default());
    }
}
