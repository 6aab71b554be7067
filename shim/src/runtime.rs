//! The OCI runtime: a program that creates, starts and deletes the container (runtime-spec, runtime.md).

use std::fs;
use std::process::{Command, Stdio};

use capstan_schema::{Error, Result};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::reap::Reaper;
use crate::sys;

/// The file to which the runtime writes its errors, in the task's directory.
const LOG: &str = "log.json";

/// Where a runtime finds its helpers.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is told of what a runtime wrote, in bytes.
const MAX_TOLD: usize = 4096;

/// One OCI runtime, for one container.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    /// Absolute path.
    pub(crate) program: String,
    /// Its own directory for containers.
    pub(crate) root: String,
    pub(crate) id: String,
    pub(crate) is_systemd_cgroup: bool,
    /// The directory of the criu that it is to use; empty = it looks in [`PATH`].
    pub(crate) criu_dir: String,
}

/// What new files are not, in a container: the usual, and Docker's.
const UMASK: u32 = 0o022;

impl Runtime {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root);
        command.args(["--log", LOG, "--log-format", "json"]);
        if self.is_systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        // It needs no more than to find its helpers, and must not find what is the daemon's.
        let path = match self.criu_dir.as_str() {
            "" => PATH.to_owned(),
            criu => format!("{criu}:{PATH}"),
        };
        command.env_clear().env("PATH", path);
        command
    }

    /// Runs a command of the runtime to its end. `ends` are the streams that the container inherits.
    ///
    /// # Errors
    /// `Internal`, with the last thing that the runtime logged; the daemon reads it.
    pub(crate) async fn run(
        &self,
        reaper: &Reaper,
        verb: &str,
        args: &[&str],
        ends: Option<[Stdio; 3]>,
    ) -> Result<()> {
        let _ = fs::remove_file(LOG);
        let mut command = self.command();
        command.arg(verb).args(args).arg(&self.id);
        let [stdin, stdout, stderr] = ends.unwrap_or([Stdio::null(), Stdio::null(), Stdio::null()]);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        if verb == "restore" {
            // It takes long, and what it made after our end would have nobody.
            sys::spawn::end_with_us(&mut command);
        }
        // A container inherits the runtime's, if nothing else is said; ours is too strict for one.
        let strict = umask(Mode::from_raw_mode(UMASK));
        let since = reaper.now();
        let child = command.spawn();
        umask(strict);
        let child =
            child.map_err(|error| Error::io(format!("run the runtime {}", self.program), error))?;
        // The command holds the container's ends of its streams.
        drop(command);
        let ended = reaper.ended(child.id(), since);
        let status = ended.await.map_err(|_| Error::internal("the runtime's end was not seen"))?;
        if status == 0 {
            return Ok(());
        }
        Err(Error::internal(format!("runtime {verb}: {}", last_words(status))))
    }
}

/// The end of the runtime's log, or at least how it ended.
fn last_words(status: u32) -> String {
    let log = fs::read(LOG).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    match log.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => line.chars().take(MAX_TOLD).collect(),
        None => format!("exit status {status}, and it logged nothing"),
    }
}
