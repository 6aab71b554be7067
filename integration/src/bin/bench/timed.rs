//! A command, and how long it takes.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a command may take: a hang is a failure and not a slow figure.
const PATIENCE: Duration = Duration::from_secs(180);

/// A command that succeeded.
#[derive(Debug)]
pub(crate) struct Ended {
    /// From the moment before it was started to its end.
    pub(crate) took: Duration,
    pub(crate) stdout: String,
}

/// Runs a command to its end.
///
/// # Errors
/// What it wrote to stderr, if it fails or takes too long.
pub(crate) fn run(command: &mut Command) -> Result<Ended, String> {
    // In memory, because nobody reads while it runs.
    let (mut stdout, mut stderr) = (memory(), memory());
    let copy = |file: &File| file.try_clone().expect("a second descriptor");
    command.stdin(Stdio::null()).stdout(copy(&stdout)).stderr(copy(&stderr));
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", name(command)))?;
    let pidfd =
        pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("it is not waited for yet");
    let timeout = Timespec::try_from(PATIENCE).expect("it is short");
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
    let took = start.elapsed();
    let is_late = ready == Ok(0);
    if is_late {
        let _ = child.kill();
    }
    let status = child.wait().expect("wait for a child");
    if is_late {
        return Err(format!("{}: no end after {PATIENCE:?}: {}", name(command), text(&mut stderr)));
    }
    if !status.success() {
        return Err(format!("{}: {status}: {}", name(command), text(&mut stderr)));
    }
    Ok(Ended { took, stdout: text(&mut stdout) })
}

pub(crate) fn in_milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn memory() -> File {
    memfd_create("output", MemfdFlags::CLOEXEC).expect("make a file in memory").into()
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read from memory");
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The program and its arguments, as one types them.
pub(crate) fn name(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let mut words = vec![program.rsplit('/').next().unwrap_or(&program).to_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
