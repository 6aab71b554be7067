//! Plugins are restarted, replaced, reconfigured and killed while containers come and go.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use capstan_integration::{DockerRegistry, FakeRegistry, Host, Image, Layer, noise, program};
use rustix::process::{Pid, Signal, kill_process};

/// Containers that come and go at the same time.
const CHURN: u32 = 20;

/// How often each thing is done; `CAPSTAN_ROUNDS` says otherwise.
fn rounds() -> u32 {
    std::env::var("CAPSTAN_ROUNDS")
        .map_or(5, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"))
}

/// What one kind of change did to those who called meanwhile.
struct Blackouts {
    what: &'static str,
    all: Vec<Duration>,
}

impl Blackouts {
    fn say(mut self) {
        self.all.sort();
        let at =
            |percent: usize| self.all[(self.all.len() * percent / 100).min(self.all.len() - 1)];
        eprintln!(
            "blackout of {} ({} times): p50 {:?}, p99 {:?}, longest {:?}",
            self.what,
            self.all.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}

/// `(generation, blackout)` of a plugin.
fn look(host: &Host, id: &str) -> (u64, Duration) {
    let plugin = host.json(&["plugins", "inspect", id]);
    let blackout = plugin["blackoutNs"].as_u64().unwrap_or(0);
    (plugin["generation"].as_u64().unwrap_or(0), Duration::from_nanos(blackout))
}

/// Runs `capstan` until it works; at most one more time, and only if it was told to try again.
fn at_most_twice(host: &Host, args: &[&str], retried: &AtomicU32) {
    let first = host.capstan(args);
    if first.code == 0 {
        return;
    }
    assert!(first.stderr.contains("Unavailable: "), "{args:?}: {first:?}");
    retried.fetch_add(1, Ordering::Relaxed);
    let second = host.capstan(args);
    assert_eq!(second.code, 0, "{args:?}: {first:?}, then {second:?}");
}

fn section(concurrency: u32) -> String {
    format!(
        "[load.\"differ.tar\"]\nlibrary = {:?}\nisolated = true\n\
         [plugins.\"transfer.local\"]\nconcurrency = {concurrency}\n",
        program("plugins/differ.tar.so")
    )
}

#[test]
fn nothing_fails_while_plugins_are_replaced() {
    let registry = DockerRegistry::with(&["busybox"]);
    let fake = FakeRegistry::start();
    let host = Host::with_config(&section(3));
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let library = program("plugins/snapshotter.native.so");
    let library = library.to_str().unwrap();
    host.ok(&["plugins", "replace", "snapshotter.native", library]);
    host.ok(&["images", "unpack", "--snapshotter", "native", &image]);
    for number in 0..5 {
        let name = format!("long{number}");
        let run =
            ["run", "-d", "--snapshotter", "native", "--name", &name, &image, "sleep", "10000"];
        host.ok(&run);
    }
    let pids = |host: &Host| -> Vec<String> {
        let list = host.json(&["tasks", "ls"]);
        let long = list
            .as_array()
            .unwrap()
            .iter()
            .filter(|task| task["id"].as_str().is_some_and(|id| id.starts_with("long")));
        long.map(|task| format!("{} {} {}", task["id"], task["pid"], task["status"])).collect()
    };
    let before = pids(&host);
    assert_eq!(before.len(), 5);

    let is_over = AtomicBool::new(false);
    let (runs, pulls, retried) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let mut blackouts = Vec::new();
    std::thread::scope(|scope| {
        for number in 0..CHURN {
            let (host, image, is_over, runs, retried) = (&host, &image, &is_over, &runs, &retried);
            scope.spawn(move || {
                let snapshotter = if number % 2 == 0 { "native" } else { "overlay" };
                while !is_over.load(Ordering::Relaxed) {
                    let name = format!("churn{number}");
                    let run = [
                        "run",
                        "--rm",
                        "--snapshotter",
                        snapshotter,
                        "--name",
                        &name,
                        image,
                        "true",
                    ];
                    at_most_twice(host, &run, retried);
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let mut seed = 1;
            while !is_over.load(Ordering::Relaxed) {
                // Layers that nobody has seen.
                let layer = |seed| Layer::new().file("noise", 0o644, &noise(300_000, seed));
                let made = Image::new(vec![layer(seed), layer(seed + 1), layer(seed + 2)]);
                seed += 3;
                let reference = fake.offer("app", &made);
                at_most_twice(&host, &["images", "pull", "--plain-http", &reference], &retried);
                pulls.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Whatever fails in here, the others must end.
        let change =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| change(&host, library)));
        is_over.store(true, Ordering::Relaxed);
        blackouts = change.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(pids(&host), before, "a running task changed");
    let (runs, pulls) = (runs.load(Ordering::Relaxed), pulls.load(Ordering::Relaxed));
    eprintln!(
        "{runs} runs and {pulls} pulls, {} of them tried twice",
        retried.load(Ordering::Relaxed)
    );
    assert!(runs >= CHURN && pulls > 0);
    blackouts.into_iter().for_each(Blackouts::say);
    for number in 0..5 {
        host.remove(&format!("long{number}"));
    }
    host.assert_no_container();
}

/// Every plugin, those with the truth as well, may be restarted under containers that run.
#[test]
fn each_plugin_is_restarted_under_running_containers() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    let gate = host.path("gate");
    std::fs::create_dir(&gate).unwrap();
    let mount = format!("type=bind,src={},dst=/gate", gate.display());
    let script = "while [ ! -e /gate/open ]; do sleep 0.05; done; echo out; exit 42";
    let run =
        ["run", "--plain-http", "--name", "web", "--mount", &mount, &image, "sh", "-c", script];
    // In the foreground: its streams and its exit code are to outlive all of it.
    let foreground = host.command(&run).spawn().unwrap();
    host.until("it runs", || host.capstan(&["tasks", "exec", "web", "true"]).code == 0);
    let task = host.json(&["tasks", "ls"])[0].clone();
    let told = host.path("told");
    let mut subscriber = host
        .command(&["events", "--follow", "/tasks/exit"])
        .stdout(std::fs::File::create(&told).unwrap())
        .spawn()
        .unwrap();
    for id in host.ids(&["plugins", "ls"]) {
        // One for another file system has nothing to restart.
        if host.json(&["plugins", "inspect", &id])["state"] == "skipped" {
            continue;
        }
        let (generation, _) = look(&host, &id);
        host.ok(&["plugins", "restart", &id]);
        assert_eq!(look(&host, &id).0, generation + 1, "{id}");
        assert_eq!(host.ok(&["tasks", "exec", "web", "echo", "here"]), "here\n", "after {id}");
        assert_eq!(host.ok(&["run", "--rm", &image, "echo", "new"]), "new\n", "after {id}");
    }
    let after = host.json(&["tasks", "ls"])[0].clone();
    assert_eq!((&after["pid"], &after["status"]), (&task["pid"], &task["status"]));
    std::fs::write(gate.join("open"), "").unwrap();
    let output = foreground.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    // Whoever follows the events was served by all instances of the log, and missed nothing.
    let exits = || host.ok(&["events", "--since", "0", "/tasks/exit"]);
    host.until("the exit is told", || exits().contains("exitStatus=42"));
    let wanted = exits();
    let rows = |text: &str| text.lines().filter(|line| line.contains("/tasks/exit")).count();
    host.until("the follower has all of them", || {
        rows(&std::fs::read_to_string(&told).unwrap()) == rows(&wanted)
    });
    let _ = subscriber.kill();
    subscriber.wait().unwrap();
    host.remove("web");
    host.assert_no_container();
}

fn change(host: &Host, library: &str) -> Vec<Blackouts> {
    let mut all = [
        "restart content.local",
        "replace snapshotter.native",
        "SIGHUP",
        "kill -9 of a remote differ",
    ]
    .map(|what| Blackouts { what, all: Vec::new() });
    for round in 0..rounds() {
        host.ok(&["plugins", "restart", "content.local"]);
        all[0].all.push(look(host, "content.local").1);

        host.ok(&["plugins", "replace", "snapshotter.native", library]);
        all[1].all.push(look(host, "snapshotter.native").1);

        let (generation, _) = look(host, "transfer.local");
        host.configure(&section(4 + round % 2));
        let daemon = Pid::from_raw(i32::try_from(host.daemon_pid()).unwrap()).unwrap();
        kill_process(daemon, Signal::HUP).unwrap();
        all[2].all.push(next(host, "transfer.local", generation));

        let remote = host.json(&["plugins", "inspect", "differ.tar"]);
        let pid = i32::try_from(remote["pid"].as_u64().unwrap()).unwrap();
        let generation = remote["generation"].as_u64().unwrap();
        kill_process(Pid::from_raw(pid).expect("it has a process"), Signal::KILL).unwrap();
        all[3].all.push(next(host, "differ.tar", generation));
    }
    all.into()
}

/// Waits for a later instance; answers how long there was none.
fn next(host: &Host, id: &str, after: u64) -> Duration {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (generation, blackout) = look(host, id);
        if generation > after {
            return blackout;
        }
        assert!(Instant::now() < deadline, "{id} has no new instance\n{}", host.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}
