//! Containers and their tasks, one step at a time.

use capstan_integration::process::signal;
use capstan_integration::{DockerRegistry, Host};

fn host() -> (DockerRegistry, Host, String) {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    (registry, host, image)
}

/// The whole life, with each runtime.
fn life(runtime: &str) {
    let (_registry, host, image) = host();
    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let create = ["containers", "create", "--runtime", runtime, "web", &image, "sh", "-c", script];
    host.ok(&create);
    let row = host.ok(&["containers", "ls"]);
    assert!(row.lines().nth(1).unwrap().starts_with("web "), "{row}");
    host.ok(&["tasks", "start", "-d", "web"]);
    let list = host.ok(&["tasks", "ls"]);
    let words: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..3], ["ID", "PID", "STATUS"]);
    assert_eq!((words[1][0], words[1][2]), ("web", "running"));
    let pid: u32 = words[1][1].parse().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    // The runtime was given what is stored, byte for byte.
    let bundle = host.state().join("runtime.linux/tasks/default/web/config.json");
    assert_eq!(
        std::fs::read_to_string(bundle).unwrap() + "\n",
        host.ok(&["containers", "spec", "web"])
    );
    // A shim that is asked says what it has in hand, and goes on.
    let shim = host.json(&["tasks", "inspect", "web"])["shimPid"].as_u64().unwrap();
    signal(u32::try_from(shim).unwrap(), rustix::process::Signal::USR1);
    host.until("the shim says it", || host.log().contains(&format!("init {pid}, started true")));

    let exec =
        host.capstan(&["tasks", "exec", "web", "sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (9, "out\n"), "{}", exec.stderr);
    assert_eq!(exec.stderr, "err\n");
    let exec = host.capstan_with_input(&["tasks", "exec", "-i", "web", "cat"], b"through\n");
    assert_eq!((exec.code, exec.stdout.as_str()), (0, "through\n"), "{}", exec.stderr);
    assert_eq!(host.capstan(&["tasks", "exec", "web", "nope"]).code, 127);
    assert_eq!(host.capstan(&["tasks", "exec", "web", "/etc/passwd"]).code, 126);

    host.fails(&["tasks", "delete", "web"], 6, "FailedPrecondition", &["web"]);
    host.fails(&["containers", "rm", "web"], 6, "FailedPrecondition", &["web"]);
    let ps = host.ok(&["tasks", "ps", "web"]);
    assert!(ps.starts_with("PID"), "{ps}");
    assert!(ps.lines().any(|line| line.starts_with(&pid.to_string())), "{ps}");

    host.ok(&["tasks", "kill", "web"]);
    let wait = host.capstan(&["tasks", "wait", "web"]);
    assert_eq!(wait.code, 5, "{}", wait.stderr);
    let info = &host.json(&["tasks", "ls"])[0];
    assert_eq!(info["status"], "stopped", "{info}");
    assert_eq!(info["exit"]["status"], 5, "{info}");
    // Asked again, the answer is the same.
    assert_eq!(host.capstan(&["tasks", "wait", "web"]).code, 5);
    host.ok(&["tasks", "delete", "web"]);
    host.fails(&["tasks", "wait", "web"], 125, "NotFound", &["web"]);
    host.ok(&["containers", "rm", "web"]);
    host.assert_no_container();
}

#[test]
fn a_life_with_the_embedded_runtime() {
    life("embedded");
}

#[test]
fn a_life_with_runc() {
    life("runc");
}

#[test]
fn a_life_with_crun() {
    life("crun");
}

#[test]
fn a_stopped_task_can_be_run_again_from_its_container() {
    let (_registry, host, image) = host();
    host.ok(&[
        "containers",
        "create",
        "job",
        &image,
        "sh",
        "-c",
        "echo $(cat /count)x > /count; cat /count",
    ]);
    assert_eq!(host.ok(&["tasks", "start", "job"]), "x\n");
    host.ok(&["tasks", "delete", "job"]);
    // Its file system is the container's, so what it wrote is still there.
    assert_eq!(host.ok(&["tasks", "start", "job"]), "xx\n");
    host.ok(&["tasks", "delete", "job"]);
    host.ok(&["containers", "rm", "job"]);
    host.assert_no_container();
}

#[test]
fn a_terminal_is_one() {
    let (_registry, host, image) = host();
    host.ok(&["run", "-d", "--name", "web", &image, "sleep", "1000"]);
    // `script` gives the command line a terminal of its own.
    let capstan = capstan_integration::program("capstan");
    let line = format!(
        "{} tasks exec -t web sh -c 'tty; test -t 1 && echo yes; exit 6'",
        capstan.display()
    );
    let output = std::process::Command::new(capstan_integration::find("script"))
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("CAPSTAN_ADDRESS", host.address())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("/dev/pts/0") && text.contains("yes"), "{text}");
    host.remove("web");
    host.assert_no_container();
}

/// Tasks, containers and images of one namespace are not there in another.
#[test]
fn namespaces_see_their_own() {
    let (_registry, host, image) = host();
    host.ok(&["namespaces", "create", "other"]);
    host.ok(&["run", "-d", "--name", "web", &image, "sleep", "1000"]);
    assert_eq!(host.ok(&["-n", "other", "tasks", "ls", "-q"]), "");
    assert_eq!(host.ok(&["-n", "other", "images", "ls", "-q"]), "");
    assert_eq!(host.ok(&["-n", "other", "content", "ls", "-q"]), "");
    host.fails(&["-n", "other", "tasks", "kill", "web"], 3, "NotFound", &["web"]);
    // The same name is free there.
    host.ok(&[
        "-n",
        "other",
        "run",
        "-d",
        "--plain-http",
        "--name",
        "web",
        &image,
        "sleep",
        "1000",
    ]);
    host.fails(&["namespaces", "rm", "other"], 6, "FailedPrecondition", &["other"]);
    for namespace in ["default", "other"] {
        host.ok(&["-n", namespace, "tasks", "delete", "--force", "web"]);
        host.ok(&["-n", namespace, "containers", "rm", "web"]);
    }
    host.assert_no_container();
}

/// The last task of a namespace took the namespace's directory with it while the next was being made.
#[test]
fn many_short_lives_at_once() {
    let (_registry, host, image) = host();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(host.ok(&["run", "--rm", &image, "echo", "here"]), "here\n");
                }
            });
        }
    });
    host.assert_no_container();
}

/// A runtime is configured by name: its program, and where it keeps what it knows.
#[test]
fn a_runtime_has_its_own_program_and_root() {
    let registry = DockerRegistry::with(&["busybox"]);
    let root = tempfile::tempdir().unwrap();
    let place = root.path().to_str().unwrap();
    let config =
        format!("[plugins.\"runtime.linux\".runtimes.mine]\nbinary = \"runc\"\nroot = {place:?}\n");
    let mut host = Host::with_config(&config);
    let image = registry.reference("busybox");
    let run = ["run", "-d", "--plain-http", "--runtime", "mine", "--name", "web", &image];
    host.ok(&[&run[..], &["sleep", "1000"]].concat());
    assert!(root.path().join("default/web/state.json").exists());
    assert_eq!(host.json(&["tasks", "inspect", "web"])["runtime"], "mine");
    // A later daemon finds it there too, and what it deletes is gone there.
    host.kill();
    host.start();
    assert_eq!(host.ok(&["tasks", "exec", "web", "echo", "here"]), "here\n");
    host.remove("web");
    assert!(!root.path().join("default/web").exists());
    host.assert_no_container();
}
