//! Files of cgroups.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use capstan_sdk::{Error, Result};
use rustix::io::Errno;

/// What the kernel says for a file of something that is switched off, or of a cgroup that has just gone.
fn is_absent(error: &io::Error) -> bool {
    let switched_off = [Errno::OPNOTSUPP, Errno::NODEV].map(|errno| Some(errno.raw_os_error()));
    error.kind() == ErrorKind::NotFound || switched_off.contains(&error.raw_os_error())
}

/// A file's text; `None` where there is no such file.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<String>> {
    match fs::read_to_string(dir.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", dir.join(name).display()), error)),
    }
}

/// A file that is one number; `None` where there is none. What has no limit says `max`: [`UNLIMITED`].
pub(super) fn number(dir: &Path, name: &str) -> Result<Option<u64>> {
    Ok(read(dir, name)?.as_deref().and_then(parse))
}

/// Memory that is no limit, as version 1 says it (the largest number of whole pages of 4 KiB).
pub(super) const UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// A number, or `max`.
pub(super) fn parse(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(UNLIMITED),
        text => text.parse().ok(),
    }
}

/// The number behind a word at the start of a line.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// Writes a file that is there; it makes none.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_word_for_none() {
        assert_eq!(parse("12\n"), Some(12));
        assert_eq!(parse("max\n"), Some(UNLIMITED));
        assert_eq!(parse("-1\n"), None);
        assert_eq!(keyed("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(keyed("oom_kill_disable 0\n", "oom_kill"), None);
    }

    #[test]
    fn what_is_not_there_is_absent_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), "pids.max").unwrap(), None);
        let error = write(&dir.path().join("pids.max"), "5").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!dir.path().join("pids.max").exists());
        fs::write(dir.path().join("pids.max"), "123456\n").unwrap();
        write(&dir.path().join("pids.max"), "max").unwrap();
        assert_eq!(number(dir.path(), "pids.max").unwrap(), Some(UNLIMITED));
        assert!(read(&dir.path().join("pids.max"), "x").is_err(), "not a directory");
    }
}
