//! Restart policies: what is to run is started again, and what a user stopped stays stopped.

use std::path::Path;
use std::time::{Duration, Instant};

use capstan_integration::{DockerRegistry, Host};

fn host() -> (Host, DockerRegistry, String) {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    (host, registry, image)
}

fn run(host: &Host, image: &str, name: &str, policy: &str, script: &str) {
    let args = ["run", "-d", "--name", name, "--restart", policy, image, "sh", "-c", script];
    host.ok(&args);
}

/// Status, number of restarts, pid.
fn state(host: &Host, name: &str) -> (String, u64, u64) {
    let info = host.json(&["tasks", "inspect", name]);
    let number = |field: &str| info[field].as_u64().unwrap();
    (info["status"].as_str().unwrap().to_owned(), number("restarts"), number("pid"))
}

fn restarts(host: &Host, name: &str) -> u64 {
    state(host, name).1
}

fn kill(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// It stays as it is for longer than the next start would take.
fn assert_stays(host: &Host, name: &str, want: u64) {
    std::thread::sleep(Duration::from_millis(1500));
    let (status, restarts, _) = state(host, name);
    assert_eq!((status.as_str(), restarts), ("stopped", want), "{name}");
}

#[test]
fn policies_say_who_is_started_again() {
    let (host, _registry, image) = host();
    run(&host, &image, "never", "no", "exit 1");
    run(&host, &image, "twice", "on-failure:2", "exit 3");
    run(&host, &image, "fine", "on-failure", "exit 0");
    run(&host, &image, "always", "always", "exit 0");
    host.until("always is started again", || restarts(&host, "always") >= 3);
    host.until("twice is started twice", || restarts(&host, "twice") == 2);
    assert_stays(&host, "twice", 2);
    assert_stays(&host, "fine", 0);
    assert_stays(&host, "never", 0);
    assert_eq!(host.json(&["containers", "inspect", "twice"])["restart"], "on-failure:2");
    // A wait tells the end of the run that is there.
    assert_eq!(host.capstan(&["tasks", "wait", "twice"]).code, 3);
    for name in ["never", "twice", "fine", "always"] {
        host.remove(name);
    }
    // It does not go with streams that somebody would have to read, nor with --rm.
    for flags in [&["--restart", "always"][..], &["-d", "--rm", "--restart", "always"]] {
        let mut args = vec!["run"];
        args.extend(flags);
        args.extend([&*image, "true"]);
        host.fails(&args, 125, "InvalidArgument", &["--restart"]);
    }
    host.ok(&["containers", "create", "--restart", "always", "c", &image, "true"]);
    host.fails(&["tasks", "start", "c"], 125, "InvalidArgument", &["-d"]);
    host.ok(&["containers", "rm", "c"]);
    host.assert_no_container();
}

/// The times between starts double, and output goes on into the same log.
#[test]
fn starts_come_slower_and_slower() {
    let (host, _registry, image) = host();
    let log = host.path("log");
    let script = "cut -d' ' -f1 /proc/uptime; exit 1";
    let path = log.display().to_string();
    let mut args = vec!["run", "-d", "--name", "c", "--restart", "on-failure:4", "--log-file"];
    args.extend([&*path, &*image, "sh", "-c", script]);
    host.ok(&args);
    host.until("it gave up", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().count() == 5
    });
    let text = std::fs::read_to_string(&log).unwrap();
    let times: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([0.1, 0.2, 0.4, 0.8]) {
        // The clock has hundredths of a second.
        assert!(*gap >= least - 0.02, "{gaps:?}");
    }
    host.remove("c");
    host.assert_no_container();
}

/// A user's stop is one, whatever the container is doing.
#[test]
fn what_a_user_stops_stays_stopped() {
    let (mut host, _registry, image) = host();
    for name in ["killed", "hangup", "waiting"] {
        let script = match name {
            "waiting" => "exit 1",
            "hangup" => "trap 'exit 5' HUP; while true; do sleep 0.05; done",
            _ => "sleep 1000",
        };
        run(&host, &image, name, "always", script);
    }
    // SIGKILL from elsewhere is no user of ours.
    kill(state(&host, "killed").2);
    let again = ("running", 1);
    host.until("it is started again", || {
        let (status, restarts, _) = state(&host, "killed");
        (status.as_str(), restarts) == again
    });
    host.ok(&["tasks", "kill", "-s", "KILL", "killed"]);
    assert_stays(&host, "killed", 1);
    // A signal that it took as it liked does not stop it.
    std::thread::sleep(Duration::from_millis(300));
    host.ok(&["tasks", "kill", "-s", "HUP", "hangup"]);
    host.until("it is started again", || restarts(&host, "hangup") == 1);
    // Between two runs.
    host.until("it waits", || restarts(&host, "waiting") >= 3);
    host.until("it has ended", || state(&host, "waiting").0 == "stopped");
    host.ok(&["tasks", "kill", "waiting"]);
    let count = restarts(&host, "waiting");
    // Not by the next daemon either.
    host.kill();
    host.start();
    assert_eq!(state(&host, "killed").0, "stopped");
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(state(&host, "waiting").0, "stopped");
    assert!(count >= 3);
    // Started again by a user, it is kept again.
    host.ok(&["tasks", "delete", "killed"]);
    host.ok(&["tasks", "start", "-d", "killed"]);
    kill(state(&host, "killed").2);
    host.until("it is started again", || restarts(&host, "killed") == 1);
    for name in ["killed", "hangup", "waiting"] {
        host.remove(name);
    }
    host.assert_no_container();
}

fn survives(kill_daemon: fn(&mut Host)) {
    let (mut host, _registry, image) = host();
    let gate = host.path("gate");
    std::fs::create_dir(&gate).unwrap();
    let mount = format!("type=bind,src={},dst=/gate", gate.display());
    for (name, policy) in
        [("a", "always"), ("f", "on-failure"), ("n", "no"), ("ended", "on-failure")]
    {
        let script = "while [ ! -e /gate/$0 ]; do sleep 0.05; done; rm /gate/$0; [ $0 != ended ]";
        let mut args = vec!["run", "-d", "--name", name, "--restart", policy, "--mount", &mount];
        args.extend([&*image, "sh", "-c", script, name]);
        host.ok(&args);
    }
    run(&host, &image, "long", "always", "sleep 1000");
    let long = state(&host, "long").2;
    let pids: Vec<u64> = ["a", "f", "n"].map(|name| state(&host, name).2).into();
    kill_daemon(&mut host);
    for pid in &pids {
        kill(*pid);
    }
    let gone = || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    host.until("they have ended", gone);
    host.start();
    for name in ["a", "f"] {
        host.until("it is started again", || state(&host, name).0 == "running");
        assert_eq!(restarts(&host, name), 1, "{name}");
    }
    assert_eq!(state(&host, "n").0, "stopped");
    assert_eq!(state(&host, "long"), ("running".into(), 0, long), "it was never touched");
    for name in ["a", "f", "n", "ended", "long"] {
        host.remove(name);
    }
    host.assert_no_container();
}

#[test]
fn policies_survive_a_killed_daemon() {
    survives(Host::kill);
}

#[test]
fn policies_survive_a_stopped_daemon() {
    survives(Host::stop);
}

/// After the machine was started anew there is no process, and no state directory.
#[test]
fn policies_survive_the_machine() {
    let (mut host, _registry, image) = host();
    run(&host, &image, "a", "always", "sleep 1000");
    run(&host, &image, "f", "on-failure", "sleep 1000");
    run(&host, &image, "n", "no", "sleep 1000");
    run(&host, &image, "stopped", "always", "sleep 1000");
    host.ok(&["tasks", "kill", "-s", "KILL", "stopped"]);
    assert_eq!(host.capstan(&["tasks", "wait", "stopped"]).code, 137);
    host.kill();
    host.remains().end();
    std::fs::remove_dir_all(host.state()).unwrap();
    host.start();
    host.until("both run again", || {
        let list = host.json(&["tasks", "ls"]);
        list.as_array().unwrap().iter().filter(|task| task["status"] == "running").count() == 2
    });
    assert_eq!(host.ids(&["tasks", "ls"]), ["a", "f"]);
    for name in ["a", "f"] {
        host.remove(name);
    }
    for name in ["n", "stopped"] {
        host.ok(&["containers", "rm", name]);
    }
    host.assert_no_container();
}

/// Whatever moment a delete comes at, nothing comes back; nor with the next daemon.
#[test]
fn what_is_deleted_never_comes_back() {
    let (mut host, _registry, image) = host();
    for round in 0..12_u64 {
        let name = format!("c{round}");
        run(&host, &image, &name, "always", "exit 1");
        // Into the first starts, and into the waits between them.
        std::thread::sleep(Duration::from_millis(round * 37));
        host.remove(&name);
        if round % 6 == 5 {
            host.kill();
            host.start();
        }
    }
    std::thread::sleep(Duration::from_millis(1000));
    host.assert_no_container();
    assert_eq!(host.ids(&["tasks", "ls"]), Vec::<String>::new());
    // The namespace is as empty as it looks.
    let name = "--namespace=other";
    host.ok(&[name, "images", "pull", "--plain-http", &image]);
    host.ok(&[name, "run", "-d", "--name", "c", "--restart", "always", &image, "false"]);
    host.ok(&[name, "tasks", "delete", "--force", "c"]);
    host.ok(&[name, "containers", "rm", "c"]);
    assert_eq!(host.ids(&[name, "containers", "ls"]), Vec::<String>::new());
}

/// The daemon dies at any moment of a restart: what is to run runs, once.
#[test]
fn a_restart_that_is_broken_off_is_made_up_for() {
    let (mut host, _registry, image) = host();
    run(&host, &image, "c", "always", "sleep 0.15; exit 1");
    for round in 0..8_u64 {
        std::thread::sleep(Duration::from_millis(120 + round * 41));
        host.kill();
        host.start();
    }
    let before = restarts(&host, "c");
    host.until("it is started again and again", || restarts(&host, "c") > before);
    assert_eq!(host.ids(&["tasks", "ls"]), ["c"]);
    let shims = host.remains().processes;
    let shims = shims.iter().filter(|(_, line)| line.contains("capstan-shim")).count();
    assert!(shims <= 1, "{shims} shims");
    host.remove("c");
    host.assert_no_container();
}

/// Twenty containers that fail at once and for ever leave the others alone.
#[test]
fn those_that_fail_disturb_nobody() {
    let (host, _registry, image) = host();
    run(&host, &image, "good", "no", "sleep 1000");
    for number in 0..20 {
        run(&host, &image, &format!("bad{number}"), "always", "exit 1");
    }
    let since = Instant::now();
    let mut slowest = Duration::ZERO;
    while since.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        assert_eq!(host.ok(&["tasks", "exec", "good", "echo", "here"]), "here\n");
        assert_eq!(host.ids(&["tasks", "ls"]).len(), 21, "each is listed, whatever is done to it");
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < Duration::from_secs(3), "an exec and a list took {slowest:?}");
    assert_eq!(state(&host, "good"), ("running".into(), 0, state(&host, "good").2));
    for number in 0..20 {
        host.remove(&format!("bad{number}"));
    }
    host.remove("good");
    host.assert_no_container();
}
