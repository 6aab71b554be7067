//! Exit codes (CLI.md), and the one line that an error is.

use std::io::Write as _;
use std::process::ExitCode;

use capstan_client::{Class, Error};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The daemon, or the way to it, said no.
    Error(Error),
    /// As `Error`, which was said already.
    Said(Error),
    /// As `Error`, of a command whose exit status is otherwise that of a process in a container.
    InForeground(Error),
    /// The process in the container ended like this: its code, or 128 + signal.
    Status(u8),
    /// Whoever read our output is gone; nothing more to say.
    BrokenPipe,
}

/// What a command gives.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<capnp::Error> for Failure {
    fn from(error: capnp::Error) -> Self {
        Self::Error(error.into())
    }
}

impl From<capnp::NotInSchema> for Failure {
    fn from(error: capnp::NotInSchema) -> Self {
        Self::Error(error.into())
    }
}

impl From<std::str::Utf8Error> for Failure {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Error(error.into())
    }
}

/// Writing to stdout or stderr failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::Error(Error::io("write output", error))
    }
}

/// The exit code of an error class.
fn code(class: Class) -> u8 {
    match class {
        Class::Internal => 1,
        // 2 is wrong usage: clap's own.
        Class::NotFound => 3,
        Class::AlreadyExists => 4,
        Class::InvalidArgument => 5,
        Class::FailedPrecondition => 6,
        Class::Unavailable => 7,
        Class::PermissionDenied => 8,
        Class::ResourceExhausted => 9,
        Class::Corrupt => 10,
        Class::Aborted => 11,
        Class::Unimplemented => 12,
    }
}

/// The exit code of an error where the status of a process was wanted: Docker's and podman's codes.
fn foreground_code(error: &Error) -> u8 {
    const COMMAND: &str = "command ";
    match error.class() {
        Class::PermissionDenied if error.message().starts_with(COMMAND) => 126,
        Class::NotFound if error.message().starts_with(COMMAND) => 127,
        _ => 125,
    }
}

/// Says what went wrong and gives the exit code.
pub(crate) fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Status(status)) => ExitCode::from(status),
        Err(Failure::Error(error)) => {
            eprintln!("capstan: {error}");
            ExitCode::from(code(error.class()))
        }
        Err(Failure::Said(error)) => ExitCode::from(code(error.class())),
        Err(Failure::InForeground(error)) => {
            eprintln!("capstan: {error}");
            ExitCode::from(foreground_code(&error))
        }
    }
}

/// Does something with each of several names and prints those with which it worked. What fails is said at once, and
/// the rest is done all the same; the first failure is that of the command.
pub(crate) async fn each(names: Vec<String>, one: impl AsyncFn(&str) -> Outcome) -> Outcome {
    let mut first = None;
    for name in names {
        match one(&name).await {
            Ok(()) => writeln!(std::io::stdout(), "{name}")?,
            Err(Failure::Error(error)) => {
                eprintln!("capstan: {error}");
                first.get_or_insert(error);
            }
            Err(other) => return Err(other),
        }
    }
    first.map_or(Ok(()), |error| Err(Failure::Said(error)))
}
