//! Where the streams of a new process go: flags, and what they become in a request.

use capstan_client::schema::task_capnp::stdio;
use capstan_client::{Error, Result};
use clap::Args;

use crate::cmd::spec::bytes;

/// The log of a container.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogFlags {
    /// Append stdout and stderr, as they come, to this file on the daemon's machine
    #[arg(long, value_name = "F")]
    log_file: Option<String>,
    /// Begin a new log file when one has this size [default: 16m]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    log_max_size: Option<u64>,
    /// Keep so many log files, with those that are full [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    log_max_files: Option<u32>,
}

/// Where the streams of a new process go.
#[derive(Clone, Debug)]
pub(crate) enum Streams {
    /// Nowhere.
    Null,
    /// To us alone: nothing is logged, and the process waits for us.
    Foreground,
    /// To a log, and to whoever attaches.
    Logged(LogFlags),
}

impl Streams {
    /// What flags of `run` ask for.
    ///
    /// # Errors
    /// `InvalidArgument`: flags that contradict each other.
    pub(crate) fn choose(is_detached: bool, is_null: bool, log: &LogFlags) -> Result<Self> {
        if log.log_file.as_deref().is_some_and(|path| !path.starts_with('/')) {
            return Err(Error::invalid("--log-file: write an absolute path"));
        }
        let has_log = log.log_file.is_some();
        if is_null && has_log {
            return Err(Error::invalid("--null-io and --log-file: use one of them"));
        }
        Ok(match (is_null, is_detached || has_log) {
            (true, _) => Self::Null,
            (false, true) => Self::Logged(log.clone()),
            (false, false) => Self::Foreground,
        })
    }

    pub(crate) fn write(&self, has_stdin: bool, mut out: stdio::Builder<'_>) {
        let log = match self {
            Self::Null => return out.set_null(()),
            Self::Foreground => None,
            Self::Logged(log) => Some(log),
        };
        let mut kept = out.init_kept();
        kept.set_stdin(has_stdin);
        if let Some(log) = log {
            let mut out = kept.init_log();
            out.set_raw(log.log_file.is_some());
            out.set_path(log.log_file.as_deref().unwrap_or_default());
            out.set_max_bytes(log.log_max_size.unwrap_or(0));
            out.set_max_files(log.log_max_files.unwrap_or(0));
        }
    }
}
