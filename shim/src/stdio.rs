//! Streams: FIFOs that outlive the daemon, a file, or nothing.
//!
//! A process writes straight into the FIFO: the shim copies nothing. It only holds both ends open, so
//! that the process meets neither an error nor an end while no client is there, and lets go when the
//! process has ended, so that the client sees the end of the output.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;

use capstan_schema::task_capnp::stdio;
use capstan_schema::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Paths of FIFOs, for the client; empty where there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The other sides of a terminal; `None` where its bytes come from nowhere, or go nowhere.
#[derive(Debug, Default)]
pub(crate) struct TerminalEnds {
    pub(crate) input: Option<File>,
    pub(crate) output: Option<File>,
}

/// What a process was asked to have.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Null,
    Fifos { has_stdin: bool },
    File(String),
}

impl Wish {
    pub(crate) fn read(reader: stdio::Reader<'_>) -> Result<Self> {
        Ok(match reader.which()? {
            stdio::Null(()) => Self::Null,
            stdio::Fifos(fifos) => Self::Fifos { has_stdin: fifos?.get_stdin() },
            stdio::LogFile(path) => Self::File(path?.to_str()?.to_owned()),
            stdio::Kept(kept) => {
                let kept = kept?;
                match kept.has_log() {
                    true => Self::File(kept.get_log()?.get_path()?.to_str()?.to_owned()),
                    false => Self::Null,
                }
            }
        })
    }
}

/// The streams of one process.
pub(crate) struct Streams {
    pub(crate) paths: Paths,
    /// What the process gets; `None` once it is taken, and with a terminal.
    pub(crate) ends: Option<[ProcessStdio; 3]>,
    /// What a terminal is copied from and to; `None` without one.
    pub(crate) terminal: Option<TerminalEnds>,
    /// Both ends of stdout and stderr; dropped when the process has ended.
    pub(crate) keepers: Vec<File>,
    /// The writing end of stdin; dropped when the client says so, or the process has ended.
    pub(crate) stdin_keeper: Option<File>,
    dir: Option<PathBuf>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

impl Streams {
    /// Makes the streams of a process whose name is `name`, below `dir`.
    ///
    /// With a terminal there is no stderr, and the process gets the terminal in place of the ends.
    pub(crate) fn make(dir: &Path, name: &str, wish: &Wish, has_terminal: bool) -> Result<Self> {
        let mut streams = Self {
            paths: Paths::default(),
            ends: None,
            terminal: None,
            keepers: Vec::new(),
            stdin_keeper: None,
            dir: None,
        };
        let (input, output, error) = match wish {
            Wish::Null => (None, None, None),
            Wish::File(path) => {
                let output = append(path)?;
                let share = |error| Error::io("share the log file", error);
                let error = output.try_clone().map_err(share)?;
                (None, Some(output), Some(error))
            }
            Wish::Fifos { has_stdin } => {
                let dir = dir.join("io").join(name);
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&dir)
                    .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
                streams.dir = Some(dir.clone());
                streams.fifos(&dir, *has_stdin, has_terminal)?
            }
        };
        if has_terminal {
            streams.terminal = Some(TerminalEnds { input, output });
        } else {
            let end = |file: Option<File>| file.map_or_else(ProcessStdio::null, ProcessStdio::from);
            streams.ends = Some([end(input), end(output), end(error)]);
        }
        Ok(streams)
    }

    fn fifos(
        &mut self,
        dir: &Path,
        has_stdin: bool,
        has_terminal: bool,
    ) -> Result<(Option<File>, Option<File>, Option<File>)> {
        let mut input = None;
        if has_stdin {
            let (path, both) = fifo(dir, "stdin")?;
            input = Some(open(&path, true)?);
            // Only the writing end is kept: with the reading end too, its end would never be seen.
            self.stdin_keeper = Some(open(&path, false)?);
            drop(both);
            self.paths.stdin = path;
        }
        let (path, both) = fifo(dir, "stdout")?;
        let output = Some(open(&path, false)?);
        self.keepers.push(both);
        self.paths.stdout = path;
        let mut error = None;
        if !has_terminal {
            let (path, both) = fifo(dir, "stderr")?;
            error = Some(open(&path, false)?);
            self.keepers.push(both);
            self.paths.stderr = path;
        }
        Ok((input, output, error))
    }

    /// The process has ended: the client sees the end of its output.
    pub(crate) fn close(&mut self) {
        self.keepers.clear();
        self.stdin_keeper = None;
        self.ends = None;
        self.terminal = None;
    }
}

/// Makes a FIFO and opens both of its ends, which never blocks.
fn fifo(dir: &Path, name: &str) -> Result<(String, File)> {
    let path = dir.join(name);
    let fail = |error: std::io::Error| Error::io(format!("make stream {}", path.display()), error);
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|error| fail(error.into()))?;
    let both = OpenOptions::new().read(true).write(true).open(&path).map_err(fail)?;
    Ok((path.to_string_lossy().into_owned(), both))
}

/// Opens one end for the process, while both are held: it does not block.
fn open(path: &str, is_input: bool) -> Result<File> {
    OpenOptions::new()
        .read(is_input)
        .write(!is_input)
        .open(path)
        .map_err(|error| Error::io(format!("open stream {path}"), error))
}

/// Opens a log file for appending; links are not followed.
fn append(path: &str) -> Result<File> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("log file {path:?}: write an absolute path")));
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .map_err(|error| Error::io(format!("open log file {path}"), error))
}
