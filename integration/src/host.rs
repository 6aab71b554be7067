//! A daemon on a throw-away root.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::process::signal;
use crate::{Disk, Remains, program};

/// How long anything may take that takes milliseconds when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; 128 + the signal that ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    fn of(output: &std::process::Output) -> Self {
        Self {
            code: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A disk with a daemon's root, state and socket on it, and the daemon, if it runs.
#[derive(Debug)]
pub struct Host {
    daemon: Option<Child>,
    /// Of the daemon, besides the test's own.
    variables: Vec<(String, String)>,
    cgroup: String,
    // Last, so that it is unmounted when all else is gone.
    disk: Disk,
}

impl Host {
    /// A disk of 4 GiB with a daemon that is ready.
    pub fn new() -> Self {
        Self::with_config("")
    }

    /// The same, with more lines in the configuration file.
    pub fn with_config(more: &str) -> Self {
        let mut host = Self::without_daemon(4096);
        host.configure(more);
        host.start();
        host
    }

    /// A disk alone.
    pub fn without_daemon(mib: u64) -> Self {
        Self::on(Disk::ext4(mib))
    }

    /// On a disk that is there, without a daemon.
    pub fn on(disk: Disk) -> Self {
        let unique = disk.path().parent().and_then(Path::file_name).expect("a directory of ours");
        let cgroup = format!("/{}", unique.to_string_lossy().to_lowercase());
        let host = Self { daemon: None, variables: Vec::new(), cgroup, disk };
        host.configure("");
        host
    }

    /// Writes the configuration file: where everything is, and `more`.
    pub fn configure(&self, more: &str) {
        self.write_config(more, "");
    }

    /// The same, with more of `[plugins."containers.local"]` behind the cgroup.
    pub fn configure_containers(&self, more: &str) {
        self.write_config("", more);
    }

    /// Puts the root on another disk.
    pub fn configure_root(&self, dir: &Path) {
        let root = format!("root = {:?}\n", self.root());
        let text = fs::read_to_string(self.config()).expect("read the configuration");
        assert!(text.contains(&root), "{text}");
        let other = format!("root = {:?}\n", dir.join("root"));
        fs::write(self.config(), text.replace(&root, &other)).expect("write the configuration");
    }

    fn write_config(&self, more: &str, containers: &str) {
        let dir = self.disk.path();
        let text = format!(
            "root = {:?}\nstate = {:?}\naddress = {:?}\nlog_level = \"debug\"\n{}\n\
             [plugins.\"containers.local\"]\ncgroup_parent = {:?}\n{containers}",
            dir.join("root"),
            dir.join("state"),
            self.address(),
            more,
            self.cgroup,
        );
        fs::write(self.config(), text).expect("write the configuration");
    }

    /// Sets a variable of the daemon, from its next start on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        // Not on the disk: it survives what tests do to that.
        self.disk.path().with_file_name("config.toml")
    }

    /// The cgroup that holds its containers.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The daemon's root directory.
    pub fn root(&self) -> PathBuf {
        self.disk.path().join("root")
    }

    /// The daemon's state directory.
    pub fn state(&self) -> PathBuf {
        self.disk.path().join("state")
    }

    /// Anything else on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    /// The daemon's address.
    pub fn address(&self) -> String {
        format!("unix://{}", self.disk.path().join("capstan.sock").display())
    }

    /// Where a test says at which step the daemon is to be held (failpoint.rs of the SDK).
    pub fn failpoints(&self) -> PathBuf {
        self.disk.path().with_file_name("failpoints")
    }

    /// Cuts the power: what is not on the disk is lost, and the daemon is gone. Other threads may be using it.
    pub fn cut_power(&self) {
        self.disk.shut_down();
        signal(self.daemon_pid(), rustix::process::Signal::KILL);
    }

    /// The power comes back; the daemon is not started.
    ///
    /// # Errors
    /// The disk cannot be used.
    pub fn restore_power(&mut self) -> Result<(), String> {
        self.kill();
        self.remains().end();
        self.disk.remount()
    }

    fn log_file(&self) -> PathBuf {
        self.disk.path().with_file_name("daemon.log")
    }

    /// Empties the daemon's log.
    pub fn clear_log(&self) {
        fs::write(self.log_file(), "").expect("empty the daemon's log");
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the daemon and waits until it says that it is ready (`sd_notify`).
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("the daemon did not start:\n{log}");
        }
    }

    /// Starts the daemon; answers its log if it ends instead of being ready.
    ///
    /// # Errors
    /// The log.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.daemon.is_none(), "it runs already");
        let notify = self.disk.path().with_file_name("notify.sock");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).expect("listen for READY=1");
        ready.set_read_timeout(Some(Duration::from_millis(20))).expect("set a timeout");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("open the daemon's log");
        let mut daemon = Command::new(program("capstand"))
            .arg("--config")
            .arg(self.config())
            .env("NOTIFY_SOCKET", &notify)
            .env("CAPSTAN_FAILPOINTS", self.failpoints())
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .expect("start capstand");
        let deadline = Instant::now() + PATIENCE;
        let mut message = [0; 64];
        loop {
            if ready.recv(&mut message).is_ok_and(|got| message[..got].starts_with(b"READY=1")) {
                self.daemon = Some(daemon);
                return Ok(());
            }
            if daemon.try_wait().expect("look at the daemon").is_some() {
                return Err(self.log());
            }
            if Instant::now() > deadline {
                let _ = daemon.kill();
                let _ = daemon.wait();
                return Err(format!("not ready after {PATIENCE:?}\n{}", self.log()));
            }
        }
    }

    /// The daemon's process.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.kill().expect("kill the daemon");
        daemon.wait().expect("wait for the daemon");
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) {
        self.stop_by(rustix::process::Signal::TERM);
    }

    /// A signal that stops it in good order, and its end.
    pub fn stop_by(&mut self, by: rustix::process::Signal) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        signal(daemon.id(), by);
        let status = daemon.wait().expect("wait for the daemon");
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
    }

    /// The command line, ready for this daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("capstan"));
        command.args(args).env("CAPSTAN_ADDRESS", self.address()).env_remove("CAPSTAN_NAMESPACE");
        // Nobody's logins but those that a test makes.
        command.env("CAPSTAN_AUTH_FILE", self.path("auth.json"));
        command.env("DOCKER_CONFIG", self.path("docker")).env_remove("XDG_RUNTIME_DIR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `capstan` to its end.
    pub fn capstan(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().expect("run capstan");
        Output::of(&output)
    }

    /// Runs `capstan` with bytes for its stdin.
    pub fn capstan_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("run capstan");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("wait for capstan");
        // It may have ended without reading: that is its business.
        let _ = writer.join().expect("the writer does not panic");
        Output::of(&output)
    }

    /// Runs `capstan`, which must succeed; answers its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.capstan(args);
        assert_eq!(
            output.code,
            0,
            "capstan {}: {}\n--- daemon:\n{}",
            args.join(" "),
            output.stderr,
            tail(&self.log())
        );
        output.stdout
    }

    /// Runs `capstan`, which must fail with this code, and say one line that begins with the class and
    /// has each of `parts` in it.
    pub fn fails(&self, args: &[&str], code: i32, class: &str, parts: &[&str]) -> Output {
        let output = self.capstan(args);
        check_failure(&args.join(" "), &output, code, class, parts);
        output
    }

    /// Runs `capstan --format json`, which must succeed; answers the value.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["--format", "json"];
        all.extend(args);
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// The ids that `capstan ARGS -q` prints.
    pub fn ids(&self, args: &[&str]) -> Vec<String> {
        let mut all = args.to_vec();
        all.push("-q");
        self.ok(&all).lines().map(str::to_owned).collect()
    }

    /// Removes a container, with its task, whatever that does.
    pub fn remove(&self, id: &str) {
        self.ok(&["tasks", "delete", "--force", id]);
        self.ok(&["containers", "rm", id]);
    }

    /// What there is on this machine of this host, besides the daemon.
    pub fn remains(&self) -> Remains {
        Remains::of(self.disk.path(), &self.cgroup)
    }

    /// Nothing is left of any container: no record, no task, no shim, no mount, no cgroup.
    pub fn assert_no_container(&self) {
        assert_eq!(self.ids(&["containers", "ls"]), Vec::<String>::new(), "containers are left");
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let remains = self.remains();
            if remains.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {remains:#?}\n{}", tail(&self.log()));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, is_so: impl FnMut() -> bool) {
        until(what, is_so, String::new);
    }

    /// The same; a failure tells what `instead` is at last.
    pub fn until_or(
        &self,
        what: &str,
        is_so: impl FnMut() -> bool,
        instead: impl FnOnce() -> String,
    ) {
        until(what, is_so, instead);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log:\n{}", tail(&self.log()));
        }
        self.remains().end();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool, instead: impl FnOnce() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() >= deadline {
            panic!("waited {PATIENCE:?} in vain: {what}; {}", instead());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn check_failure(what: &str, output: &Output, code: i32, class: &str, parts: &[&str]) {
    let Output { stderr, .. } = output;
    assert_eq!(output.code, code, "capstan {what}: {stderr}");
    assert!(
        stderr.starts_with(&format!("capstan: {class}: ")),
        "capstan {what}: not one of class {class}: {stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "capstan {what}: more than one line: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "capstan {what}: no {part:?} in {stderr}");
    }
}
