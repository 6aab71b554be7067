//! A daemon of either kind, on a disk of its own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use capstan_integration::{Disk, Remains};
use rustix::process::{Pid, Signal, kill_process};

use crate::{seclusion, timed};

/// How long a daemon may take to come up, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a daemon is: disk, socket and cgroup.
#[derive(Debug)]
pub(crate) struct Place {
    disk: Disk,
    /// The last name of its cgroup: unique, because it is what remains are found by.
    name: String,
}

impl Place {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let disk = Disk::written_ext4(4096);
        // What mkfs and the daemon before left unwritten (a new journal alone is 64 MB) must not be written by the first
        // sync of this one.
        rustix::fs::sync();
        Self { disk, name: format!("{}-{count}", seclusion::cgroup()) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("daemon.sock")
    }

    /// The parent of its containers' cgroups.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}/{}", seclusion::cgroup(), self.name)
    }

    fn remains(&self) -> Remains {
        Remains::of(self.disk.path(), &self.name)
    }
}

/// How the same thing is said to one kind of daemon.
pub(crate) trait Dialect: Sync {
    /// What its directory needs before it is started.
    fn configure(&self, place: &Place);
    /// The daemon.
    fn daemon(&self, place: &Place) -> Command;
    /// Its command line with arguments.
    fn client(&self, place: &Place, args: &[&str]) -> Command;
    /// Pulls and unpacks an image.
    fn pull(&self, place: &Place, image: &str) -> Command;
    /// Runs `/bin/true` to its end and removes it.
    fn run(&self, place: &Place, runtime: &str, image: &str, id: &str) -> Command;
    /// Starts a `sleep` and leaves it running.
    fn detach(&self, place: &Place, runtime: &str, image: &str, id: &str) -> Command;
    /// Lists tasks.
    fn list(&self, place: &Place) -> Command;
    /// What is in the line of a running one.
    fn running(&self) -> &'static str;
    /// Ends and removes containers.
    fn remove(&self, place: &Place, ids: &[String]) -> Vec<Command>;
    /// The program of its shim.
    fn shim(&self) -> &'static str;
}

/// One of them. It is gone, with all that it started, when it is dropped.
pub(crate) struct Daemon {
    dialect: &'static dyn Dialect,
    process: Option<Child>,
    place: Place,
}

impl Daemon {
    /// An empty root on a fresh disk; nothing runs.
    pub(crate) fn new(dialect: &'static dyn Dialect) -> Self {
        let place = Place::new();
        dialect.configure(&place);
        Self { dialect, process: None, place }
    }

    /// Starts it and pulls an image.
    pub(crate) fn start_with(&mut self, image: &str) -> Result<(), String> {
        self.start()?;
        self.pull(image).map(drop)
    }

    /// A file on its disk.
    pub(crate) fn path(&self, name: &str) -> String {
        self.place.path(name).display().to_string()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.place.socket().display())
    }

    /// Starts it; answers how long it took until `version` was answered.
    pub(crate) fn start(&mut self) -> Result<Duration, String> {
        self.start_until(|daemon| daemon.client(&["version"]).is_ok())
    }

    /// Starts it; answers how long it took until the client was content.
    pub(crate) fn start_until(
        &mut self,
        mut is_content: impl FnMut(&Self) -> bool,
    ) -> Result<Duration, String> {
        assert!(self.process.is_none(), "it runs already");
        let path = self.place.path("daemon.log");
        let log = File::options().create(true).append(true).open(&path).expect("open a log");
        let mut command = self.dialect.daemon(&self.place);
        // Where it works tells whose it is: see `Remains`.
        command.current_dir(self.place.disk.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        let start = Instant::now();
        let name = timed::name(&command);
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        self.process = Some(child);
        let mut is_listening = false;
        loop {
            // A client that is turned away costs more than this look, and it costs the daemon.
            is_listening = is_listening || UnixStream::connect(self.place.socket()).is_ok();
            if !is_listening {
                sleep(Duration::from_micros(500));
            } else if is_content(self) {
                return Ok(start.elapsed());
            }
            let process = self.process.as_mut().expect("it was just started");
            let ended = process.try_wait().expect("look at a child");
            if ended.is_some() || start.elapsed() > PATIENCE {
                self.kill();
                let how = ended.map_or("it is not up".to_owned(), |status| status.to_string());
                return Err(format!("{name}: {how}: {}", self.log()));
            }
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.place.path("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let start = Instant::now();
        kill_process(Pid::from_child(process), Signal::TERM).expect("it is not waited for yet");
        while process.try_wait().expect("look at a child").is_none() {
            if start.elapsed() > PATIENCE {
                self.kill();
                return Err(format!("no end {PATIENCE:?} after SIGTERM: {}", self.log()));
            }
            sleep(Duration::from_millis(5));
        }
        self.process = None;
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Removes root and state; the daemon must not run.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none(), "it runs");
        for name in ["root", "state"] {
            let path = self.place.path(name);
            if path.exists() {
                fs::remove_dir_all(&path).expect("remove the daemon's directory");
            }
        }
    }

    pub(crate) fn client(&self, args: &[&str]) -> Result<timed::Ended, String> {
        timed::run(&mut self.dialect.client(&self.place, args))
    }

    pub(crate) fn pull(&self, image: &str) -> Result<timed::Ended, String> {
        timed::run(&mut self.dialect.pull(&self.place, image))
    }

    /// Runs `/bin/true` to its end and removes it.
    pub(crate) fn run(&self, runtime: &str, image: &str) -> Result<timed::Ended, String> {
        timed::run(&mut self.dialect.run(&self.place, runtime, image, &fresh_id()))
    }

    /// Starts a container that sleeps; answers its id.
    pub(crate) fn detach(&self, runtime: &str, image: &str) -> Result<String, String> {
        let id = fresh_id();
        timed::run(&mut self.dialect.detach(&self.place, runtime, image, &id))?;
        Ok(id)
    }

    /// How many tasks are listed as running.
    pub(crate) fn running(&self) -> Result<usize, String> {
        let list = timed::run(&mut self.dialect.list(&self.place))?;
        let is_running = |line: &&str| line.contains(self.dialect.running());
        Ok(list.stdout.lines().filter(is_running).count())
    }

    /// Ends and removes containers, if there are any and it runs.
    pub(crate) fn remove(&self, ids: &[String]) -> Result<(), String> {
        if ids.is_empty() || self.process.is_none() {
            return Ok(());
        }
        self.dialect
            .remove(&self.place, ids)
            .iter_mut()
            .try_for_each(|command| timed::run(command).map(drop))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    /// The processes of its shims.
    pub(crate) fn shims(&self) -> Vec<u32> {
        let is_shim = |command: &str| {
            let program = command.split(' ').next().unwrap_or_default();
            program.rsplit('/').next() == Some(self.dialect.shim())
        };
        let processes = self.place.remains().processes.into_iter();
        processes.filter(|(_, command)| is_shim(command)).map(|(pid, _)| pid).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A shim may end a little after its task is removed; one that does not is worth a word.
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut shims = self.shims();
        while !shims.is_empty() && Instant::now() < deadline && !std::thread::panicking() {
            sleep(Duration::from_millis(50));
            shims = self.shims();
        }
        if !shims.is_empty() {
            eprintln!("{} of {} are left and are killed", shims.len(), self.dialect.shim());
        }
        if let Err(why) = self.stop() {
            eprintln!("{why}");
        }
        self.place.remains().end();
    }
}

/// An id that no other container has.
fn fresh_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("b{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
