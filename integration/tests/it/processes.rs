//! Processes as people deal with them: the shim behind each task, signals, execs, clients that come back.

mod fifos;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use capstan_integration::process::{is_alive, signal};
use capstan_integration::{Host, find, make_rootfs, program};
use rustix::process::{Pid, Signal};

const RUNTIMES: [&str; 3] = ["embedded", "runc", "crun"];

/// A daemon, and a root filesystem of busybox with which all containers run.
struct Bench {
    host: Host,
    rootfs: String,
}

impl Bench {
    fn new() -> Self {
        let mut host = Host::without_daemon(512);
        make_rootfs(&host.path("rootfs"));
        host.start();
        let rootfs = host.path("rootfs").display().to_string();
        Self { host, rootfs }
    }

    /// The arguments of a container of a shell script.
    fn args<'a>(&'a self, verb: &'a [&str], flags: &[&'a str], script: &'a str) -> Vec<&'a str> {
        let root = ["--rootfs", &self.rootfs];
        [verb, flags, &root, &["sh", "-c", script]].concat()
    }

    /// Runs one detached.
    fn run(&self, id: &str, flags: &[&str], script: &str) {
        self.host.ok(&self.args(&["run", "-d", "--name", id], flags, script));
    }

    fn pid(&self, id: &str, field: &str) -> u32 {
        let info = self.host.json(&["tasks", "inspect", id]);
        u32::try_from(info[field].as_u64().expect("a pid")).unwrap()
    }

    fn status(&self, id: &str) -> String {
        self.host.json(&["tasks", "inspect", id])["status"].as_str().unwrap().to_owned()
    }

    /// The third column of `tasks ls`.
    fn column(&self, id: &str) -> String {
        let list = self.host.ok(&["tasks", "ls"]);
        let words = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = words.into_iter().find(|row| row[0] == id);
        row.unwrap_or_else(|| panic!("no {id} in {list}"))[2].to_owned()
    }
}

/// State, parent, group and session of a process (proc_pid_stat(5)).
fn stat(pid: u32) -> Option<(String, u32, u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    Some((state, number()?, number()?, number()?))
}

fn children(parent: u32) -> Vec<(u32, String)> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let (state, of, ..) = stat(pid)?;
        (of == parent).then_some((pid, state))
    })
    .collect()
}

/// F-181: one shim for each task, which stands alone, whoever started it.
#[test]
fn a_shim_is_alone_in_its_session_and_mounts() {
    let bench = Bench::new();
    for id in ["a", "b"] {
        bench.run(id, &[], "sleep 1000");
    }
    let mounts = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let score = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // Not every machine lets a process be spared more than it is.
    let mut probe = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let may = fs::write(format!("/proc/{}/oom_score_adj", probe.id()), "-999").is_ok();
    probe.kill().unwrap();
    probe.wait().unwrap();
    let daemon = bench.host.daemon_pid();
    let shims = ["a", "b"].map(|id| bench.pid(id, "shimPid"));
    assert_ne!(shims[0], shims[1]);
    for shim in shims {
        let (_, _, group, session) = stat(shim).unwrap();
        assert_eq!((group, session), (shim, shim), "it is in nobody else's group");
        assert_ne!(mounts(shim), mounts(daemon), "its mounts are its own");
        let want = if may { "-999\n".to_owned() } else { score(daemon) };
        assert_eq!(score(shim), want);
    }
    assert_ne!(mounts(shims[0]), mounts(shims[1]));
    // A container is spared by nobody, nor is what is started in it later.
    let exec = ["tasks", "exec", "a", "cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"];
    assert_eq!(bench.host.ok(&exec), "0\n0\n");
    let is_shim = |line: &&(u32, String)| line.1.contains("capstan-shim");
    let all = bench.host.remains().processes;
    let mut found: Vec<u32> = all.iter().filter(is_shim).map(|(pid, _)| *pid).collect();
    found.sort_unstable();
    let mut want = shims.to_vec();
    want.sort_unstable();
    assert_eq!(found, want, "one for each task, and none else");
    for id in ["a", "b"] {
        bench.host.remove(id);
    }
    bench.host.assert_no_container();
}

/// F-185, D75: the directory lets nobody else in, and a shim hangs up on another user even so.
#[test]
fn a_shim_serves_its_own_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    bench.run("a", &[], "sleep 1000");
    let dir = bench.host.state().join("runtime.linux/tasks/default/a");
    let sockets = [dir.join("shim.sock"), dir.join("io/init/attach.sock")];
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(1)\n\
                  s.connect(sys.argv[1])\n\
                  try: print('hung up' if s.recv(1) == b'' else 'data')\n\
                  except TimeoutError: print('served')\n";
    let call = |user: &str, socket: &Path| {
        // By way of the directory, since the path of a socket may have 107 bytes.
        let output = std::process::Command::new(find("setpriv"))
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(find("python3"))
            .args(["-c", script])
            .arg(socket.file_name().unwrap())
            .current_dir(socket.parent().unwrap())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text + &String::from_utf8_lossy(&output.stderr)
    };
    for socket in &sockets {
        assert_eq!(call("0", socket), "served\n", "{}", socket.display());
        let refused = call("1000", socket);
        assert!(refused.contains("PermissionError"), "{}: {refused}", socket.display());
    }
    for way in dir.join("io/init").ancestors() {
        if way.starts_with(std::env::temp_dir()) && way != std::env::temp_dir() {
            fs::set_permissions(way, fs::Permissions::from_mode(0o711)).unwrap();
        }
    }
    for socket in &sockets {
        fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(call("1000", socket), "hung up\n", "{}", socket.display());
    }
    bench.host.remove("a");
    bench.host.assert_no_container();
}

/// F-187: what a container leaves behind is reaped, where it has no first process of its own for that.
#[test]
fn orphans_are_reaped() {
    let bench = Bench::new();
    for runtime in RUNTIMES {
        let script = "(sleep 0.3 &); exec sleep 1000";
        bench.run("host", &["--runtime", runtime, "--pid", "host"], script);
        bench.run("own", &["--runtime", runtime], "while :; do sleep 0.1; done");
        let exec = ["tasks", "exec", "-d", "host", "sh", "-c", "(sleep 0.3 &); (sleep 0.2 &)"];
        bench.host.ok(&exec);
        bench.host.ok(&["tasks", "exec", "own", "sh", "-c", "(sleep 0.3 &); exit 0"]);
        for id in ["host", "own"] {
            let (shim, init) = (bench.pid(id, "shimPid"), bench.pid(id, "pid"));
            let is_left = || {
                let of_shim = children(shim).into_iter().filter(|(pid, _)| *pid != init);
                of_shim.chain(children(init).into_iter().filter(|(_, state)| state == "Z")).count()
            };
            bench.host.until("all orphans are gone", || is_left() == 0);
            assert!(is_alive(init), "{runtime} {id}");
        }
        bench.host.remove("host");
        bench.host.remove("own");
    }
    bench.host.assert_no_container();
}

/// F-203: five hundred short ones; none fails, and nobody has children that are dead.
#[test]
fn many_short_runs_leave_no_zombie() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..125 {
                    let status = (worker * 125 + round) % 100;
                    let script = format!("exit {status}");
                    let run = bench.host.capstan(&bench.args(&["run", "--rm"], &[], &script));
                    assert_eq!(run.code, status, "{}", run.stderr);
                }
            });
        }
    });
    let daemon = bench.host.daemon_pid();
    bench.host.until("all children are reaped", || {
        children(daemon).iter().all(|(_, state)| state != "Z")
    });
    bench.host.assert_no_container();
}

/// F-199: a signal to the client is one to the process, whose answer is the client's.
#[test]
fn signals_of_the_client_are_those_of_the_process() {
    let bench = Bench::new();
    let script = "for s in 1 2 3 10 12 15; do trap \"exit $((40 + s))\" $s; done; echo ready; \
                  while :; do sleep 0.02; done";
    bench.run("base", &[], "sleep 1000");
    let run = bench.args(&["run", "--rm"], &[], script);
    let exec = ["tasks", "exec", "base", "sh", "-c", script];
    for args in [&run[..], &exec] {
        let all =
            [Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::TERM];
        for sent in all {
            let mut child = bench.host.command(args).spawn().unwrap();
            let mut first = [0; 6];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
            assert_eq!(&first, b"ready\n");
            rustix::process::kill_process(Pid::from_child(&child), sent).unwrap();
            let output = child.wait_with_output().unwrap();
            let want = 40 + sent.as_raw();
            assert_eq!(output.status.code(), Some(want), "{sent:?} of {args:?}");
        }
    }
    bench.host.remove("base");
    bench.host.assert_no_container();
}

/// F-248, D104: by name, by number, to all, to one exec; and what is none.
#[test]
fn kill_reaches_whom_it_is_said() {
    let bench = Bench::new();
    let script = "trap 'echo hup' HUP; trap 'echo usr' USR1; while :; do sleep 0.02; done";
    for runtime in RUNTIMES {
        bench.run("x", &["--runtime", runtime], script);
        let said = |text: &str| bench.host.ok(&["tasks", "logs", "x"]).contains(text);
        for (name, text) in [("HUP", "hup\n"), ("sigusr1", "hup\nusr\n"), ("1", "hup\nusr\nhup\n")]
        {
            // The shell has set its traps when it answers.
            bench.host.until(text, || {
                bench.host.ok(&["tasks", "kill", "-s", name, "x"]);
                std::thread::sleep(Duration::from_millis(60));
                said(text)
            });
        }
        for bad in ["999", "0", "65", "NOPE", ""] {
            let kill = ["tasks", "kill", "-s", bad, "x"];
            bench.host.fails(&kill, 5, "InvalidArgument", &["signal", bad]);
        }
        let both = ["tasks", "kill", "--all", "--exec-id", "e", "x"];
        assert_eq!(bench.host.capstan(&both).code, 2, "one or all");
        let sleep = |id: &str| {
            let exec = ["tasks", "exec", "-d", "--exec-id", id, "x", "sleep", "1000"];
            bench.host.ok(&exec);
        };
        let rows = |id: &str| {
            let ps = bench.host.ok(&["tasks", "ps", "x"]);
            ps.lines().filter(|line| line.split_whitespace().nth(1) == Some(id)).count()
        };
        sleep("one");
        sleep("two");
        assert_eq!((rows("init"), rows("one"), rows("two")), (1, 1, 1));
        bench.host.ok(&["tasks", "kill", "-s", "KILL", "--exec-id", "one", "x"]);
        bench.host.until("it is gone", || rows("one") == 0);
        assert_eq!((rows("init"), rows("two")), (1, 1), "the others are not meant");
        let none = ["tasks", "kill", "--exec-id", "three", "x"];
        bench.host.fails(&none, 3, "NotFound", &["three"]);
        bench.host.ok(&["tasks", "kill", "-s", "KILL", "--all", "x"]);
        assert_eq!(bench.host.capstan(&["tasks", "wait", "x"]).code, 137);
        assert_eq!(bench.host.ok(&["tasks", "ps", "x"]).lines().count(), 1, "all are gone");
        let ended = ["tasks", "kill", "x"];
        bench.host.fails(&ended, 6, "FailedPrecondition", &["x"]);
        bench.host.remove("x");
    }
    bench.host.assert_no_container();
}

/// F-202, D102: an exec is where, who and with what it was asked for, and else as its container.
#[test]
fn an_exec_is_as_it_was_asked_for() {
    let bench = Bench::new();
    for runtime in RUNTIMES {
        let flags = ["--runtime", runtime, "--workdir", "/etc", "--env", "A=1", "--env", "B=2"];
        bench.run("x", &flags, "sleep 1000");
        let exec = |flags: &[&str], script: &str| {
            let args = [&["tasks", "exec"], flags, &["x", "sh", "-c", script]].concat();
            bench.host.ok(&args)
        };
        assert_eq!(exec(&[], "pwd; echo $A$B; id -u"), "/etc\n12\n0\n", "{runtime}");
        assert_eq!(exec(&["--workdir", "/tmp"], "pwd"), "/tmp\n", "{runtime}");
        assert_eq!(exec(&["--env", "A=3"], "echo $A$B"), "32\n", "{runtime}");
        assert_eq!(exec(&["--user", "1000:5"], "id -u; id -g"), "1000\n5\n", "{runtime}");
        let wrong = ["tasks", "exec", "--workdir", "rel", "x", "pwd"];
        bench.host.fails(&wrong, 125, "InvalidArgument", &["rel"]);
        bench.host.remove("x");
    }
    bench.host.assert_no_container();
}

/// F-165, F-249, F-250: the column and the record of a container that goes through all states.
#[test]
fn a_task_goes_through_all_states() {
    let bench = Bench::new();
    let flags = ["--label", "of=mine", "--runtime", "runc"];
    let create = bench.args(&["containers", "create", "x"], &flags, "sleep 1000");
    bench.host.ok(&create);
    let record = bench.host.json(&["containers", "inspect", "x"]);
    assert_eq!((&record["id"], &record["runtime"]), (&"x".into(), &"runc".into()), "{record}");
    assert_eq!(record["labels"]["of"], "mine", "{record}");
    assert_eq!(record["rootfs"], bench.rootfs.as_str(), "{record}");
    assert_eq!(bench.host.ids(&["tasks", "ls"]), Vec::<String>::new());
    bench.host.ok(&["tasks", "create", "x"]);
    assert_eq!(bench.column("x"), "created");
    // By their short names too.
    for noun in ["c", "container", "containers", "t", "task", "tasks"] {
        assert_eq!(bench.host.ids(&[noun, "ls"]), ["x"], "{noun}");
    }
    // F-166, and D80: it may be asked for its processes before it runs.
    bench.host.fails(&["tasks", "create", "x"], 4, "AlreadyExists", &["x"]);
    let pid = bench.pid("x", "pid").to_string();
    let ps = bench.host.ok(&["tasks", "ps", "x"]);
    assert!(ps.lines().nth(1).is_some_and(|line| line.starts_with(&pid)), "{ps}");
    bench.host.ok(&["tasks", "start", "-d", "x"]);
    assert_eq!(bench.column("x"), "running");
    bench.host.fails(&["tasks", "start", "-d", "x"], 6, "FailedPrecondition", &["x"]);
    bench.host.ok(&["tasks", "pause", "x"]);
    assert_eq!(bench.column("x"), "paused");
    bench.host.ok(&["tasks", "resume", "x"]);
    assert_eq!(bench.column("x"), "running");
    bench.host.ok(&["tasks", "kill", "-s", "KILL", "x"]);
    assert_eq!(bench.host.capstan(&["tasks", "wait", "x"]).code, 137);
    assert_eq!(bench.column("x"), "stopped");
    // D91: whoever asks later is answered at once.
    let begun = Instant::now();
    assert_eq!(bench.host.capstan(&["--timeout", "10s", "tasks", "wait", "x"]).code, 137);
    assert!(begun.elapsed() < Duration::from_secs(5));
    bench.host.remove("x");
    bench.host.assert_no_container();
}

/// F-173, F-195, D72, D79: after a kill of the daemon the same processes go on, clients attach again, and what
/// happens is told in the namespace where it happens.
#[test]
fn clients_come_back_after_a_kill_of_the_daemon() {
    let mut bench = Bench::new();
    bench.host.ok(&["namespaces", "create", "other"]);
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    bench.run("plain", &[], script);
    bench.run("term", &["-it"], "read line; tty; echo got $line; exit 6");
    let elsewhere = ["-n", "other", "run", "-d", "--name", "far"];
    bench.host.ok(&bench.args(&elsewhere, &[], "sleep 1000"));
    let both = |bench: &Bench| ["plain", "term"].map(|id| bench.pid(id, "pid"));
    let before = both(&bench);
    bench.host.kill();
    bench.host.start();
    assert_eq!(both(&bench), before, "the same processes");
    assert_eq!(["plain", "term"].map(|id| bench.status(id)), ["running", "running"]);
    let attach = ["tasks", "attach", "--no-stdin", "plain"];
    let mut client = bench.host.command(&attach).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap().parse::<u64>().unwrap();
    let first = next();
    assert!((1..20).all(|step| next() == first + step), "what it shows is new, and all of it");
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(bench.host.json(&["tasks", "inspect", "term"])["terminal"], true);
    // `script` gives the client a terminal, as which the later daemon knows that of the task.
    let line = format!("{} tasks attach term", program("capstan").display());
    let mut client = std::process::Command::new(find("script"))
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("CAPSTAN_ADDRESS", bench.host.address())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(client.stdin.as_mut().unwrap(), b"typed\n").unwrap();
    let output = client.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("/dev/pts/0") && shown.contains("got typed"), "{shown}");
    assert_eq!(output.status.code(), Some(6), "{shown}");
    bench.host.ok(&["-n", "other", "tasks", "kill", "-s", "KILL", "far"]);
    assert_eq!(bench.host.capstan(&["-n", "other", "tasks", "wait", "far"]).code, 137);
    let told = |namespace: &str| {
        let list = ["-n", namespace, "events", "--since", "0", "/tasks/exit"];
        bench.host.ok(&list).lines().filter(|line| line.contains("id=far")).count()
    };
    bench.host.until("its end is told", || told("other") == 1);
    assert_eq!(told("default"), 0);
    for id in ["plain", "term"] {
        bench.host.remove(id);
    }
    bench.host.ok(&["-n", "other", "tasks", "delete", "far"]);
    bench.host.ok(&["-n", "other", "containers", "rm", "far"]);
    bench.host.assert_no_container();
}

/// F-207: whoever waits for a status that cannot be told any more says so, and it is told by the next daemon.
#[test]
fn a_status_that_cannot_be_told_is_the_clients_own() {
    let mut bench = Bench::new();
    let script = "echo ready; while [ ! -e /go ]; do sleep 0.02; done; exit 9";
    let run = bench.args(&["run", "--name", "x"], &[], script);
    let mut child = bench.host.command(&run).spawn().unwrap();
    let mut first = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let wait = bench.host.command(&["tasks", "wait", "x"]).spawn().unwrap();
    // It has asked when the daemon knows that it is there.
    std::thread::sleep(Duration::from_millis(500));
    bench.host.kill();
    for child in [child, wait] {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(text.starts_with("capstan: Unavailable: ") && text.lines().count() == 1, "{text}");
    }
    bench.host.start();
    assert_eq!(bench.status("x"), "running");
    fs::write(Path::new(&bench.rootfs).join("go"), "").unwrap();
    assert_eq!(bench.host.capstan(&["tasks", "wait", "x"]).code, 9);
    bench.host.remove("x");
    bench.host.assert_no_container();
}

/// F-253: what takes longer than it may ends, and so does what never would.
#[test]
fn a_timeout_ends_what_takes_longer() {
    let bench = Bench::new();
    bench.run("x", &[], "sleep 1000");
    let begun = Instant::now();
    let events = ["--timeout", "1s", "events", "--follow"];
    bench.host.fails(&events, 11, "Aborted", &["--timeout"]);
    let wait = ["--timeout", "1s", "tasks", "wait", "x"];
    bench.host.fails(&wait, 125, "Aborted", &["--timeout"]);
    let took = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert_eq!(bench.status("x"), "running", "the task has nothing to do with it");
    bench.host.remove("x");
    bench.host.assert_no_container();
}

/// D76: however short a process is, its start is told before its end, each once.
#[test]
fn a_short_life_is_told_in_order() {
    let bench = Bench::new();
    for round in 0..5 {
        for runtime in RUNTIMES {
            let id = format!("{runtime}-{round}");
            let flags = ["--runtime", runtime];
            bench.host.ok(&bench.args(&["run", "--rm", "--name", &id], &flags, "exit 0"));
        }
    }
    let all = bench.host.ok(&["events", "--since", "0", "/tasks/"]);
    for runtime in RUNTIMES {
        for round in 0..5 {
            let id = format!("id={runtime}-{round}");
            let of_it = |line: &&str| line.split_whitespace().any(|word| word == id);
            let topics =
                all.lines().filter(of_it).filter_map(|line| line.split_whitespace().nth(3));
            let want = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
            assert_eq!(topics.collect::<Vec<_>>(), want, "{id} in {all}");
        }
    }
    bench.host.assert_no_container();
}

/// The shim says what it has in hand; and only root's are its signals: it outlives those of a service manager.
#[test]
fn a_shim_outlives_signals() {
    let bench = Bench::new();
    bench.run("x", &[], "sleep 1000");
    let shim = bench.pid("x", "shimPid");
    for sent in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR2] {
        signal(shim, sent);
    }
    assert_eq!(bench.host.capstan(&["tasks", "exec", "x", "sh", "-c", "exit 6"]).code, 6);
    assert_eq!((bench.pid("x", "shimPid"), is_alive(shim)), (shim, true));
    bench.host.remove("x");
    bench.host.until("it ends with its task", || !is_alive(shim));
    bench.host.assert_no_container();
}
