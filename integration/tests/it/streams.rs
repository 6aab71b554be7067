//! The streams of a task: logs, clients that attach, input, and what happens when nobody listens.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use capstan_integration::process::{is_alive, signal};
use capstan_integration::{DockerRegistry, Host, find};
use rustix::process::Signal;

struct Bench {
    _registry: DockerRegistry,
    host: Host,
    image: String,
}

fn bench() -> Bench {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    Bench { _registry: registry, host, image }
}

impl Bench {
    /// Runs a script detached, with flags.
    fn run(&self, id: &str, flags: &[&str], script: &str) {
        let mut args = vec!["run", "-d", "--name", id];
        args.extend(flags);
        args.extend([&*self.image, "sh", "-c", script]);
        self.host.ok(&args);
    }

    fn log(&self, id: &str) -> String {
        self.host.ok(&["tasks", "logs", id])
    }

    fn pid(&self, id: &str, field: &str) -> u32 {
        let info = self.host.json(&["tasks", "inspect", id]);
        info[field].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// The directory of the logs of a task that named none.
    fn logs(&self, id: &str) -> PathBuf {
        self.host.root().join("runtime.linux/logs/default").join(id)
    }
}

/// A follower of a container's output, as a child whose lines are read.
struct Follower(Child, BufReader<std::process::ChildStdout>);

impl Follower {
    fn new(mut command: Command) -> Self {
        let mut child = command.spawn().expect("run capstan");
        let stdout = child.stdout.take().expect("a pipe");
        Self(child, BufReader::new(stdout))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("read its stdout");
        line
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_gibibyte_flows_while_the_daemon_is_stopped() {
    let bench = bench();
    let script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; \
                  dd if=/dev/zero bs=1M count=1024 2>/dev/null; exit 3";
    let gate = bench.host.path("gate");
    std::fs::create_dir(&gate).unwrap();
    let mount = format!("type=bind,src={},dst=/tmp", gate.display());
    bench.run("big", &["--mount", &mount, "--log-max-size", "1m", "--log-max-files", "3"], script);
    let pid = bench.pid("big", "pid");
    signal(bench.host.daemon_pid(), Signal::STOP);
    std::fs::write(gate.join("go"), "").unwrap();
    bench.host.until("all is written", || !is_alive(pid));
    signal(bench.host.daemon_pid(), Signal::CONT);
    assert_eq!(bench.host.capstan(&["tasks", "wait", "big"]).code, 3);
    let sizes: u64 = std::fs::read_dir(bench.logs("big"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!((1 << 20..4 << 20).contains(&sizes), "{sizes} bytes of logs");
    bench.host.remove("big");
    assert!(!bench.logs("big").exists(), "the log goes with the task");
}

#[test]
fn a_log_that_takes_nothing_blocks_nobody() {
    let bench = bench();
    let file = bench.host.path("its.log");
    let name = file.to_str().unwrap();
    bench.run("deaf", &["--log-file", name], "echo first; sleep 1; yes | head -c 20000000; exit 4");
    bench.host.until("the first line is there", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text == "first\n")
    });
    let chattr = |flag: &str| {
        let done = Command::new(find("chattr")).args([flag, name]).status().expect("run chattr");
        assert!(done.success(), "chattr {flag} {name}");
    };
    chattr("+i");
    let ended = bench.host.capstan(&["tasks", "wait", "deaf"]);
    let metrics = bench.host.ok(&["tasks", "metrics", "deaf"]);
    let dropped = metrics.lines().find(|line| line.starts_with("container_log_dropped_bytes"));
    assert!(dropped.is_some_and(|line| line.contains("20000000")), "{metrics}");
    chattr("-i");
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "first\n");
    bench.host.remove("deaf");
    assert!(file.exists(), "a file that the user named stays");
}

#[test]
fn logs_have_boundaries_streams_and_times() {
    let bench = bench();
    bench.run("talker", &[], "echo one; echo two >&2; printf 'a\\0b\\033[0m'; echo; printf end");
    assert_eq!(bench.host.capstan(&["tasks", "wait", "talker"]).code, 0);
    let printed = bench.host.capstan(&["tasks", "logs", "talker"]);
    assert_eq!(printed.stdout, "one\na\0b\u{1b}[0m\nend");
    assert_eq!(printed.stderr, "two\n");
    assert_eq!(bench.host.ok(&["tasks", "logs", "--tail", "1", "talker"]), "end");
    assert_eq!(bench.host.ok(&["tasks", "logs", "--tail", "0", "talker"]), "");
    let timed = bench.host.ok(&["tasks", "logs", "-t", "--tail", "100", "talker"]);
    assert!(timed.lines().next().unwrap().ends_with("Z one"), "{timed}");
    let objects = bench.host.ok(&["--format", "json", "tasks", "logs", "talker"]);
    let first: serde_json::Value = serde_json::from_str(objects.lines().next().unwrap()).unwrap();
    assert_eq!((&first["text"], &first["stream"]), (&"one".into(), &"stdout".into()));
    // Followed, it ends with the task.
    bench.run("slow", &[], "for i in 1 2 3; do echo $i; sleep 0.2; done");
    assert_eq!(bench.host.ok(&["tasks", "logs", "-f", "slow"]), "1\n2\n3\n");
    bench.host.ok(&["run", "-d", "--null-io", "--name", "mute", &bench.image, "sleep", "100"]);
    bench.host.fails(&["tasks", "logs", "mute"], 6, "FailedPrecondition", &["mute", "no log"]);
    bench.host.fails(&["tasks", "attach", "mute"], 125, "FailedPrecondition", &["mute"]);
    bench.host.fails(&["tasks", "logs", "nobody"], 3, "NotFound", &["nobody"]);
    for id in ["talker", "slow", "mute"] {
        bench.host.remove(id);
    }
    bench.host.assert_no_container();
}

#[test]
fn a_log_is_followed_over_a_restart_of_the_daemon() {
    let mut bench = bench();
    bench.run("on", &[], "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done");
    bench.host.until("it writes", || bench.log("on").lines().count() > 3);
    bench.host.kill();
    std::thread::sleep(std::time::Duration::from_millis(300));
    bench.host.start();
    let log = bench.log("on");
    let numbers: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "a line is missing");
    assert!(numbers.len() > 10, "{} lines", numbers.len());
    bench.host.remove("on");
}

#[test]
fn every_client_that_attaches_sees_all_and_a_stuck_one_stops_nobody() {
    let bench = bench();
    bench.run("radio", &[], "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done");
    let attach = || Follower::new(bench.host.command(&["tasks", "attach", "--no-stdin", "radio"]));
    let mut followers = [attach(), attach(), attach()];
    for follower in &mut followers {
        let first: u64 = follower.line().trim().parse().unwrap();
        for next in 1..50 {
            assert_eq!(follower.line().trim().parse::<u64>().unwrap(), first + next);
        }
    }
    // One of them reads no more: the others, and the log, go on.
    signal(followers[0].0.id(), Signal::STOP);
    let lines = bench.log("radio").lines().count();
    for _ in 0..100 {
        followers[1].line();
    }
    bench.host.until("the log grows", || bench.log("radio").lines().count() > lines + 100);
    signal(followers[0].0.id(), Signal::CONT);
    drop(followers);
    bench.host.remove("radio");
    bench.host.assert_no_container();
}

#[test]
fn clients_that_come_and_go_leave_no_descriptor() {
    let bench = bench();
    bench.run("door", &[], "sleep 1000");
    let shim = bench.pid("door", "shimPid");
    let count = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let path =
        bench.host.json(&["tasks", "inspect", "door"])["attach"].as_str().unwrap().to_owned();
    let dir = std::fs::File::open(Path::new(&path).parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/attach.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let before = count();
    for round in 0..1000 {
        let client = std::os::unix::net::UnixStream::connect(&short).unwrap();
        if round % 100 == 0 {
            // What is no frame ends the connection, and nothing else.
            use std::io::Write as _;
            (&client).write_all(&[9; 64]).unwrap();
            assert_eq!((&client).read(&mut [0; 8]).unwrap_or(0), 0);
        }
    }
    bench.host.until("the shim has let go of all", || count() == before);
    bench.host.remove("door");
}

#[test]
fn input_arrives_whole_and_its_end_too() {
    let bench = bench();
    let input: Vec<u8> = (0..8u32 << 20).map(|i| (i % 251) as u8).collect();
    let args = ["run", "--rm", "-i", &bench.image, "sh", "-c", "cat | md5sum"];
    let ours = {
        let mut child = Command::new(find("md5sum"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &input).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let output = bench.host.capstan_with_input(&args, &input);
    assert_eq!((output.code, output.stdout.split(' ').next()), (0, ours.split(' ').next()));
    let args = ["run", "--rm", "--null-io", &bench.image, "sh", "-c", "cat; echo gone; exit 6"];
    let output = bench.host.capstan_with_input(&args, b"unread");
    assert_eq!((output.code, output.stdout.as_str()), (6, ""));
    // Without -i there is no input, and it is at its end.
    let args = ["run", "--rm", &bench.image, "sh", "-c", "cat; echo done"];
    assert_eq!(bench.host.capstan_with_input(&args, b"unread").stdout, "done\n");
    bench.host.assert_no_container();
}

#[test]
fn output_waits_for_its_only_reader() {
    let bench = bench();
    let args = ["run", "--rm", &bench.image, "sh", "-c", "head -c 3000000 /dev/zero; exit 5"];
    let mut child = bench.host.command(&args).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // Longer than the process needs, were it let.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut all = Vec::new();
    stdout.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 3_000_000);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    bench.host.assert_no_container();
}

#[test]
fn an_exec_is_told_to_have_ended_when_its_output_is_complete() {
    let bench = bench();
    bench.run("base", &[], "sleep 1000");
    for _ in 0..20 {
        let output = bench.host.capstan(&[
            "tasks",
            "exec",
            "base",
            "sh",
            "-c",
            "sleep 30 & seq 1 20000; echo end >&2; exit 9",
        ]);
        let lines = output.stdout.lines().count();
        assert_eq!((output.code, lines, &*output.stderr), (9, 20_000, "end\n"));
    }
    bench.host.remove("base");
}

#[test]
fn a_task_that_was_only_created_is_attached_to_and_started() {
    let bench = bench();
    bench.host.ok(&["containers", "create", "late", &bench.image, "sh", "-c", "cat; echo rest"]);
    bench.host.ok(&["tasks", "create", "-i", "late"]);
    assert_eq!(bench.host.json(&["tasks", "inspect", "late"])["status"], "created");
    let output = bench.host.capstan_with_input(&["tasks", "start", "-i", "late"], b"typed\n");
    assert_eq!((output.code, &*output.stdout), (0, "typed\nrest\n"), "{}", output.stderr);
    assert_eq!(bench.log("late"), "typed\nrest\n");
    bench.host.remove("late");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let bench = bench();
    for flags in [&["--log-file", "relative"][..], &["--null-io", "--log-file", "/x"]] {
        let mut args = vec!["run"];
        args.extend(flags);
        args.extend([&*bench.image, "true"]);
        bench.host.fails(&args, 125, "InvalidArgument", &["--log-file"]);
    }
    let dir = bench.host.path("");
    let args = ["run", "-d", "--log-file", dir.to_str().unwrap(), &bench.image, "true"];
    bench.host.fails(&args, 125, "InvalidArgument", &["log file"]);
    bench.host.assert_no_container();
}

fn paused(runtime: &str) {
    let mut bench = bench();
    let flags = ["--runtime", runtime];
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    bench.run("ice", &flags, script);
    bench.host.until("it writes", || !bench.log("ice").is_empty());
    bench.host.fails(&["tasks", "resume", "ice"], 6, "FailedPrecondition", &["ice", "running"]);
    bench.host.ok(&["tasks", "pause", "ice"]);
    let log = bench.log("ice");
    assert_eq!(bench.host.json(&["tasks", "inspect", "ice"])["status"], "paused");
    bench.host.fails(&["tasks", "pause", "ice"], 6, "FailedPrecondition", &["ice", "paused"]);
    bench.host.fails(&["tasks", "exec", "ice", "true"], 125, "FailedPrecondition", &["ice"]);
    bench.host.fails(&["tasks", "delete", "ice"], 6, "FailedPrecondition", &["ice"]);
    // It stays so over a restart of the daemon.
    bench.host.kill();
    bench.host.start();
    assert_eq!(bench.host.json(&["tasks", "inspect", "ice"])["status"], "paused");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(bench.log("ice"), log, "it ran while it was paused");
    bench.host.ok(&["tasks", "resume", "ice"]);
    bench.host.until("it goes on", || bench.log("ice").len() > log.len());
    bench.host.ok(&["tasks", "pause", "ice"]);
    bench.host.ok(&["tasks", "kill", "-s", "KILL", "ice"]);
    assert_eq!(bench.host.capstan(&["tasks", "wait", "ice"]).code, 137);
    bench.host.remove("ice");
    bench.run("ice", &flags, script);
    bench.host.ok(&["tasks", "pause", "ice"]);
    bench.host.remove("ice");
    bench.host.assert_no_container();
}

#[test]
fn a_paused_container_stands_still_embedded() {
    paused("embedded");
}

#[test]
fn a_paused_container_stands_still_runc() {
    paused("runc");
}
