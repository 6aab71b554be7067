//! The daemon is killed, and nothing that matters is lost.

use std::time::{Duration, Instant};

use capstan_integration::{
    DockerRegistry, FakeRegistry, Host, Image, Layer, Random, digest, gzip, noise,
};

/// `ID -> (STATUS, exit status)` of `tasks ls`.
fn tasks(host: &Host) -> Vec<(String, String, Option<u64>)> {
    let list = host.json(&["tasks", "ls"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |task: &serde_json::Value| {
        (text(&task["id"]), text(&task["status"]), task["exit"]["status"].as_u64())
    };
    list.as_array().unwrap().iter().map(row).collect()
}

fn five_containers(runtime: &str) {
    let registry = DockerRegistry::with(&["busybox"]);
    let mut host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let gate = host.path("gate");
    std::fs::create_dir(&gate).unwrap();
    let mount = format!("type=bind,src={},dst=/gate", gate.display());
    for number in 0..5 {
        let name = format!("c{number}");
        let script = "while [ ! -e /gate/$0 ]; do sleep 0.05; done; exit 42";
        let args = ["run", "-d", "--runtime", runtime, "--name", &name, "--mount", &mount, &image];
        let mut args = args.to_vec();
        args.extend(["sh", "-c", script, &name]);
        host.ok(&args);
    }
    let before = tasks(&host);
    assert!(before.iter().all(|(_, status, _)| status == "running"), "{before:?}");
    let pids = host.json(&["tasks", "ls"]);

    host.kill();
    // One ends while there is no daemon.
    std::fs::write(gate.join("c2"), "").unwrap();
    let pid = pids[2]["pid"].as_u64().unwrap();
    host.until("its process is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    host.start();

    let after = tasks(&host);
    let want: Vec<(String, String, Option<u64>)> = (0..5)
        .map(|number| match number {
            2 => ("c2".into(), "stopped".into(), Some(42)),
            _ => (format!("c{number}"), "running".into(), None),
        })
        .collect();
    assert_eq!(after, want);
    assert_eq!(host.capstan(&["tasks", "wait", "c2"]).code, 42);
    // Those that run are reached as before.
    assert_eq!(host.ok(&["tasks", "exec", "c0", "echo", "here"]), "here\n");
    std::fs::write(gate.join("c0"), "").unwrap();
    assert_eq!(host.capstan(&["tasks", "wait", "c0"]).code, 42);
    let exits =
        || host.ok(&["events", "--since", "0", "/tasks/exit"]).matches("/tasks/exit").count();
    host.until("both exits are told", || exits() >= 2);
    assert_eq!(exits(), 2, "each exit is told once");
    for number in 0..5 {
        let name = format!("c{number}");
        host.remove(&name);
    }
    host.assert_no_container();
}

#[test]
fn five_containers_survive_a_kill_with_the_embedded_runtime() {
    five_containers("embedded");
}

#[test]
fn five_containers_survive_a_kill_with_runc() {
    five_containers("runc");
}

/// An orderly stop leaves the containers running too, and `--rm` is kept by the next daemon.
#[test]
fn a_stop_leaves_containers_running() {
    let registry = DockerRegistry::with(&["busybox"]);
    let mut host = Host::new();
    let image = registry.reference("busybox");
    let args = ["run", "-d", "--rm", "--plain-http", "--name", "brief", &image, "sleep", "1000"];
    host.ok(&args);
    host.ok(&["run", "-d", "--name", "long", &image, "sleep", "1000"]);
    let pid = host.json(&["tasks", "ls"])[0]["pid"].as_u64().unwrap();
    host.stop();
    assert_eq!(
        host.remains().processes.iter().filter(|(_, line)| line.contains("sleep")).count(),
        2
    );
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    host.start();
    host.until("the ephemeral one is gone", || host.ids(&["containers", "ls"]) == ["long"]);
    host.remove("long");
    host.assert_no_container();
}

/// A client that goes away in the middle leaves a name that can be used at once.
#[test]
fn a_client_that_is_killed_leaves_nothing_reserved() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let mut random = Random::new();
    for _ in 0..20 {
        let mut run = host
            .command(&["run", "--rm", "--name", "web", &image, "sleep", "0.01"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.below(80)));
        let _ = run.kill();
        run.wait().unwrap();
        // What was started goes on to its end, what was not is given up: soon the name is free.
        host.until("the name is free", || {
            let run = host.capstan(&["run", "--rm", "--name", "web", &image, "echo", "mine"]);
            assert!(matches!(run.code, 0 | 125), "{run:?}");
            if run.code == 125 {
                assert!(run.stderr.starts_with("capstan: AlreadyExists: "), "{run:?}");
            }
            run.code == 0 && run.stdout == "mine\n"
        });
    }
    host.assert_no_container();
}

/// A hundred kills at random moments of pull and run.
#[test]
fn a_hundred_kills() {
    let registry = FakeRegistry::start();
    let mut random = Random::new();
    let mut host = Host::new();
    let base = Layer::new().busybox().into_tar();
    // How long a round takes when nobody disturbs it, so that kills fall into all of it.
    let mut span = Duration::from_millis(500);
    let mut cut_short = 0;
    for round in 0..100 {
        let image = image(&base, round);
        let reference = registry.offer(&format!("app{round}"), &image);
        let name = format!("c{round}");
        let want = format!("round {round}\n");
        let mut run = host
            .command(&["run", "--rm", "--plain-http", "--name", &name, &reference, "cat", "/round"])
            .spawn()
            .unwrap();
        let span_us = u64::try_from(span.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(span_us)));
        host.kill();
        let status = run.wait().unwrap();
        cut_short += u32::from(!status.success());
        host.start();
        // Whether the first came to its end or not, the same works now.
        let begun = Instant::now();
        let again = host.ok(&[
            "run",
            "--rm",
            "--plain-http",
            "--name",
            "again",
            &reference,
            "cat",
            "/round",
        ]);
        assert_eq!(again, want, "round {round}");
        if round == 0 {
            span = begun.elapsed() + Duration::from_millis(100);
        }
    }
    assert!(cut_short > 10, "only {cut_short} kills hit: this test tests nothing");
    host.until("what was cut short is gone", || host.ids(&["containers", "ls"]).is_empty());
    host.assert_no_container();
    for name in host.ids(&["content", "ls"]) {
        let output = host.command(&["content", "get", &name]).output().unwrap();
        assert_eq!(digest(&output.stdout), name);
    }
    let snapshots = host.ok(&["snapshots", "ls"]);
    assert!(!snapshots.contains("active"), "drafts are left: {snapshots}");
}

/// Busybox, and a layer of its own for each round, so that each has something to fetch and unpack.
fn image(base: &[u8], round: u32) -> Image {
    let noise = noise(400_000, round);
    let top = Layer::new()
        .file("round", 0o644, format!("round {round}\n").as_bytes())
        .file("noise", 0o644, &noise)
        .into_tar();
    let blobs = [gzip(base), gzip(&top)];
    Image::of_blobs(blobs.to_vec(), &[digest(base), digest(&top)])
}
