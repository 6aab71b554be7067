//! The logs that shims write: where they are, and reading them.
//!
//! A log is `<path>`, with older parts in `<path>.1`, `<path>.2` and so on. A cursor names a file by
//! its inode, which a rename does not change, and a place in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use capstan_sdk::contract::runtime::{LogPiece, Stdio, TaskKey};
use capstan_sdk::{Error, Result, tree};
use rustix::fs::OFlags;

/// The most that is read at once, in bytes.
const PIECE: u64 = 256 << 10;

/// The most old parts that are looked for.
const MAX_PARTS: u32 = 1000;

/// The directory of the logs whose users named no place: they live as long as their tasks.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    top: PathBuf,
}

impl Logs {
    pub(crate) fn new(root: &Path) -> Self {
        Self { top: root.join("logs") }
    }

    fn dir(&self, key: &TaskKey) -> PathBuf {
        self.top.join(key.namespace.as_str()).join(key.id.as_str())
    }

    /// Gives a log without a place one, and makes its directory. `name` is that of the process. Answers
    /// whether there was no such directory.
    pub(crate) fn place(&self, key: &TaskKey, name: &str, stdio: &mut Stdio) -> Result<bool> {
        let Stdio::Kept { log: Some(log), .. } = stdio else { return Ok(false) };
        let dir = self.dir(key);
        let is_new = log.path.is_empty() && !dir.exists();
        if log.path.is_empty() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
            log.path = dir.join(format!("{name}.log")).to_string_lossy().into_owned();
        }
        Ok(is_new)
    }

    /// Removes the logs of a task.
    pub(crate) fn remove(&self, key: &TaskKey) -> Result<()> {
        tree::remove(&self.dir(key))
    }

    /// Removes logs of tasks that are not there any more.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sweep(&self, is_there: impl Fn(&str, &str) -> bool) -> Result<()> {
        for namespace in names(&self.top)? {
            let dir = self.top.join(&namespace);
            for id in names(&dir)? {
                if !is_there(&namespace, &id) {
                    tree::remove(&dir.join(id))?;
                }
            }
            // It stays where a log is left.
            let _ = fs::remove_dir(&dir);
        }
        Ok(())
    }
}

/// The names in a directory; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>> {
    let fail = |error| Error::io(format!("list {}", dir.display()), error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    Ok(names)
}

/// A part of a log, open.
struct Part {
    file: File,
    inode: u64,
}

/// The parts that there are, oldest first.
fn parts(path: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for number in 0..MAX_PARTS {
        let name = if number == 0 { path.to_owned() } else { format!("{path}.{number}") };
        let fail = |error| Error::io(format!("read log {name}"), error);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            file => file.map_err(fail)?,
        };
        let about = file.metadata().map_err(fail)?;
        if !about.is_file() {
            return Err(Error::precondition(format!("log {name}: it is no regular file any more")));
        }
        parts.push(Part { file, inode: about.ino() });
    }
    parts.reverse();
    Ok(parts)
}

fn parse(cursor: &str) -> Result<(u64, u64)> {
    let numbers = cursor
        .split_once(':')
        .and_then(|(inode, offset)| Some((inode.parse().ok()?, offset.parse().ok()?)));
    numbers.ok_or_else(|| {
        Error::invalid(format!("log cursor {cursor:?}: use what the piece before said"))
    })
}

/// Reads the piece behind a cursor, as [`capstan_sdk::contract::runtime::ReadLog`] describes it; whether
/// it is the end is for the caller to say.
///
/// # Errors
/// `InvalidArgument`: the cursor. Else what the system says.
pub(crate) fn read(path: &str, is_raw: bool, cursor: &str, tail: u32) -> Result<LogPiece> {
    let mut piece = LogPiece { is_raw, next: cursor.to_owned(), ..LogPiece::default() };
    let mut parts = parts(path)?;
    if parts.is_empty() {
        return Ok(piece);
    }
    let (mut index, mut offset) = match (cursor, tail) {
        ("", 0) => (0, 0),
        ("", tail) => find_tail(&mut parts, is_raw, tail - 1)?,
        _ => {
            let (inode, offset) = parse(cursor)?;
            let index = parts.iter().position(|part| part.inode == inode);
            piece.is_missed = index.is_none();
            index.map_or((0, 0), |index| (index, offset))
        }
    };
    let last = parts.len() - 1;
    loop {
        let part = &mut parts[index];
        let fail = |error| Error::io(format!("read log {path}"), error);
        part.file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        (&mut part.file).take(PIECE).read_to_end(&mut piece.data).map_err(fail)?;
        if index == last && !is_raw {
            // The line that is being written comes with the next piece.
            let whole = piece.data.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            piece.data.truncate(whole);
        }
        piece.next = format!("{}:{}", part.inode, offset + piece.data.len() as u64);
        if !piece.data.is_empty() || index == last {
            return Ok(piece);
        }
        (index, offset) = (index + 1, 0);
    }
}

/// Where the last `count` lines begin.
fn find_tail(parts: &mut [Part], is_raw: bool, count: u32) -> Result<(usize, u64)> {
    let mut left = count;
    for (index, part) in parts.iter_mut().enumerate().rev() {
        let mut text = Vec::new();
        part.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| part.file.read_to_end(&mut text))
            .map_err(|error| Error::io("read a log", error))?;
        let mut start = text.len();
        while left > 0 && start > 0 {
            // The line before: from behind the newline before its own.
            let body = text[..start].strip_suffix(b"\n").unwrap_or(&text[..start]);
            let begin = body.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            // A line that goes on in the next is one with it.
            if is_raw || !goes_on(&text[begin..start]) || left == count {
                left -= 1;
            }
            start = begin;
        }
        // What goes before as parts of the first line belongs to it.
        while !is_raw && left == 0 && start > 0 && count > 0 {
            let body = &text[..start - 1];
            let begin = body.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            if !goes_on(&text[begin..start]) {
                break;
            }
            start = begin;
        }
        if left == 0 {
            return Ok((index, start as u64));
        }
    }
    Ok((0, 0))
}

/// Whether a line of the CRI log format has the tag "P".
fn goes_on(line: &[u8]) -> bool {
    line.split(|&byte| byte == b' ').nth(2) == Some(b"P")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new(parts: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in parts {
                fs::write(dir.path().join(name), text).unwrap();
            }
            Self { dir }
        }

        fn path(&self) -> String {
            self.dir.path().join("log").to_string_lossy().into_owned()
        }

        /// All that there is from a cursor on.
        fn all(&self, is_raw: bool, tail: u32) -> String {
            let (mut text, mut cursor) = (String::new(), String::new());
            loop {
                let piece = read(&self.path(), is_raw, &cursor, tail).unwrap();
                if piece.data.is_empty() {
                    return text;
                }
                text += &String::from_utf8(piece.data).unwrap();
                cursor = piece.next;
            }
        }
    }

    #[test]
    fn parts_are_read_from_the_oldest_on() {
        let bench = Bench::new(&[("log.2", "one\n"), ("log.1", "two\n"), ("log", "three\ncut")]);
        assert_eq!(bench.all(false, 0), "one\ntwo\nthree\n");
        assert_eq!(bench.all(true, 0), "one\ntwo\nthree\ncut");
    }

    #[test]
    fn a_tail_counts_whole_lines() {
        let line = |tag: &str, text: &str| format!("T stdout {tag} {text}\n");
        let old = line("F", "1") + &line("F", "2");
        let new = line("P", "3a") + &line("P", "3b") + &line("F", "3c") + &line("F", "4");
        let bench = Bench::new(&[("log.1", &old), ("log", &new)]);
        let check =
            |lines: u32, want: &str| assert_eq!(bench.all(false, lines + 1), want, "{lines}");
        check(0, "");
        check(1, &line("F", "4"));
        check(2, &new);
        check(3, &(line("F", "2") + &new));
        check(100, &(old.clone() + &new));
        let raw = Bench::new(&[("log", "a\nb\nc")]);
        assert_eq!(raw.all(true, 3), "b\nc");
    }

    #[test]
    fn a_cursor_outlives_a_rotation_and_tells_what_is_gone() {
        let bench = Bench::new(&[("log", "1\n")]);
        let first = read(&bench.path(), true, "", 0).unwrap();
        fs::rename(bench.path(), bench.dir.path().join("log.1")).unwrap();
        fs::write(bench.path(), "2\n").unwrap();
        let second = read(&bench.path(), true, &first.next, 0).unwrap();
        assert_eq!((second.data.as_slice(), second.is_missed), (b"2\n".as_slice(), false));
        let lost = read(&bench.path(), true, "1:0", 0).unwrap();
        assert!(lost.is_missed);
        assert_eq!(lost.data, b"1\n");
        for bad in ["x", "1", "1:", ":1", "-1:0"] {
            assert!(read(&bench.path(), true, bad, 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_that_is_not_there_is_empty() {
        let bench = Bench::new(&[]);
        assert_eq!(read(&bench.path(), false, "", 0).unwrap(), LogPiece::default());
    }
}
