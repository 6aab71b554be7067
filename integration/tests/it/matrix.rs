//! The daemon, a shim, or both are killed at every step of create, start, exec, kill and delete, with the
//! embedded runtime and with runc. Afterwards the kernel is asked what there is, and the daemon must say the
//! same; the same name can be used again; and nothing is left.
//!
//! A step is a failpoint of the daemon (plugins/runtime-linux/src/failpoint.rs) or of the shim
//! (shim/src/failpoint.rs), or a moment at random. `CAPSTAN_ROUNDS` says how many rounds there are: 60 are
//! spread over the matrix, 1000 are all of it several times.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use capstan_integration::{Host, Random, make_rootfs};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Daemons side by side.
const HOSTS: usize = 4;

/// How long what takes milliseconds may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the container does: it ends with 42 when it is told to.
const SCRIPT: &str = "trap 'exit 42' TERM; while :; do sleep 0.05; done";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Create,
    Start,
    Exec,
    Kill,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Shim,
    Both,
}

/// Where the victim is when it is killed; the empty step is a moment at random.
const STEPS: &[(Call, &str)] = &[
    (Call::Create, "daemon:bundle"),
    (Call::Create, "daemon:spawned"),
    (Call::Create, "daemon:launched"),
    (Call::Create, "shim:begun"),
    (Call::Create, "shim:noted"),
    (Call::Create, "create:mounted"),
    (Call::Create, "create:noted"),
    (Call::Create, "create:made"),
    (Call::Create, "create:created"),
    (Call::Create, "daemon:created"),
    (Call::Create, "daemon:listed"),
    (Call::Create, ""),
    (Call::Start, "daemon:start"),
    (Call::Start, "start:asked"),
    (Call::Start, "start:run"),
    (Call::Start, "start:noted"),
    (Call::Start, "daemon:started"),
    (Call::Start, ""),
    (Call::Exec, "daemon:exec"),
    (Call::Exec, "daemon:exec-start"),
    (Call::Exec, "exec:ready"),
    (Call::Exec, "exec:run"),
    (Call::Exec, "exec:ended"),
    (Call::Exec, "daemon:exec-started"),
    (Call::Exec, ""),
    (Call::Kill, "daemon:kill"),
    (Call::Kill, "daemon:killed"),
    (Call::Kill, "exit:seen"),
    (Call::Kill, "exit:noted"),
    (Call::Kill, ""),
    (Call::Delete, "daemon:delete"),
    (Call::Delete, "delete:asked"),
    (Call::Delete, "delete:ended"),
    (Call::Delete, "delete:run"),
    (Call::Delete, "delete:noted"),
    (Call::Delete, "daemon:deleted"),
    (Call::Delete, "daemon:dismissed"),
    (Call::Delete, "daemon:forgotten"),
    (Call::Delete, ""),
];

/// Where there is no shim.
const WITHOUT_SHIM: [&str; 3] = ["daemon:bundle", "daemon:dismissed", "daemon:forgotten"];

#[derive(Clone, Copy, Debug)]
struct Case {
    call: Call,
    step: &'static str,
    victim: Victim,
    runtime: &'static str,
    /// A delete of what runs.
    is_forced: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, step, victim, runtime, is_forced } = self;
        let step = if step.is_empty() { "a random moment" } else { step };
        let forced = if *is_forced { " (forced)" } else { "" };
        write!(f, "{victim:?} killed at {step} of {call:?}{forced} with {runtime}")
    }
}

/// All of the matrix.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(call, step) in STEPS {
        for victim in [Victim::Daemon, Victim::Shim, Victim::Both] {
            if victim != Victim::Daemon && WITHOUT_SHIM.contains(&step) {
                continue;
            }
            for runtime in ["embedded", "runc"] {
                for is_forced in [false, true] {
                    if !is_forced || call == Call::Delete {
                        cases.push(Case { call, step, victim, runtime, is_forced });
                    }
                }
            }
        }
    }
    cases
}

fn rounds() -> usize {
    std::env::var("CAPSTAN_ROUNDS")
        .map_or(60, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"))
}

#[test]
fn what_is_told_is_what_is_whoever_is_killed_at_any_step() {
    let mut random = Random::new();
    let mut queue = Vec::new();
    while queue.len() < rounds() {
        let mut all = cases();
        random.shuffle(&mut all);
        queue.extend(all);
    }
    queue.truncate(rounds());
    let begin = Instant::now();
    let queue: Mutex<Vec<(usize, Case)>> = Mutex::new(queue.into_iter().enumerate().collect());
    let differences = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..HOSTS {
            let mut random = Random::new();
            let (queue, differences) = (&queue, &differences);
            scope.spawn(move || {
                let mut place = Place::new();
                loop {
                    let next = queue.lock().expect("nobody panics with it").pop();
                    let Some((number, case)) = next else { break };
                    if let Err(difference) = place.round(number, case, &mut random) {
                        let text = format!("round {number}: {case}: {difference}");
                        eprintln!("{text}\n{}", place.log_of(number));
                        differences.lock().expect("nobody panics with it").push(text);
                        // What is left of it is no business of the next.
                        place = Place::new();
                    }
                }
                place.host.assert_no_container();
            });
        }
    });
    let differences = differences.into_inner().expect("nobody panics with it");
    eprintln!(
        "{} rounds over {} cases in {:.0?}: {} differences",
        rounds(),
        cases().len(),
        begin.elapsed(),
        differences.len()
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What the kernel says of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    /// Nothing of it.
    Nothing,
    /// Processes, the user's not among them.
    Waits,
    /// The user's process.
    Runs,
}

/// What the daemon says of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    status: String,
    exit: Option<u64>,
    lost: String,
}

type Checked<T = ()> = Result<T, String>;

fn check(is_so: bool, what: impl FnOnce() -> String) -> Checked {
    if is_so { Ok(()) } else { Err(what()) }
}

/// A host, used for many rounds.
struct Place {
    host: Host,
    rootfs: PathBuf,
}

impl Place {
    fn new() -> Self {
        let mut host = Host::without_daemon(512);
        let rootfs = host.path("rootfs");
        make_rootfs(&rootfs);
        host.start();
        Self { host, rootfs }
    }

    fn runtime_dir(&self) -> PathBuf {
        self.host.state().join("runtime.linux")
    }

    /// The lines of the daemon's log that concern a round.
    fn log_of(&self, number: usize) -> String {
        let id = format!("m{number}");
        let log = self.host.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
        lines.join("\n")
    }

    fn round(&mut self, number: usize, case: Case, random: &mut Random) -> Checked {
        let id = format!("m{number}");
        // The last word of the command, by which the user's process is known.
        let token = format!("token-{}-{number}", std::process::id());
        let rootfs = self.rootfs.display().to_string();
        let args = ["containers", "create", "--runtime", case.runtime, "--rootfs", &rootfs];
        let mut args = args.to_vec();
        args.extend([id.as_str(), "sh", "-c", SCRIPT, &token]);
        self.must(&args)?;
        match case.call {
            Call::Create => {}
            Call::Start => self.must(&["tasks", "create", &id])?,
            Call::Exec | Call::Kill => {
                self.must(&["tasks", "start", "-d", &id])?;
                self.has_trap(&id, &token)?;
            }
            Call::Delete => {
                self.must(&["tasks", "start", "-d", &id])?;
                if !case.is_forced {
                    self.has_trap(&id, &token)?;
                    self.must(&["tasks", "kill", &id])?;
                    let code = self.host.capstan(&["tasks", "wait", &id]).code;
                    check(code == 42, || format!("before the kill it ended with {code}"))?;
                }
            }
        }
        let exec = self.disturb(&id, case, random)?;
        check(!matches!(exec, Some(0)), || "an exec that ends with 7 ended with 0".into())?;
        let told = self.compare(&id, &token)?;
        if let Some(told) = &told {
            check_exit(case, told)?;
        }
        self.reuse(&id, &token, told.as_ref())?;
        self.must(&["tasks", "delete", "--force", &id])?;
        self.must(&["containers", "rm", &id])?;
        self.nothing_is_left(&id)
    }

    /// Makes the call, kills who is to be killed in the middle of it, and starts the daemon again if that was
    /// one of them. Answers the exit code of an exec.
    fn disturb(&mut self, id: &str, case: Case, random: &mut Random) -> Checked<Option<i32>> {
        let (wish, hit) =
            (self.runtime_dir().join("failpoint"), self.runtime_dir().join("failpoint.hit"));
        if !case.step.is_empty() {
            let fresh = wish.with_extension("new");
            fs::write(&fresh, format!("{id} {}", case.step)).expect("write a failpoint");
            fs::rename(&fresh, &wish).expect("set a failpoint");
        }
        let args = match case.call {
            Call::Create => vec!["tasks", "create", id],
            Call::Start => vec!["tasks", "start", "-d", id],
            Call::Exec => vec!["tasks", "exec", id, "sh", "-c", "exit 7"],
            Call::Kill => vec!["tasks", "kill", id],
            Call::Delete if case.is_forced => vec!["tasks", "delete", "--force", id],
            Call::Delete => vec!["tasks", "delete", id],
        };
        let mut call = self.host.command(&args).spawn().expect("run capstan");
        if case.step.is_empty() {
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
        } else if !soon(|| hit.exists()) {
            let _ = (call.kill(), call.wait());
            return Err("the step was never reached".into());
        }
        let shim = self.shim(id);
        let is_shim_first = random.below(2) == 0;
        if case.victim != Victim::Daemon && is_shim_first {
            kill(shim);
        }
        if case.victim != Victim::Shim {
            self.host.kill();
        }
        if case.victim != Victim::Daemon && !is_shim_first {
            kill(shim);
        }
        let _ = (fs::remove_file(&wish), fs::remove_file(&hit));
        let ended = end_of(&mut call);
        if case.victim != Victim::Shim {
            self.host.try_start().map_err(|log| format!("the daemon does not start: {log}"))?;
        }
        let Some((code, stderr)) = ended else {
            return Err(format!("the client does not end: {args:?}"));
        };
        let is_typed = stderr.starts_with("capstan: ");
        let is_fine = code == 0 || is_typed || (case.call == Call::Exec && code == 7);
        check(is_fine, || format!("{args:?} ended with {code}: {stderr}"))?;
        Ok((case.call == Call::Exec).then_some(code))
    }

    /// Waits until the daemon says what the kernel says, and goes on saying it.
    fn compare(&self, id: &str, token: &str) -> Checked<Option<Told>> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            let before = self.truth(id, token);
            let told = self.told(id)?;
            let after = self.truth(id, token);
            let status = told.as_ref().map(|told| told.status.as_str());
            let is_same = before == after
                && match before {
                    Truth::Runs => status == Some("running"),
                    Truth::Waits => status == Some("created"),
                    Truth::Nothing => matches!(status, None | Some("stopped")),
                };
            let now = (before, told);
            if is_same && last.as_ref() == Some(&now) {
                return Ok(now.1);
            }
            check(Instant::now() < deadline, || {
                format!("the kernel says {before:?}, the daemon {:?}", now.1)
            })?;
            last = is_same.then_some(now);
            std::thread::sleep(Duration::from_millis(60));
        }
    }

    /// The name can be used: what is there goes on, or goes, and a task is made and runs.
    fn reuse(&self, id: &str, token: &str, told: Option<&Told>) -> Checked {
        let status = told.map(|told| told.status.as_str());
        if status == Some("stopped") {
            self.must(&["tasks", "delete", id])?;
        }
        if status != Some("running") {
            self.must(&["tasks", "start", "-d", id])?;
        }
        let told = self.compare(id, token)?;
        check(told.as_ref().is_some_and(|told| told.status == "running"), || {
            format!("used again, it does not run: {told:?}")
        })?;
        let exec = self.host.capstan(&["tasks", "exec", id, "sh", "-c", "exit 9"]);
        check(exec.code == 9, || format!("an exec afterwards: {exec:?}"))
    }

    fn nothing_is_left(&self, id: &str) -> Checked {
        let mut left = Vec::new();
        let is_clean = soon(|| {
            left = self.left(id);
            left.is_empty()
        });
        check(is_clean, || format!("left behind: {left:?}"))
    }

    fn left(&self, id: &str) -> Vec<String> {
        let task = self.task_dir(id);
        let mut left = Vec::new();
        let oci = self.runtime_dir().join("oci/default");
        // The second is the embedded runtime's own.
        for dir in [task.clone(), oci.join(id), oci.join(".bundles").join(id)] {
            if dir.exists() {
                left.push(dir.display().to_string());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&*task.to_string_lossy()))
                .map(str::to_owned),
        );
        left.extend(processes(&task).iter().map(|(pid, name)| format!("process {pid} {name}")));
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for top in ["", "unified"] {
                let parent = hierarchy.path().join(top);
                let cgroup = parent.join(&self.host.cgroup()[1..]).join("default").join(id);
                if cgroup.exists() {
                    left.push(cgroup.display().to_string());
                }
            }
        }
        left.extend(self.contained(id).iter().map(|(pid, line)| format!("process {pid} {line}")));
        left
    }

    fn task_dir(&self, id: &str) -> PathBuf {
        self.runtime_dir().join("tasks/default").join(id)
    }

    /// The shim, as the kernel knows it.
    fn shim(&self, id: &str) -> Option<u32> {
        let all = processes(&self.task_dir(id));
        all.iter().find(|(_, name)| name == "capstan-shim").map(|(pid, _)| *pid)
    }

    /// Processes in the container's cgroups with their command lines.
    fn contained(&self, id: &str) -> Vec<(u32, String)> {
        let path = format!("{}/default/{id}", self.host.cgroup());
        let is_in = |dir: &Path| {
            let cgroups = fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
            // cgroups(7): `number:controllers:path`.
            cgroups.lines().any(|line| line.splitn(3, ':').nth(2) == Some(path.as_str()))
        };
        let mut found = Vec::new();
        for (pid, dir) in all_processes() {
            if is_in(&dir) && !is_dead(&dir) {
                let line = fs::read(dir.join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    fn truth(&self, id: &str, token: &str) -> Truth {
        let all = self.contained(id);
        match all.as_slice() {
            [] => Truth::Nothing,
            all if all.iter().any(|(_, line)| is_users(line, token)) => Truth::Runs,
            _ => Truth::Waits,
        }
    }

    /// Waits until the user's process takes SIGTERM: before, the kernel keeps that from the first process of a namespace.
    fn has_trap(&self, id: &str, token: &str) -> Checked {
        let takes = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            caught.is_some_and(|mask| mask >> (Signal::TERM.as_raw() - 1) & 1 == 1)
        };
        let has = || {
            let all = self.contained(id);
            all.iter().any(|(pid, line)| is_users(line, token) && takes(*pid))
        };
        check(soon(has), || "the user's process never takes SIGTERM".into())
    }

    fn told(&self, id: &str) -> Checked<Option<Told>> {
        let list = self.host.capstan(&["--format", "json", "tasks", "ls"]);
        check(list.code == 0, || format!("tasks ls: {list:?}"))?;
        let list: serde_json::Value =
            serde_json::from_str(&list.stdout).map_err(|error| error.to_string())?;
        let tasks = list.as_array().ok_or("tasks ls tells no list")?;
        Ok(tasks.iter().find(|task| task["id"] == id).map(|task| Told {
            status: task["status"].as_str().unwrap_or_default().to_owned(),
            exit: task["exit"]["status"].as_u64(),
            lost: task["exit"]["lost"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    /// Runs a command until it works, as long as it is told to try again.
    fn must(&self, args: &[&str]) -> Checked {
        let mut output = self.host.capstan(args);
        soon(|| {
            let is_over = !output.stderr.starts_with("capstan: Unavailable: ");
            if !is_over {
                output = self.host.capstan(args);
            }
            is_over
        });
        check(output.code == 0, || format!("{args:?}: {}: {}", output.code, output.stderr))
    }
}

/// How it ended is known, or it is said that it is not, and why: only where the shim was killed before it
/// had written that down.
fn check_exit(case: Case, told: &Told) -> Checked {
    if told.status != "stopped" {
        return check(told.exit.is_none(), || format!("an exit of what has not ended: {told:?}"));
    }
    let is_noted = (case.call == Call::Delete && !case.is_forced)
        || case.step == "exit:noted"
        || (case.call == Call::Delete
            && case.step.starts_with("delete:")
            && case.step != "delete:asked")
        || case.step == "daemon:deleted";
    let code = if case.call == Call::Delete && case.is_forced { 137 } else { 42 };
    let is_lost = !told.lost.is_empty();
    check(told.exit.is_some(), || format!("it ended, and nobody says how: {told:?}"))?;
    check(!is_lost || (case.victim != Victim::Daemon && !is_noted), || {
        format!("an exit that is known is lost: {told:?}")
    })?;
    let is_ended_by_call = matches!(case.call, Call::Kill | Call::Delete);
    check(is_lost || (is_ended_by_call && told.exit == Some(code)), || {
        format!("not what it ended with: {told:?}")
    })
}

/// Whether a command line is that of the user's process.
fn is_users(line: &str, token: &str) -> bool {
    line.trim_end().ends_with(token) && line.starts_with("sh ")
}

/// Waits until something is so.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Waits for the end of a client: code, and what it wrote to stderr. `None`: it does not end.
fn end_of(client: &mut Child) -> Option<(i32, String)> {
    let is_ended = soon(|| client.try_wait().expect("look at capstan").is_some());
    if !is_ended {
        let _ = client.kill();
    }
    let status = client.wait().expect("wait for capstan");
    let mut stderr = String::new();
    let mut pipe = client.stderr.take().expect("a pipe");
    std::io::Read::read_to_string(&mut pipe, &mut stderr).expect("read what capstan wrote");
    is_ended.then(|| (status.code().unwrap_or(-1), stderr))
}

fn kill(pid: Option<u32>) {
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

fn all_processes() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect()
}

/// Whether a process has ended and only waits to be waited for.
fn is_dead(dir: &Path) -> bool {
    let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, behind)| behind.starts_with(['Z', 'X']))
}

/// Processes that work in a directory, with their names.
fn processes(dir: &Path) -> Vec<(u32, String)> {
    let works_here = |process: &Path| fs::read_link(process.join("cwd")).is_ok_and(|at| at == dir);
    let name = |process: &Path| fs::read_to_string(process.join("comm")).unwrap_or_default();
    let here = all_processes().into_iter().filter(|(_, process)| works_here(process));
    here.map(|(pid, process)| (pid, name(&process).trim().to_owned())).collect()
}
