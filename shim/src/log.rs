//! The log of a container's output, bounded and rotated.
//!
//! It never fails and never waits: what cannot be written is dropped and counted, and the next piece
//! is tried again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use capstan_schema::task_capnp::stdio::log;
use capstan_schema::time::rfc3339;
use capstan_schema::{Error, Result};
use rustix::fs::OFlags;

use crate::hub::Stream;
use crate::record::now_unix_ns;

/// Of one file, in bytes, if nothing else was asked for.
const MAX_BYTES: u64 = 16 << 20;

/// With the renamed ones, if nothing else was asked for.
const MAX_FILES: u32 = 2;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) path: String,
    pub(crate) is_raw: bool,
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
}

impl Wish {
    pub(crate) fn read(reader: log::Reader<'_>) -> Result<Self> {
        Ok(Self {
            path: reader.get_path()?.to_str()?.to_owned(),
            is_raw: reader.get_raw(),
            max_bytes: reader.get_max_bytes(),
            max_files: reader.get_max_files(),
        })
    }
}

/// An open log.
pub(crate) struct Log {
    path: String,
    file: File,
    size: u64,
    is_raw: bool,
    max_bytes: u64,
    max_files: u32,
    dropped: u64,
    /// A piece was cut short: the next begins on a line of its own.
    is_torn: bool,
}

impl Log {
    /// Opens the file for appending; links are not followed.
    ///
    /// # Errors
    /// `InvalidArgument`: no absolute path, or no regular file. Else what the system says.
    pub(crate) fn open(wish: &Wish) -> Result<Self> {
        let path = &wish.path;
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("log file {path:?}: write an absolute path")));
        }
        let fail = |error| Error::io(format!("open log file {path}"), error);
        let irregular = || Error::invalid(format!("log file {path}: it is no regular file"));
        let file = append(path).map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => irregular(),
            _ => fail(error),
        })?;
        let about = file.metadata().map_err(fail)?;
        if !about.is_file() {
            return Err(irregular());
        }
        Ok(Self {
            path: path.clone(),
            file,
            size: about.len(),
            is_raw: wish.is_raw,
            max_bytes: if wish.max_bytes == 0 { MAX_BYTES } else { wish.max_bytes },
            max_files: if wish.max_files == 0 { MAX_FILES } else { wish.max_files },
            dropped: 0,
            is_torn: false,
        })
    }

    /// Output that is in no file, in bytes.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes a piece of output.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.size >= self.max_bytes && self.rotate().is_err() {
            // A log that cannot be rotated must not grow.
            self.dropped += bytes.len() as u64;
            return;
        }
        let written = if self.is_raw {
            write_whole(&mut self.file, bytes)
        } else {
            // Made anew each time: an idle shim holds no buffer.
            let mut lines = Vec::new();
            if self.is_torn {
                lines.push(b'\n');
            }
            format_lines(&mut lines, &rfc3339(now_unix_ns(), 9), stream, bytes);
            write_whole(&mut self.file, &lines)
        };
        match written {
            Ok(size) => {
                self.size += size;
                self.is_torn = false;
            }
            Err(size) => {
                self.size += size;
                self.is_torn |= size > 0;
                self.dropped += bytes.len() as u64;
            }
        }
    }

    /// Renames the full file, and those before it, and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let name = |number: u32| match number {
            0 => self.path.clone(),
            number => format!("{}.{number}", self.path),
        };
        if self.max_files < 2 {
            self.file.set_len(0)?;
        } else {
            for number in (0..self.max_files - 1).rev() {
                match fs::rename(name(number), name(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            self.file = append(&self.path)?;
        }
        self.size = 0;
        self.is_torn = false;
        Ok(())
    }
}

fn append(path: &str) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
}

/// Writes all, or says how much was written before it failed.
fn write_whole(file: &mut File, bytes: &[u8]) -> std::result::Result<u64, u64> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return Err(done as u64),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(done as u64),
        }
    }
    Ok(done as u64)
}

/// Lines of the CRI log format (Kubernetes, "CRI: Log Management"): time, stream, tag, text.
fn format_lines(out: &mut Vec<u8>, time: &str, stream: Stream, bytes: &[u8]) {
    let stream = match stream {
        Stream::Output => "stdout",
        Stream::Error => "stderr",
    };
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let (text, tag) = match line.strip_suffix(b"\n") {
            Some(text) => (text, "F"),
            None => (line, "P"),
        };
        for part in [time, " ", stream, " ", tag, " "] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &tempfile::TempDir, is_raw: bool, max_bytes: u64, max_files: u32) -> Log {
        let path = dir.path().join("log").to_string_lossy().into_owned();
        Log::open(&Wish { path, is_raw, max_bytes, max_files }).unwrap()
    }

    #[test]
    fn lines_keep_their_boundaries() {
        let mut out = Vec::new();
        format_lines(&mut out, "T", Stream::Output, b"one\ntwo\0\x1b[0m\n\npart");
        format_lines(&mut out, "T", Stream::Error, b"ly\n");
        let want = "T stdout F one\nT stdout F two\0\x1b[0m\nT stdout F \nT stdout P part\nT stderr F ly\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, true, 10, 3);
        for letter in [b"a", b"b", b"c", b"d"] {
            log.write(Stream::Output, &letter.repeat(10));
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("log"), read("log.1"), read("log.2")),
            ("d".repeat(10), "c".repeat(10), "b".repeat(10))
        );
        assert!(!dir.path().join("log.3").exists());
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn one_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, true, 4, 1);
        log.write(Stream::Output, b"12345");
        log.write(Stream::Output, b"6");
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "6");
    }

    #[test]
    fn what_a_broken_log_does_not_take_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, false, 1 << 20, 2);
        log.file = File::open("/dev/null").unwrap();
        log.write(Stream::Output, b"lost\n");
        assert_eq!(log.dropped(), 5);
        log.file = append(dir.path().join("log").to_str().unwrap()).unwrap();
        log.write(Stream::Output, b"kept\n");
        assert_eq!(log.dropped(), 5);
        assert!(fs::read_to_string(dir.path().join("log")).unwrap().ends_with("stdout F kept\n"));
    }

    #[test]
    fn only_regular_files_at_absolute_paths_are_logs() {
        let open = |path: &str| Log::open(&Wish { path: path.into(), ..Wish::default() });
        for path in ["relative", "", "/dev/null", "/"] {
            assert!(open(path).is_err(), "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(open(link.to_str().unwrap()).is_err(), "a link is not followed");
    }
}
