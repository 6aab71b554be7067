//! Writes to files of cgroups, all of them or none.

use std::io;
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Result};
use rustix::io::Errno;
use tracing::warn;

use super::file;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// What it limits, for errors: `memory limit`.
    pub(super) what: &'static str,
    pub(super) path: PathBuf,
    pub(super) value: String,
    /// What to write to have it as it was.
    pub(super) before: String,
}

impl Write {
    #[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and references")]
    pub(super) fn new(
        what: &'static str,
        dir: &Path,
        name: &str,
        value: impl ToString,
        before: impl ToString,
    ) -> Self {
        let (value, before) = (value.to_string(), before.to_string());
        Self { what, path: dir.join(name), value, before }
    }
}

/// Writes them in order. If one is refused, those before it are set back, the last first.
///
/// # Errors
/// `InvalidArgument`, `FailedPrecondition`, with the limit and the value.
pub(super) fn apply(writes: &[Write]) -> Result<()> {
    for (index, write) in writes.iter().enumerate() {
        if let Err(error) = file::write(&write.path, &write.value) {
            writes[..index].iter().rev().for_each(set_back);
            return Err(refused(write, error));
        }
    }
    Ok(())
}

fn set_back(write: &Write) {
    if let Err(error) = file::write(&write.path, &write.before) {
        let (file, value) = (write.path.display(), &write.before);
        warn!(%file, value, %error, "a limit could not be set back");
    }
}

fn refused(write: &Write, error: io::Error) -> Error {
    let Write { what, path, value, .. } = write;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_cpuset = name.starts_with("cpuset.");
    match Errno::from_io_error(&error) {
        Some(Errno::INVAL | Errno::RANGE | Errno::OVERFLOW | Errno::NOSPC) => Error::invalid(
            format!("{what} {value}: the kernel refuses this value ({name}: {error})"),
        ),
        // It says so of processors and memory nodes that the cgroup above has not.
        Some(Errno::ACCESS) if is_cpuset => Error::invalid(format!(
            "{what} {value}: the container may not have all of these ({name})"
        )),
        Some(Errno::NODEV) if value.contains(':') => Error::invalid(format!(
            "{what} {value}: there is no such block device ({name}: {error})"
        )),
        Some(Errno::BUSY) if name.starts_with("memory.") => in_use(what, value, &usage(path)),
        Some(Errno::BUSY) => Error::precondition(format!(
            "{what} {value}: what is there now is in use ({name}: {error})"
        )),
        Some(Errno::NOENT | Errno::NODEV) => Error::precondition(format!(
            "{what} {value}: the container's cgroup is gone; it has ended"
        )),
        _ => Error::io(format!("{what} {value}: write {}", path.display()), error),
    }
}

/// A limit of memory that is below what is used.
pub(super) fn in_use(what: &str, value: &str, usage: &str) -> Error {
    Error::precondition(format!(
        "{what} {value}: the container uses {usage} bytes now, and cannot give back as much; choose a \
         higher limit"
    ))
}

/// What is used of that which a file limits.
fn usage(limit: &Path) -> String {
    let name = limit.file_name().unwrap_or_default().to_string_lossy();
    let name = name.replace("limit_in_bytes", "usage_in_bytes");
    let read = limit.parent().map(|dir| file::read(dir, &name));
    match read {
        Some(Ok(Some(usage))) => usage.trim().to_owned(),
        _ => "more".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn a_write_that_fails_sets_those_before_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        for (name, value) in [("a", "1\n"), ("b", "2\n")] {
            std::fs::write(dir.path().join(name), value).unwrap();
        }
        let a = Write::new("a limit", dir.path(), "a", 10, 1);
        let b = Write::new("another", dir.path(), "b", 20, 2);
        let gone = Write::new("a third", dir.path(), "c", 30, 3);
        let error = apply(&[a.clone(), b.clone(), gone]).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.message().contains("a third 30"), "{error}");
        assert_eq!((read("a").as_str(), read("b").as_str()), ("1", "2"));
        apply(&[a, b]).unwrap();
        assert_eq!((read("a").as_str(), read("b").as_str()), ("10", "20"));
    }

    #[test]
    fn each_refusal_has_its_class() {
        let check = |name: &str, value: &str, errno: Errno, class: Class, part: &str| {
            let dir = Path::new("/nowhere");
            let error = refused(&Write::new("its limit", dir, name, value, ""), errno.into());
            assert_eq!(error.class(), class, "{error}");
            assert!(error.message().contains(&format!("its limit {value}")), "{error}");
            assert!(error.message().contains(part), "{error}");
        };
        check("cpu.max", "1 1", Errno::INVAL, Class::InvalidArgument, "refuses");
        check("pids.max", "9", Errno::RANGE, Class::InvalidArgument, "refuses");
        check("cpuset.cpus", "99", Errno::RANGE, Class::InvalidArgument, "refuses");
        check("cpuset.cpus", "0-9", Errno::ACCESS, Class::InvalidArgument, "all of these");
        check("io.max", "9:9 rbps=1", Errno::NODEV, Class::InvalidArgument, "block device");
        check("memory.limit_in_bytes", "5", Errno::BUSY, Class::FailedPrecondition, "uses");
        check("cpu.shares", "5", Errno::NODEV, Class::FailedPrecondition, "ended");
        check("cpu.shares", "5", Errno::ACCESS, Class::PermissionDenied, "cpu.shares");
    }
}
