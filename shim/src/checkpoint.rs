//! Checkpoint and restore: runc drives CRIU, which writes the processes of a container to files and
//! makes them anew from those.
//!
//! CRIU can only write down what is inside of the container, or what runc tells it to leave open.
//! Of the streams of init these can be dumped: `/dev/null`, a terminal, and pipes. A FIFO or a file of
//! the host is a path in a mount that the container does not have; such a container is refused before
//! anything is done to it.
//!
//! CRIU is never left to put processes into cgroups of its own choice: runc joins the new container's
//! and passes those on as the roots, and the shim looks where the restored init really is.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;

use capstan_schema::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;

use crate::cgroup;
use crate::create::PID_FILE;
use crate::process::Exit;
use crate::record::{Entry, now_unix_ns};
use crate::runtime::Runtime;
use crate::stdio::Streams;
use crate::task::Task;
use crate::terminal::ConsoleSocket;

/// Where CRIU's log is kept after a dump that failed, in the task's directory.
const DUMP_LOG: &str = "criu-dump.log";

/// Where CRIU works during a restore.
const RESTORE_WORK: &str = "criu-restore";

/// Cgroups are made as they were, below those that runc says; every runc that can restore knows this.
const CGROUPS: [&str; 2] = ["--manage-cgroups-mode", "soft"];

/// How many lines of CRIU's log an error tells.
const TOLD_LINES: usize = 3;

/// The most of a line that is told, in characters.
const TOLD_CHARS: usize = 300;

/// What a restore needs besides the runtime.
pub(crate) struct Parts {
    pub(crate) streams: Streams,
    pub(crate) console: Option<ConsoleSocket>,
    /// The runtime, as the daemon named it.
    pub(crate) program: String,
    /// What to restore from.
    pub(crate) directory: String,
}

/// A container that `start` will restore.
pub(crate) struct Pending {
    runtime: Runtime,
    /// `None` once it was tried.
    parts: Option<Parts>,
}

/// The directory in which a criu is; empty for none.
pub(crate) fn directory_of(criu: &str) -> String {
    let parent = Path::new(criu).parent().unwrap_or(Path::new(""));
    parent.to_string_lossy().into_owned()
}

impl Task {
    /// Readies a restore: there is no process before `start`.
    pub(crate) fn defer(&self, runtime: Runtime, parts: Parts) -> Result<u32> {
        self.note(Entry::Created {
            id: &runtime.id,
            pid: 0,
            runtime: &parts.program,
            runtime_root: &runtime.root,
            has_terminal: parts.console.is_some(),
            paths: &parts.streams.paths,
            cgroups: &[],
        })?;
        self.pending.replace(Some(Pending { runtime, parts: Some(parts) }));
        Ok(0)
    }

    /// Restores what was readied; answers init's number. It runs from then on.
    ///
    /// After an error the task can only be deleted.
    pub(crate) async fn restore(self: &Rc<Self>) -> Result<u32> {
        let taken = self.pending.borrow_mut().as_mut().and_then(|pending| {
            let parts = pending.parts.take()?;
            Some((pending.runtime.clone(), parts))
        });
        let Some((runtime, parts)) = taken else {
            return Err(Error::precondition("its restore failed before; delete the task"));
        };
        let Parts { mut streams, console, program, directory } = parts;
        fs::create_dir_all(RESTORE_WORK)
            .map_err(|error| Error::io("make a directory for criu", error))?;
        let mut args = vec!["--image-path", &directory, "--work-path", RESTORE_WORK];
        args.extend(CGROUPS);
        args.extend(["--file-locks", "--detach", "--no-subreaper"]);
        args.extend(["--bundle", ".", "--pid-file", PID_FILE]);
        if let Some(console) = &console {
            args.extend(["--console-socket", console.name()]);
        }
        let ends: Option<[Stdio; 3]> = streams.ends.take();
        let since = self.reaper.now();
        let restored = runtime.run(&self.reaper, "restore", &args, ends).await;
        let log = Path::new(RESTORE_WORK).join("restore.log");
        let restored = restored.map_err(|error| explain(error, &log, None));
        let _ = fs::remove_dir_all(RESTORE_WORK);
        if let Err(error) = restored {
            self.undo(&runtime).await;
            return Err(error);
        }
        let pid = match self.adopt(&runtime, streams, console, &program, since) {
            Ok(pid) => pid,
            Err(error) => {
                self.container.replace(None);
                self.undo(&runtime).await;
                return Err(error);
            }
        };
        self.pending.replace(None);
        let container = self.container()?;
        if container.cgroups.is_empty() {
            // Only this process: nothing is done to a cgroup that is not the container's alone.
            let _ = container.init.signal(Signal::KILL);
            return Err(Error::internal(
                "the restored process is in no cgroup of its own, and was ended; delete the task",
            ));
        }
        container.init.is_started.set(true);
        self.note(Entry::Started)?;
        Ok(pid)
    }

    /// Deletes a task that was never restored.
    pub(crate) async fn forget_pending(&self) -> Result<Exit> {
        let pending = self.pending.borrow_mut().take();
        if let Some(pending) = pending {
            self.undo(&pending.runtime).await;
        }
        self.note(Entry::Deleted)?;
        self.done.notify_one();
        Ok(Exit { status: 128 + 9, at_unix_ns: now_unix_ns() })
    }

    /// Writes the processes of the container to `directory`. It goes on running unless `is_exit`.
    ///
    /// # Errors
    /// `FailedPrecondition`: it cannot be dumped, and why. With a log of CRIU's the message ends with the
    /// path of that.
    pub(crate) async fn checkpoint(
        &self,
        directory: &str,
        work: &str,
        is_exit: bool,
    ) -> Result<()> {
        let _step = self.step.lock().await;
        let container = self.container()?;
        if !container.init.is_started.get() || container.init.exit().is_some() {
            return Err(Error::precondition("the task does not run"));
        }
        let is_running = |exec: &crate::exec::Exec| {
            exec.process.borrow().as_ref().is_some_and(|process| process.exit().is_none())
        };
        if let Some((id, _)) = self.execs.borrow().iter().find(|(_, exec)| is_running(exec)) {
            return Err(Error::precondition(format!(
                "exec {id} runs, and would be missing in the checkpoint; let it end, or kill it"
            )));
        }
        // To dump is to freeze all that is in them.
        if container.cgroups.is_empty() {
            return Err(Error::precondition("the container has no cgroup of its own"));
        }
        cgroup::guard(&container.cgroups)?;
        check_streams(container.init.pid)?;
        let fail = |error| Error::io(format!("make {work}"), error);
        let _ = fs::remove_dir_all(work);
        fs::create_dir(work).map_err(fail)?;
        let mut args = vec!["--image-path", directory, "--work-path", work];
        args.extend(CGROUPS);
        args.push("--file-locks");
        if !is_exit {
            args.push("--leave-running");
        }
        let dumped = container.runtime.run(&self.reaper, "checkpoint", &args, None).await;
        let (log, kept) = (Path::new(work).join("dump.log"), self.dir.join(DUMP_LOG));
        let dumped = dumped.map_err(|error| explain(error, &log, Some(&kept)));
        let _ = fs::remove_dir_all(work);
        if dumped.is_ok() {
            // That of an earlier try tells nothing any more.
            let _ = fs::remove_file(&kept);
        }
        dumped
    }
}

/// Puts the errors of CRIU's log in place of the runtime's words, which only say where that is. The log
/// is copied to `kept`, and its path told.
fn explain(error: Error, log: &Path, kept: Option<&Path>) -> Error {
    let Ok(bytes) = fs::read(log) else { return error };
    let lines = match complaints(&String::from_utf8_lossy(&bytes)) {
        lines if lines.is_empty() => error.message().to_owned(),
        lines => lines,
    };
    match kept {
        Some(kept) if fs::write(kept, &bytes).is_ok() => {
            Error::precondition(format!("criu: {lines}; its log: {}", kept.display()))
        }
        _ => Error::precondition(format!("criu: {lines}")),
    }
}

/// The first lines of a log of CRIU's that say what went wrong.
fn complaints(log: &str) -> String {
    // It says so wherever it lacks CAP_SYS_RESOURCE, and goes on.
    let is_complaint = |line: &&str| line.contains(" Error (") && !line.contains("rlimit:");
    let lines = log.lines().filter(is_complaint).take(TOLD_LINES).map(|line| {
        let said = line.split_once(" Error ").map_or(line, |(_, said)| said);
        said.chars().take(TOLD_CHARS).collect::<String>()
    });
    lines.collect::<Vec<_>>().join("; ")
}

/// Whether CRIU can write down the streams of init.
fn check_streams(pid: u32) -> Result<()> {
    let read = |path: String| {
        fs::read_to_string(&path).map_err(|error| Error::io(format!("read {path}"), error))
    };
    let mounts = read(format!("/proc/{pid}/mountinfo"))?;
    for (number, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
        // One that is closed is no trouble.
        let Ok(stream) = open_as_it_is(&format!("/proc/{pid}/fd/{number}")) else { continue };
        let ours = stream.as_raw_fd();
        let target = fs::read_link(format!("/proc/self/fd/{ours}"))
            .map_err(|error| Error::io(format!("find its {name}"), error))?;
        let about = read(format!("/proc/self/fdinfo/{ours}"))?;
        if is_outside(&target.to_string_lossy(), &about, &mounts) {
            return Err(Error::precondition(format!(
                "its {name} is {}, which is outside of the container; only /dev/null, a terminal and \
                 pipes can be kept in a checkpoint: run it with -d or -t",
                target.display()
            )));
        }
    }
    Ok(())
}

/// Opens what a file of another process is, without its reading or writing: what is asked of this one
/// is asked of one thing, while the process may put another in its place (a shell with `echo > file`).
fn open_as_it_is(path: &str) -> std::io::Result<File> {
    Ok(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Whether an open file is in a mount that its process does not have. Pipes and sockets are in none.
fn is_outside(target: &str, fdinfo: &str, mountinfo: &str) -> bool {
    if !target.starts_with('/') || target.starts_with("/memfd:") {
        return false;
    }
    let mount = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let mut mounts = mountinfo.lines().filter_map(|line| line.split(' ').next());
    mount.is_none_or(|mount| !mounts.any(|known| known == mount))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_schema::Class;

    #[test]
    fn only_streams_that_criu_can_write_down_pass() {
        let mounts =
            "60 50 0:27 / / rw - overlay overlay rw\n61 60 0:28 / /dev rw - tmpfs tmpfs rw\n";
        for (target, mount, want) in [
            ("pipe:[17]", 14, false),
            ("socket:[17]", 9, false),
            ("/dev/null", 61, false),
            ("/var/log/own", 60, false),
            ("/memfd:x (deleted)", 2, false),
            ("/run/tasks/web/io/init/stdout", 25, true),
            ("/var/log/web.log", 6, true),
        ] {
            let fdinfo = format!("pos:\t0\nflags:\t0100001\nmnt_id:\t{mount}\nino:\t5\n");
            assert_eq!(is_outside(target, &fdinfo, mounts), want, "{target}");
        }
        assert!(is_outside("/dev/null", "pos:\t0\n", mounts), "nobody knows where it is");
    }

    /// This very process: its mounts are its own.
    #[test]
    fn a_process_in_its_own_mounts_passes() {
        let own = fs::File::open("/dev/null").unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("10")
            .stdin(own.try_clone().unwrap())
            .stdout(own.try_clone().unwrap())
            .stderr(own)
            .spawn()
            .unwrap();
        let outcome = check_streams(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        outcome.unwrap();
    }

    /// As a shell does that writes into files of its container, one after the other: it has a pipe, a file,
    /// the pipe again.
    #[test]
    fn a_process_that_changes_its_streams_passes() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while :; do echo x > file; done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let outcome: Result<()> = (0..5_000).try_for_each(|_| check_streams(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        outcome.unwrap();
    }

    #[test]
    fn an_error_has_crius_words_and_ends_with_the_path_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let (log, kept) = (dir.path().join("dump.log"), dir.path().join(DUMP_LOG));
        let own = Error::internal("runtime checkpoint: criu failed: type NOTIFY errno 0");
        assert_eq!(explain(own.clone(), &log, Some(&kept)), own, "without a log nothing is added");
        fs::write(
            &log,
            "(00.01) Warn  (criu/x.c:1): never mind\n\
             (00.04) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
             (00.15) Error (criu/files-reg.c:1790): Can't lookup mount=60 for fd=1 path=/x\n\
             (00.22) Error (criu/cr-dump.c:1975): Dumping FAILED.\n",
        )
        .unwrap();
        let error = explain(own, &log, Some(&kept));
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(
            error.message().starts_with("criu: (criu/files-reg.c:1790): Can't lookup"),
            "{error}"
        );
        assert!(error.message().contains("Dumping FAILED"), "{error}");
        assert!(!error.message().contains("rlimit"), "{error}");
        assert!(error.message().ends_with(DUMP_LOG), "{error}");
        assert_eq!(fs::read(&kept).unwrap(), fs::read(&log).unwrap());
    }

    #[test]
    fn the_directory_of_a_criu_comes_first_in_path() {
        assert_eq!(directory_of(""), "");
        assert_eq!(directory_of("/opt/criu/criu"), "/opt/criu");
    }
}
