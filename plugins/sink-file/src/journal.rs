//! The file and those before it. All of this blocks.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use capstan_sdk::contract::events::Event;
use capstan_sdk::{Error, Result, tree};

use crate::{Config, line};

/// The files, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    /// Bytes of whole lines that are synced; what is behind them is left of a write that failed.
    size: u64,
    /// The last event that is on disk; 0 if there is none.
    cursor: u64,
}

impl Journal {
    /// Opens the file at `config.path`, or begins it.
    ///
    /// # Errors
    /// `Corrupt`: there is a file with something else in it. What the system says.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let path = config.path.clone();
        let end = End::of(&path)?.unwrap_or_default();
        let file = append_to(&path)?;
        if file.metadata().is_ok_and(|about| about.len() > end.size) {
            cut(&path, &file, end.size)?;
        }
        // It may just have been begun.
        let cursor = match end.cursor {
            Some(cursor) => cursor,
            None => End::of(&old(&path, 1))?.and_then(|end| end.cursor).unwrap_or(0),
        };
        sync_directory(&path)?;
        let &Config { max_bytes, keep, .. } = config;
        Ok(Self { path, max_bytes, keep, file, size: end.size, cursor })
    }

    /// Appends the events that the file does not have yet, and syncs.
    ///
    /// # Errors
    /// What the system says; events that are on disk by then are not written again.
    pub(crate) fn append(&mut self, events: &[Event]) -> Result<()> {
        let mut lines = Vec::new();
        let mut cursor = self.cursor;
        for event in events {
            if event.cursor <= cursor {
                continue;
            }
            let line = line::write(event);
            let size = self.size + bytes(&lines);
            if size > 0 && size + bytes(&line) > self.max_bytes {
                self.write(&lines, cursor)?;
                lines.clear();
                self.rotate()?;
            }
            lines.extend(line);
            cursor = event.cursor;
        }
        self.write(&lines, cursor)
    }

    /// Writes whole lines, the last of which has `cursor`.
    fn write(&mut self, lines: &[u8], cursor: u64) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        // Before and not after a failure: then the disk may refuse that as well.
        cut(&self.path, &self.file, self.size)?;
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::io(format!("append to {}", self.path.display()), error))?;
        self.size += bytes(lines);
        self.cursor = cursor;
        Ok(())
    }

    /// Moves each file to the next name, the last one out, and begins a new one.
    fn rotate(&mut self) -> Result<()> {
        for number in (0..self.keep).rev() {
            let (from, to) = (old(&self.path, number), old(&self.path, number + 1));
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let what = format!("rename {} to {}", from.display(), to.display());
                    return Err(Error::io(what, error));
                }
                _ => {}
            }
        }
        if self.keep == 0 {
            fs::remove_file(&self.path)
                .map_err(|error| Error::io(format!("remove {}", self.path.display()), error))?;
        }
        self.file = append_to(&self.path)?;
        self.size = 0;
        sync_directory(&self.path)
    }
}

/// Where the whole lines of a file end.
#[derive(Debug, Default)]
struct End {
    size: u64,
    /// Of the last of them; `None` if there is none.
    cursor: Option<u64>,
}

impl End {
    /// `None` if there is no such file.
    fn of(path: &Path) -> Result<Option<Self>> {
        let fail = |error| Error::io(format!("read {}", path.display()), error);
        let mut reader = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => BufReader::new(file.map_err(fail)?),
        };
        let (mut end, mut last, mut next) = (Self::default(), Vec::new(), Vec::new());
        loop {
            next.clear();
            reader.read_until(b'\n', &mut next).map_err(fail)?;
            if !next.ends_with(b"\n") {
                break;
            }
            end.size += bytes(&next);
            std::mem::swap(&mut last, &mut next);
        }
        if end.size > 0 {
            let cursor = line::cursor(&last).ok_or_else(|| {
                Error::corrupt(format!(
                    "the last line of {} is no event: move the file away, or name another one",
                    path.display()
                ))
            })?;
            end.cursor = Some(cursor);
        }
        Ok(Some(end))
    }
}

/// The name of an old file; number 0 is the one that is written.
fn old(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

fn append_to(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.map_err(|error| Error::io(format!("open {}", path.display()), error))
}

fn cut(path: &Path, file: &File, size: u64) -> Result<()> {
    file.set_len(size).map_err(|error| Error::io(format!("truncate {}", path.display()), error))
}

/// A new name survives a power cut when its directory is synced.
fn sync_directory(path: &Path) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tree::sync_dir(directory)
}

fn bytes(slice: &[u8]) -> u64 {
    u64::try_from(slice.len()).expect("a slice is shorter than a file can be")
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use capstan_sdk::contract::events::NewEvent;

    fn config(dir: &tempfile::TempDir) -> Config {
        Config { enabled: true, path: dir.path().join("e.jsonl"), ..Config::default() }
    }

    fn events(cursors: std::ops::RangeInclusive<u64>) -> Vec<Event> {
        let event = NewEvent { namespace: None, topic: "/x".into(), fields: vec![] };
        cursors.map(|cursor| Event { cursor, time_unix_ns: 0, event: event.clone() }).collect()
    }

    /// The cursors in one file, as `1 2 3`; `-` if there is no file.
    fn cursors(config: &Config, number: u32) -> String {
        let Ok(text) = fs::read(old(&config.path, number)) else { return "-".into() };
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let cursors = lines.map(|line| line::cursor(line).expect("a line").to_string());
        cursors.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_repeat_gives_no_line_twice_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let mut journal = Journal::open(&config).unwrap();
        journal.append(&events(1..=3)).unwrap();
        journal.append(&events(2..=4)).unwrap();
        let mut journal = Journal::open(&config).unwrap();
        journal.append(&events(3..=5)).unwrap();
        assert_eq!(cursors(&config, 0), "1 2 3 4 5");
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        Journal::open(&config).unwrap().append(&events(1..=2)).unwrap();
        let whole = fs::read(&config.path).unwrap();
        // Cut anywhere: what is left of the second line, and then of the first, is gone.
        for length in (0..whole.len()).rev() {
            fs::write(&config.path, &whole[..length]).unwrap();
            Journal::open(&config).unwrap().append(&events(1..=3)).unwrap();
            assert_eq!(cursors(&config, 0), "1 2 3", "cut at {length}");
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let mut journal = Journal::open(&config).unwrap();
        journal.append(&events(1..=1)).unwrap();
        // What a full disk would have left.
        append_to(&config.path).unwrap().write_all(b"{\"cursor\":2,\"ti").unwrap();
        journal.append(&events(2..=3)).unwrap();
        assert_eq!(cursors(&config, 0), "1 2 3");
    }

    #[test]
    fn full_files_are_renamed_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let two_lines = bytes(&line::write(&events(1..=1)[0])) * 2;
        let config = Config { max_bytes: two_lines, keep: 2, ..config(&dir) };
        let mut journal = Journal::open(&config).unwrap();
        let files = || (0..4).map(|n| cursors(&config, n)).collect::<Vec<_>>().join(", ");
        journal.append(&events(1..=2)).unwrap();
        assert_eq!(files(), "1 2, -, -, -");
        journal.append(&events(3..=3)).unwrap();
        assert_eq!(files(), "3, 1 2, -, -");
        journal.append(&events(4..=9)).unwrap();
        assert_eq!(files(), "9, 7 8, 5 6, -");

        // The daemon ended just after the renaming: the file before it knows how far it is.
        fs::rename(&config.path, old(&config.path, 1)).unwrap();
        let mut journal = Journal::open(&config).unwrap();
        journal.append(&events(8..=9)).unwrap();
        assert_eq!(files(), ", 9, 5 6, -");
    }

    #[test]
    fn without_old_files_the_full_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { max_bytes: 1, keep: 0, ..config(&dir) };
        Journal::open(&config).unwrap().append(&events(1..=3)).unwrap();
        assert_eq!((cursors(&config, 0), cursors(&config, 1)), ("3".into(), "-".into()));
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        fs::write(&config.path, "precious\n").unwrap();
        assert_eq!(Journal::open(&config).unwrap_err().class(), Class::Corrupt);
        assert_eq!(fs::read(&config.path).unwrap(), b"precious\n");
    }
}
