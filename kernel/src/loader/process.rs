//! A process that is a plugin.

#![allow(unsafe_code, reason = "what happens between fork and exec")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use capstan_schema::{Class, Error, Result};
use rustix::io::FdFlags;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tracing::warn;

/// Lines of stderr that are kept, for saying why a process ended.
const LAST_WORDS: usize = 4;
/// A line of stderr is cut to so many bytes.
const LONGEST: usize = 1024;
/// How often the memory of a process with a limit is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A running process. Dropping it kills it: what it had to write down it did when it was drained.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: u32,
    limit: u64,
    words: Rc<RefCell<VecDeque<String>>>,
    reader: JoinHandle<()>,
    /// Why we killed it, if we did.
    verdict: Option<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Process {
    /// Starts a program with descriptors let through to it. It dies with the daemon.
    pub(super) fn start(
        argv: &[String],
        environment: &[(&str, String)],
        pass: &[RawFd],
        limit: u64,
        name: &str,
    ) -> Result<Self> {
        let [program, arguments @ ..] = argv else {
            return Err(Error::invalid("a command needs a program"));
        };
        let mut command = Command::new(Path::new(program));
        command.args(arguments).env_clear().envs(environment.iter().map(|(k, v)| (k, v)));
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.current_dir("/").kill_on_drop(true);
        let pass = pass.to_owned();
        let prepare = move || {
            for &number in &pass {
                // SAFETY: the daemon holds these open until the process has started.
                let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
                rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
            }
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        };
        // SAFETY: between fork and exec it makes two kinds of system calls, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let mut child =
            command.spawn().map_err(|error| Error::io(format!("start {program}"), error))?;
        let pid = child.id().unwrap_or_default();
        let words = Rc::new(RefCell::new(VecDeque::new()));
        let stderr = child.stderr.take().expect("it was asked for");
        let reader = tokio::task::spawn_local(listen(stderr, Rc::clone(&words), name.to_owned()));
        Ok(Self { child, pid, limit, words, reader, verdict: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it wrote a line to stderr, lately.
    pub(super) fn said(&self, line: &str) -> bool {
        self.words.borrow().iter().any(|word| word == line)
    }

    /// The error that it wrote last, as `Class: message`, if that is what it did.
    pub(super) fn refusal(&self) -> Option<Error> {
        let words = self.words.borrow();
        let (class, message) = words.back()?.split_once(": ")?;
        let class = Class::ALL.into_iter().find(|known| known.name() == class)?;
        Some(Error::new(class, message))
    }

    /// Waits for its end, and ends it if it takes too much memory; answers why it ended.
    pub(super) async fn ended(&mut self) -> String {
        loop {
            let look = tokio::time::sleep(LOOK);
            tokio::select! {
                status = self.child.wait() => {
                    // Its last words may still be in the pipe.
                    let _ = tokio::time::timeout(LOOK, &mut self.reader).await;
                    return self.describe(status);
                }
                () = look, if self.limit > 0 => {
                    let taken = resident(self.pid);
                    if taken > self.limit {
                        // Kept before it dies: who waits for its stream sees that first, and asks once more.
                        self.verdict = Some(format!(
                            "it took {taken} bytes of memory, and may take {}: it was killed",
                            self.limit
                        ));
                        let _ = self.child.start_kill();
                    }
                }
            }
        }
    }

    fn describe(&self, status: std::io::Result<ExitStatus>) -> String {
        if let Some(verdict) = &self.verdict {
            return verdict.clone();
        }
        let how = match status {
            Ok(status) => format!("its process ended ({status})"),
            Err(error) => format!("its process cannot be waited for: {error}"),
        };
        let words: Vec<String> = self.words.borrow().iter().cloned().collect();
        if words.is_empty() { how } else { format!("{how}: {}", words.join(" | ")) }
    }
}

async fn listen(stderr: ChildStderr, words: Rc<RefCell<VecDeque<String>>>, plugin: String) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
        let text = text.trim_end().to_owned();
        warn!(plugin, "{text}");
        let mut words = words.borrow_mut();
        words.push_back(text);
        if words.len() > LAST_WORDS {
            words.pop_front();
        }
    }
}

/// Memory that a process has resident, in bytes; 0 if it is gone.
pub(crate) fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// The numbers under which descriptors are known in the process that gets them.
pub(super) fn number(descriptor: &OwnedFd) -> RawFd {
    descriptor.as_raw_fd()
}
