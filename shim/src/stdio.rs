//! Streams: nothing, FIFOs, or what passes through the shim.
//!
//! A process writes straight into a FIFO: the shim copies nothing. It only holds both ends open, so
//! that the process meets neither an error nor an end while no client is there, and lets go when the
//! process has ended, so that the client sees the end of the output. What the shim keeps itself goes
//! through a [`Hub`] to a log and to the clients that are attached.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::rc::Rc;

use capstan_schema::task_capnp::stdio;
use capstan_schema::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::attach::{Doorman, Input};
use crate::hub::{Hub, Stream};
use crate::log::{self, Log};
use crate::nonblocking::watched;

/// Where clients find the streams; empty where there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) attach: String,
    pub(crate) log: String,
    pub(crate) is_log_raw: bool,
}

/// The other sides of a terminal.
pub(crate) enum TerminalEnds {
    /// Its bytes come from nowhere, or go nowhere, where there is none.
    Fifos {
        /// What is typed.
        input: Option<File>,
        /// What is shown.
        output: Option<File>,
    },
    /// It passes through the shim.
    Kept {
        /// What is typed.
        input: Rc<Input>,
        /// What is shown.
        hub: Rc<Hub>,
    },
}

/// What a process was asked to have.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Null,
    Fifos { has_stdin: bool },
    Kept { has_stdin: bool, log: Option<log::Wish> },
}

impl Wish {
    pub(crate) fn read(reader: stdio::Reader<'_>) -> Result<Self> {
        Ok(match reader.which()? {
            stdio::Null(()) => Self::Null,
            stdio::Fifos(fifos) => Self::Fifos { has_stdin: fifos?.get_stdin() },
            stdio::LogFile(path) => {
                let path = path?.to_str()?.to_owned();
                let log = log::Wish { path, is_raw: true, ..log::Wish::default() };
                Self::Kept { has_stdin: false, log: Some(log) }
            }
            stdio::Kept(kept) => {
                let kept = kept?;
                let log = match kept.has_log() {
                    true => Some(log::Wish::read(kept.get_log()?)?),
                    false => None,
                };
                Self::Kept { has_stdin: kept.get_stdin(), log }
            }
        })
    }
}

/// Streams that pass through the shim.
pub(crate) struct Kept {
    pub(crate) hub: Rc<Hub>,
    pub(crate) input: Rc<Input>,
    copies: Vec<tokio::task::JoinHandle<()>>,
    _doorman: Doorman,
}

impl Drop for Kept {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.abort();
        }
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
    /// What passes through the shim.
    pub(crate) kept: Option<Kept>,
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
            kept: None,
            dir: None,
        };
        let (input, output, error) = match wish {
            Wish::Null => (None, None, None),
            Wish::Fifos { has_stdin } => {
                let dir = streams.make_dir(dir, name)?;
                streams.fifos(&dir, *has_stdin, has_terminal)?
            }
            Wish::Kept { has_stdin, log } => {
                let dir = streams.make_dir(dir, name)?;
                streams.paths.attach = dir.join("attach.sock").to_string_lossy().into_owned();
                return streams.keep(name, *has_stdin, log.as_ref(), has_terminal);
            }
        };
        if has_terminal {
            streams.terminal = Some(TerminalEnds::Fifos { input, output });
        } else {
            let end = |file: Option<File>| file.map_or_else(ProcessStdio::null, ProcessStdio::from);
            streams.ends = Some([end(input), end(output), end(error)]);
        }
        Ok(streams)
    }

    /// Makes the directory of a process's streams, which goes with them.
    fn make_dir(&mut self, dir: &Path, name: &str) -> Result<PathBuf> {
        let dir = dir.join("io").join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        self.dir = Some(dir.clone());
        Ok(dir)
    }

    /// Leads the streams through the shim.
    fn keep(
        mut self,
        name: &str,
        has_stdin: bool,
        log: Option<&log::Wish>,
        has_terminal: bool,
    ) -> Result<Self> {
        if let Some(log) = log {
            self.paths.log.clone_from(&log.path);
            self.paths.is_log_raw = log.is_raw;
        }
        let log = log.map(Log::open).transpose()?;
        let hub = Rc::new(Hub::new(log, if has_terminal { 1 } else { 2 }));
        let mut copies = Vec::new();
        let mut input = Input::closed();
        if has_terminal {
            if has_stdin {
                input = Input::awaited();
            }
            let (input, hub) = (Rc::clone(&input), Rc::clone(&hub));
            self.terminal = Some(TerminalEnds::Kept { input, hub });
        } else {
            let mut stdin = ProcessStdio::null();
            if has_stdin {
                let (theirs, end) = pipe()?;
                input = Input::pipe(ours(end)?);
                stdin = theirs.into();
            }
            let mut output = |stream| -> Result<ProcessStdio> {
                let (end, theirs) = pipe()?;
                let (hub, end) = (Rc::clone(&hub), ours(end)?);
                copies.push(tokio::task::spawn_local(async move { hub.copy(end, stream).await }));
                Ok(theirs.into())
            };
            let (stdout, stderr) = (output(Stream::Output)?, output(Stream::Error)?);
            self.ends = Some([stdin, stdout, stderr]);
        }
        let doorman = Doorman::listen(&format!("io/{name}/attach.sock"), &hub, &input)?;
        self.kept = Some(Kept { hub, input, copies, _doorman: doorman });
        Ok(self)
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
        self.ends = None;
        self.terminal = None;
        self.close_stdin();
    }

    /// The client sends no more input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin_keeper = None;
        if let Some(kept) = &self.kept {
            kept.input.close();
        }
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

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("make a pipe", error))
}

/// Our end of a pipe.
fn ours(end: OwnedFd) -> Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    watched(end).map_err(|error| Error::io("watch a pipe", error))
}
