//! The daemon's frame: what it makes when it boots, its flags and its file, its signals, its log and its end.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use capstan_integration::process::{is_alive, signal};
use capstan_integration::{FakeRegistry, Fault, Host, Image, Layer, make_rootfs, noise, program};
use rustix::process::Signal;

/// How long the daemon may take to end.
const END: Duration = Duration::from_secs(10);

/// capstand with the file of a host, and these flags.
fn capstand(host: &Host, flags: &[&str]) -> Command {
    let mut command = Command::new(program("capstand"));
    command.arg("--config").arg(host.config()).args(flags).env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What one prints that must end well.
fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// One that must not boot, and what it says.
fn refused(mut command: Command) -> String {
    let mut daemon = command.spawn().unwrap();
    let deadline = Instant::now() + END;
    while daemon.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            daemon.kill().unwrap();
            panic!("{command:?} runs: {:?}", daemon.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = daemon.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
    said
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// F-001, F-002, F-004, D26, D93: what is made, and for whom; and once more after a kill.
#[test]
fn what_it_makes_is_its_own() {
    let mut host = Host::without_daemon(64);
    // Nothing of it is there yet; nothing depends on the umask.
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let socket = host.path("a/b/capstan.sock");
    let address = format!("unix://{}", socket.display());
    let text = fs::read_to_string(host.config()).unwrap();
    fs::write(host.config(), text.replace(&host.address(), &address)).unwrap();
    for round in 0..3 {
        host.start();
        assert_eq!(mode(&host.root()), 0o700);
        // The way to the socket is passed by who may connect, and that is root.
        for dir in [host.state(), host.path("a"), host.path("a/b")] {
            assert_eq!(mode(&dir), 0o700, "{}", dir.display());
        }
        let meta = socket.symlink_metadata().unwrap();
        assert!(meta.file_type().is_socket());
        let owner = (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777);
        assert_eq!(owner, (0, 0, 0o600));
        assert_eq!(host.ok(&["--address", &address, "health"]), "serving\n");
        let log = host.log();
        let ready: Vec<&str> = log.lines().filter(|line| line.contains(" ready ")).collect();
        assert_eq!(ready.len(), round + 1, "{log}");
        assert!(ready[round].contains(&address) && ready[round].contains("elapsed="), "{ready:?}");
        match round {
            // The socket of a daemon that was killed is in nobody's way.
            0 => {
                host.kill();
                assert!(socket.exists());
                fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
            }
            _ => {
                host.stop();
                assert!(!socket.exists());
            }
        }
    }
    rustix::process::umask(before);
    // Each plugin has a directory of its own below each (F-026).
    for dir in [host.root().join("content.local"), host.state().join("runtime.linux")] {
        assert!(dir.is_dir(), "{}", dir.display());
    }
}

#[test]
fn a_root_and_an_address_have_one_daemon() {
    let host = Host::new();
    let said = refused(capstand(&host, &[]));
    assert!(said.contains("Unavailable: another capstand uses"), "{said}");
    let (root, state) = (host.path("root2"), host.path("state2"));
    let other = ["--root", root.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let said = refused(capstand(&host, &other));
    assert!(said.contains("AlreadyExists: another daemon listens on"), "{said}");
    // The first one goes on, and its socket is there.
    host.ok(&["health"]);
    // What is no socket is somebody's file, and stays.
    let file = host.path("file");
    fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&file, host.path("link")).unwrap();
    for name in ["file", "link"] {
        let address = format!("unix://{}", host.path(name).display());
        let said = refused(capstand(&host, &[&other[..], &["--address", &address]].concat()));
        assert!(said.contains("AlreadyExists") && said.contains("is no socket"), "{said}");
        assert_eq!(fs::read_to_string(host.path(name)).unwrap(), "precious");
    }
}

/// What a boot would refuse is not taken by a running daemon either.
#[test]
fn a_reload_takes_nothing_that_a_boot_refuses() {
    let host = Host::new();
    let file = fs::read_to_string(host.config()).unwrap();
    let set = |from: &str, to: &str| {
        assert!(file.contains(from), "{file}");
        fs::write(host.config(), file.replace(from, to)).unwrap();
    };
    let fails = |code: i32, class: &str, part: &str| {
        host.fails(&["plugins", "reload"], code, class, &["all is as before", part]);
    };
    set("log_level = \"debug\"", "log_level = \"loud\"");
    fails(5, "InvalidArgument", "\"loud\" is no level");
    set("capstan.sock", "other.sock");
    fails(6, "FailedPrecondition", "address cannot change while the daemon runs");
    set("log_level = \"debug\"", "log_level = \"info\"");
    assert_eq!(host.ok(&["plugins", "reload"]), "");
    assert!(host.log().contains("takes effect when the daemon is restarted key=\"log_level\""));
}

/// F-002, F-003, F-011, F-013, F-015: one line says what is wrong; nothing was made. `config check` finds the same.
#[test]
fn what_is_wrong_stops_the_boot() {
    let host = Host::without_daemon(64);
    let file = fs::read_to_string(host.config()).unwrap();
    let is_line = |said: &str, parts: &[&str]| {
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in ["capstand: "].iter().chain(parts) {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    };
    let check = |key: &str, value: &str, parts: &[&str]| {
        let line = file.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        fs::write(host.config(), file.replace(line, &format!("{key} = {value}"))).unwrap();
        is_line(&refused(capstand(&host, &[])), parts);
        let path = host.config().display().to_string();
        let mut command = Command::new(program("capstand"));
        command.args(["config", "check", &path]).stdout(Stdio::null()).stderr(Stdio::piped());
        is_line(&refused(command), parts);
        fs::write(host.config(), &file).unwrap();
    };
    let invalid = "InvalidArgument";
    check("root", "\"\"", &[invalid, "root and state must be absolute paths"]);
    check("root", "\"here\"", &[invalid, "root and state must be absolute paths"]);
    check("state", "\"\"", &[invalid, "root and state must be absolute paths"]);
    check("address", "\"\"", &[invalid, "address \"\"", "unix:///"]);
    check("address", "\"tcp://[::1]:1\"", &[invalid, "tcp://[::1]:1", "unix:///"]);
    check("log_level", "\"loud\"", &[invalid, "\"loud\" is no level", "use error, warn"]);
    check("log_level", "\"\"", &[invalid, "log level \"\""]);
    check("log_level", "7", &[invalid, "config.toml, line 4", "invalid type"]);
    assert!(!host.root().exists() && !host.state().exists(), "something was made");
    let section = "\"info\"\n[plugins.\"transfer.local\"]\nconcurrency = \"many\"";
    check("log_level", section, &[invalid, "[plugins.\"transfer.local\"]", "concurrency"]);
    // By flags, too.
    for (flags, parts) in [
        (&["--log-level", "loud"][..], &[invalid, "\"loud\" is no level"][..]),
        (&["--address", ""], &[invalid, "address \"\""]),
        (&["--root", "here"], &[invalid, "absolute"]),
    ] {
        is_line(&refused(capstand(&host, flags)), parts);
    }
    // A file that was asked for has to be there.
    let mut command = Command::new(program("capstand"));
    command.args(["--config", "/no/such.toml"]).stdout(Stdio::null()).stderr(Stdio::piped());
    is_line(&refused(command), &["NotFound", "/no/such.toml"]);
}

/// F-012, F-243.
#[test]
fn flags_beat_the_file_and_the_file_the_defaults() {
    let host = Host::without_daemon(64);
    let other = host.path("other");
    let address = format!("unix://{}", host.path("other.sock").display());
    let flags = ["--root", other.to_str().unwrap(), "--address", &address, "--log-level", "warn"];
    let dump = printed(capstand(&host, &[&flags[..], &["config", "dump"]].concat()));
    let has = |line: String| assert!(dump.lines().any(|it| it == line), "no {line} in {dump}");
    has(format!("root = {other:?}"));
    has(format!("address = {address:?}"));
    has("log_level = \"warn\"".into());
    has(format!("state = {:?}", host.state()));
    has(format!("cgroup_parent = {:?}", host.cgroup()));
    has("plugin_dirs = [\"/usr/lib/capstan/plugins\"]".into());
    has("health_interval_ms = 10000".into());
    assert!(!other.exists(), "to look makes nothing");

    // And so it runs.
    let log_of = |flags: &[&str]| {
        let mut daemon = capstand(&host, flags).spawn().unwrap();
        host.until("it answers", || host.capstan(&["--address", &address, "health"]).code == 0);
        let info = host.json(&["--address", &address, "info"]);
        assert_eq!(info["root"], other.to_str().unwrap(), "{info}");
        assert_eq!(info["state"], host.state().to_str().unwrap(), "{info}");
        end(&mut daemon);
        String::from_utf8(daemon.wait_with_output().unwrap().stderr).unwrap()
    };
    let quiet = log_of(&flags);
    assert!(!quiet.contains(" INFO ") && !quiet.contains(" DEBUG "), "{quiet}");
    assert!(other.is_dir() && host.state().is_dir() && !host.root().exists());
    // The file says debug. Lines say which module they are from (F-242).
    let loud = log_of(&flags[..4]);
    assert!(loud.contains(" INFO ") && loud.contains(" DEBUG "), "{loud}");
    assert!(loud.contains(" capstan_kernel::supervisor::keeper: "), "{loud}");
}

/// SIGTERM.
fn end(daemon: &mut Child) {
    signal(daemon.id(), Signal::TERM);
    let deadline = Instant::now() + END;
    while daemon.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// F-010: the defaults are a file that can be edited, and hold for every plugin that can be told something.
#[test]
fn the_defaults_are_a_whole_file() {
    let config = |args: &[&str]| {
        let mut command = Command::new(program("capstand"));
        command.args(args).stderr(Stdio::piped());
        printed(command)
    };
    let text = config(&["config", "default"]);
    for line in [
        "root = \"/var/lib/capstan\"",
        "state = \"/run/capstan\"",
        "address = \"unix:///run/capstan/capstan.sock\"",
        "log_level = \"info\"",
        "[select]",
        "[supervision]",
        "[plugins.\"content.local\"]",
        "[plugins.\"transfer.local\"]",
        "[plugins.\"runtime.linux\"]",
        "runtime = \"embedded\"",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml").display().to_string();
    fs::write(&file, &text).unwrap();
    assert_eq!(config(&["config", "check", &file]), "the configuration is fine\n");
    assert_eq!(config(&["--config", &file, "config", "dump"]), text);
}

/// F-017: a built-in plugin that the linker left out would be missed here.
#[test]
fn every_built_in_plugin_runs() {
    let host = Host::new();
    let list = host.json(&["plugins", "ls"]);
    let row = |plugin: &serde_json::Value| {
        let word = |key: &str| plugin[key].as_str().unwrap().to_owned();
        (word("id"), word("state"))
    };
    let rows: Vec<_> = list.as_array().unwrap().iter().map(row).collect();
    let ids: BTreeSet<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from(BUILT_IN));
    for (id, state) in &rows {
        let is_there = id != "snapshotter.btrfs" && id != "snapshotter.erofs";
        assert!(state == "running" || !is_there && state == "skipped", "{id} {state}");
    }
    // F-237: all of it, and each alone.
    assert_eq!(host.ok(&["health"]), "serving\n");
    assert_eq!(host.json(&["health"])["serving"], true);
    assert_eq!(host.ok(&["health", "content.local"]), "serving\n");
    host.fails(&["health", "no.body"], 3, "NotFound", &["no.body", "plugins ls"]);
}

/// With the one that is for tests.
const BUILT_IN: [&str; 29] = [
    "containers.local",
    "content.local",
    "delivery.log",
    "differ.tar",
    "events.log",
    "exporter.prometheus",
    "gc-policy.age",
    "gc.local",
    "health.local",
    "images.local",
    "introspection.local",
    "leases.local",
    "metadata.redb",
    "metrics.calls",
    "metrics.process",
    "metrics.tasks",
    "namespaces.local",
    "probe.panic",
    "runtime.linux",
    "sink.file",
    "snapshotter.btrfs",
    "snapshotter.erofs",
    "snapshotter.native",
    "snapshotter.overlay",
    "tasks.local",
    "transfer.local",
    "verifier.cosign",
    "verifier.digest",
    "version.local",
];

/// F-005, F-006, F-241, D27: whoever listens, it ends soon and well, and containers go on.
#[test]
fn signals_dump_and_stop() {
    let mut host = Host::without_daemon(512);
    make_rootfs(&host.path("rootfs"));
    let rootfs = host.path("rootfs").display().to_string();
    host.start();
    host.ok(&["run", "-d", "--rootfs", &rootfs, "--name", "c", "sleep", "1000"]);
    let pid = || u32::try_from(host.json(&["tasks", "inspect", "c"])["pid"].as_u64().unwrap());
    let pid = pid().unwrap();
    // Lines of a plugin name it (F-027).
    assert!(host.log().contains(" capstan_runtime_linux::"), "{}", host.log());
    signal(host.daemon_pid(), Signal::USR1);
    for id in host.ids(&["plugins", "ls"]) {
        let plugin = format!(" actor plugin=\"{id}\" state=\"");
        host.until_or(
            &format!("{id} is dumped"),
            || host.log().contains(&plugin),
            || host.log().lines().last().unwrap_or_default().to_owned(),
        );
    }
    assert_eq!(host.ok(&["health"]), "serving\n");
    let registry = FakeRegistry::start();
    let image = Image::new(vec![Layer::new().file("big", 0o644, &noise(1 << 20, 1))]);
    registry.set_fault(&image.layers[0], Some(Fault::HangAt(1 << 19)));
    let image = registry.offer("app", &image);
    for by in [Signal::INT, Signal::TERM] {
        // All of them wait for what does not come.
        let spawn = |args: &[&str]| host.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut open = [
            spawn(&["events", "--follow"]),
            spawn(&["tasks", "wait", "c"]),
            spawn(&["images", "pull", "--plain-http", &image]),
            spawn(&["content", "ingest", "k"]),
        ];
        open[3].stdin.as_mut().unwrap().write_all(b"more is to come").unwrap();
        host.until("they are on their way", || host.ids(&["content", "active"]).len() == 2);
        let begun = Instant::now();
        host.stop_by(by);
        assert!(begun.elapsed() < END, "{by:?}: {:?}", begun.elapsed());
        assert!(is_alive(pid), "{by:?}");
        for child in open {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.starts_with("capstan: Unavailable: "), "{by:?}: {output:?}");
        }
        host.start();
        let task = host.json(&["tasks", "inspect", "c"]);
        assert_eq!((&task["status"], &task["pid"]), (&"running".into(), &pid.into()), "{by:?}");
    }
    host.remove("c");
    host.assert_no_container();
}

/// F-009, F-235.
#[test]
fn each_program_says_what_it_is() {
    let version = env!("CARGO_PKG_VERSION");
    for name in ["capstand", "capstan"] {
        let mut command = Command::new(program(name));
        command.arg("--version").stderr(Stdio::piped());
        let said = printed(command);
        assert!(said.starts_with(&format!("{name} {version}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // Nobody starts a shim by hand, whatever the arguments.
    let mut shim = Command::new(program("capstan-shim"));
    shim.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let said = refused(shim);
    assert!(said.contains("capstand starts this program, people do not"), "{said}");

    let host = Host::new();
    let said = host.ok(&["version"]);
    let (client, server) = said.split_once("\n\n").unwrap();
    assert!(client.starts_with(&format!("Client:\n  Version:  {version}\n")), "{said}");
    assert!(server.starts_with(&format!("Server:\n  Version:  {version}\n")), "{said}");
    let json = host.json(&["version"]);
    assert_eq!(json["client"]["version"], version);
    assert_eq!(json["client"], json["server"], "they are of one build");
    assert_eq!(host.capstan(&["version"]).stderr, "", "there is nothing to warn of");
}

/// F-008, F-240: what the unit has to say for containers to outlive the daemon, and be killed before it.
#[test]
fn the_unit_leaves_containers_alone() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/daemon/capstand.service");
    let unit = fs::read_to_string(path).unwrap();
    for line in [
        "[Unit]",
        "[Service]",
        "[Install]",
        "Type=notify",
        "Delegate=yes",
        "KillMode=process",
        "OOMScoreAdjust=-999",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ] {
        assert!(unit.lines().any(|it| it == line), "no {line} in {unit}");
    }
}
