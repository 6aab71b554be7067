//! Third parties in another language: a plugin and a client in Python, over nothing but the schemas.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use capstan_client::Client;
use capstan_client::schema::metrics_capnp::metrics;
use capstan_integration::process::signal;
use capstan_integration::{Host, python};
use rustix::process::Signal;
use serde_json::Value;

const ID: &str = "metrics.python";

/// What it writes into the log of what it asked for without a right to it.
const REFUSED: &str = "not given transfer: permissionDenied, content: permissionDenied, snapshotter: permissionDenied";

/// The configuration by which the daemon starts the plugin itself.
fn by_command(section: &str) -> String {
    let program = python("metrics_plugin.py");
    format!("[load.{ID:?}]\ncommand = {program:?}\n[plugins.{ID:?}]\n{section}\n")
}

/// The configuration by which the daemon connects to the plugin.
fn by_socket(socket: &Path, section: &str) -> String {
    let address = format!("unix://{}", socket.display());
    format!("[load.{ID:?}]\nsocket = {address:?}\n[plugins.{ID:?}]\n{section}\n")
}

/// A plugin that nobody but the test started.
struct Listener(Child);

impl Listener {
    fn start(host: &Host) -> Self {
        let [interpreter, file] = python("metrics_plugin.py");
        let mut command = Command::new(interpreter);
        command.arg(file).arg("--listen").arg(socket(host)).stdin(Stdio::null());
        // What is left of it is found by where it works.
        Self(command.current_dir(host.path("")).spawn().expect("start Python"))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn socket(host: &Host) -> PathBuf {
    host.path("python.sock")
}

fn plugins(host: &Host) -> BTreeMap<String, Value> {
    let list = host.json(&["plugins", "ls"]);
    let named = |plugin: &Value| (plugin["id"].as_str().unwrap().to_owned(), plugin.clone());
    list.as_array().unwrap().iter().map(named).collect()
}

fn plugin(host: &Host) -> Value {
    plugins(host).remove(ID).expect("it is registered, whatever its state")
}

fn pid(host: &Host) -> u32 {
    plugin(host)["pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap()
}

/// What `capstan metrics` prints of samples whose names begin so.
fn samples(host: &Host, prefix: &str) -> BTreeMap<String, f64> {
    let list = host.json(&["metrics"]);
    let named = |sample: &Value| {
        (sample["name"].as_str().unwrap().to_owned(), sample["value"].as_f64().unwrap())
    };
    let all = list.as_array().unwrap().iter().map(named);
    all.filter(|(name, _)| name.starts_with(prefix)).collect()
}

/// Waits until it runs with so many restarts, and answers.
fn until_running(host: &Host, restarts: u32) {
    host.until("the plugin runs", || {
        let plugin = plugin(host);
        assert_ne!(plugin["state"], "failed", "{plugin}");
        plugin["state"] == "running" && plugin["restarts"] == restarts
    });
    assert!(!samples(host, "capstan_python_").is_empty());
}

/// Processes of the plugin whose parent is the daemon: running ones, and those that were only asked.
fn processes(daemon: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let parent = format!("PPid:\t{daemon}\n");
        if read("cmdline").contains("metrics_plugin.py") && read("status").contains(&parent) {
            found.push(entry.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

/// Ends the daemon; all that it started ends with it.
fn stop(mut host: Host) {
    let processes = processes(host.daemon_pid());
    assert!(!processes.is_empty());
    host.stop();
    let is_alive = |pid: &u32| Path::new("/proc").join(pid.to_string()).exists();
    host.until("its processes are gone", || !processes.iter().any(is_alive));
}

#[test]
fn a_plugin_and_a_client_in_python() {
    let host = Host::with_config(&by_command(""));
    let plugin = plugin(&host);
    assert_eq!(plugin["state"], "running", "{plugin}");
    assert_eq!(plugin["source"], "remote", "{plugin}");
    assert_eq!(plugin["builtWith"], "pycapnp 2.2.4", "{plugin}");
    assert_eq!(plugin["config"], "prefix = \"capstan_python\"\n", "the default is filled in");
    assert!(plugin["memoryBytes"].as_u64().unwrap() > 1 << 20, "{plugin}");
    let text = host.ok(&["plugins", "ls"]);
    let row = text.lines().find(|line| line.starts_with(ID)).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, [ID, "running", "remote", "1.0.0", "0"]);

    // Called by the daemon.
    let text = host.ok(&["metrics"]);
    assert!(text.contains("# TYPE capstan_python_resident_bytes gauge\n"), "{text}");
    let found = samples(&host, "capstan_python_");
    let resident = found["capstan_python_resident_bytes"];
    assert!((1e6..1e9).contains(&resident), "{found:?}");
    assert!(found["capstan_python_load1"] >= 0.0, "{found:?}");
    // Calling the daemon: what it requires it reaches, the rest it does not.
    let neighbour = samples(&host, "capstan_process_").len();
    assert_eq!(found["capstan_python_neighbour_samples"].to_string(), neighbour.to_string());
    let log = host.log();
    let line = log.lines().find(|line| line.contains("not given")).expect("its line is in the log");
    for part in [
        "INFO",
        "plugin=\"metrics.python\"",
        "module=\"metrics_plugin\"",
        REFUSED,
        &format!("process {}", plugin["pid"]),
    ] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }

    check_client(&host);
    stop(host);
}

/// client.py sees what `capstan` sees.
fn check_client(host: &Host) {
    let [interpreter, file] = python("client.py");
    let output = Command::new(interpreter).arg(file).arg(host.address()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |kind: &str| -> Vec<&Value> { lines.iter().filter_map(|line| line.get(kind)).collect() };
    let ours = plugins(host);
    let theirs = of("plugin");
    assert_eq!(theirs.len(), ours.len());
    for plugin in theirs {
        let same = &ours[plugin["id"].as_str().unwrap()];
        for key in ["state", "source", "requires", "rights"] {
            assert_eq!(plugin[key], same[key], "{plugin}");
        }
    }
    let rights = ours[ID]["rights"].to_string();
    assert!(rights.contains("metrics.process"), "{rights}");
    for other in ["transfer", "content", "snapshotter"] {
        assert!(!rights.contains(other), "{rights}");
    }
    let names: Vec<&str> = of("sample").iter().map(|it| it["name"].as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let same: Vec<String> = samples(host, "capstan_python_").into_keys().collect();
    assert_eq!(sorted, same);
    let errors = of("error");
    assert_eq!(errors[0]["class"], "notFound", "{text}");
    assert!(errors[0]["message"].as_str().unwrap().contains("nobody.here"), "{text}");
}

#[test]
fn a_python_process_that_is_killed_or_hangs_comes_back() {
    let watch = "[supervision]\nhealth_interval_ms = 100\nhealth_deadline_ms = 1000\n";
    let host = Host::with_config(&format!("{watch}{}", by_command("")));
    until_running(&host, 0);
    let first = pid(&host);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: metrics::Client = client.open(ID, "");
        let collect = async || client.call(service.collect_request().send().promise).await;
        collect().await.unwrap();
        signal(first, Signal::KILL);
        until_running(&host, 1);
        // A peer's capability is for the plugin, not for its process.
        let response = collect().await.unwrap();
        assert!(!response.get().unwrap().get_samples().unwrap().is_empty());
    });
    let second = pid(&host);
    assert_ne!(first, second);
    let log = host.log();
    let line = log.lines().find(|line| line.contains("a new instance follows")).unwrap();
    assert!(line.contains(ID) && line.contains("signal: 9"), "{line}");

    signal(second, Signal::STOP);
    until_running(&host, 2);
    assert_ne!(pid(&host), second);
    assert!(host.log().contains("it hangs: no answer within 1s"), "{}", host.log());
    assert!(!Path::new("/proc").join(second.to_string()).exists(), "the one that hung was ended");
    stop(host);
}

#[test]
fn a_changed_section_restarts_the_python_plugin_alone() {
    let host = Host::with_config(&by_command(""));
    for _ in 0..3 {
        samples(&host, "capstan_python_");
    }
    let before = plugins(&host);
    host.configure(&by_command("prefix = \"other\""));
    signal(host.daemon_pid(), Signal::HUP);
    let generation = |plugin: &Value| plugin["generation"].as_u64().unwrap();
    host.until("it has a new instance", || {
        let now = plugin(&host);
        now["state"] == "running" && generation(&now) == generation(&before[ID]) + 1
    });
    assert_eq!(samples(&host, "capstan_python_"), BTreeMap::new());
    let found = samples(&host, "other_");
    assert!(found.contains_key("other_load1"), "{found:?}");
    // Each `samples` collects once, and the instance before handed its count over.
    assert_eq!(found["other_collections_total"].to_string(), "5", "{found:?}");
    for (id, now) in plugins(&host) {
        assert_eq!(generation(&now), generation(&before[&id]) + u64::from(id == ID), "{id}");
        assert_eq!(now["restarts"], 0, "{now}");
    }

    // What it refuses is not taken, and it goes on as it is.
    let pid = pid(&host);
    host.configure(&by_command("prefix = \"Other\""));
    let parts = ["[plugins.\"metrics.python\"].prefix", "'Other'"];
    host.fails(&["plugins", "reload"], 5, "InvalidArgument", &parts);
    assert_eq!(plugin(&host)["pid"], pid);
    assert!(samples(&host, "other_").contains_key("other_load1"));
    stop(host);
}

#[test]
fn a_section_that_python_refuses_stops_the_boot() {
    let mut host = Host::without_daemon(64);
    let mut check = |section: &str, parts: &[&str]| {
        host.clear_log();
        host.configure(&by_command(section));
        let log = host.try_start().expect_err("it must not start");
        for part in parts {
            assert!(log.contains(part), "{section}: no {part:?} in {log}");
        }
    };
    let place = "[plugins.\"metrics.python\"]";
    check("prefx = \"a\"", &["InvalidArgument", place, "'prefx'"]);
    check("prefix = 1", &["InvalidArgument", place, ".prefix"]);
}

#[test]
fn a_python_plugin_that_listens() {
    let mut host = Host::without_daemon(512);
    let listener = Listener::start(&host);
    host.until("it listens", || UnixStream::connect(socket(&host)).is_ok());
    // Somebody who connects and says nothing is in nobody's way.
    let _silent = UnixStream::connect(socket(&host)).unwrap();
    host.configure(&by_socket(&socket(&host), ""));
    host.start();
    until_running(&host, 0);
    assert_eq!(plugin(&host)["source"], "remote");
    assert_eq!(pid(&host), listener.0.id());
    assert!(host.log().contains(REFUSED));

    // Its end is seen; the daemon goes on, and so does it once there is one that listens.
    drop(listener);
    host.until("the daemon saw it", || plugin(&host)["state"] == "restarting");
    host.ok(&["namespaces", "ls"]);
    let error = host.fails(&["plugins", "restart", ID], 7, "Unavailable", &["python.sock"]);
    assert!(error.stderr.contains("connect"), "{}", error.stderr);
    let listener = Listener::start(&host);
    host.until("it is found again", || plugin(&host)["state"] == "running");
    assert_eq!(pid(&host), listener.0.id());
    assert!(!samples(&host, "capstan_python_").is_empty());

    // It outlives the daemon, which finds it again; and a daemon boots without it.
    host.kill();
    host.start();
    until_running(&host, 0);
    drop(listener);
    host.kill();
    host.configure(&by_socket(&socket(&host), "prefix = \"late\""));
    host.start();
    assert_eq!(plugin(&host)["state"], "restarting");
    assert_eq!(samples(&host, "late_"), BTreeMap::new());
    let _listener = Listener::start(&host);
    host.until("it is found", || plugin(&host)["state"] == "running");
    assert!(samples(&host, "late_").contains_key("late_load1"));
    assert_eq!(plugin(&host)["version"], "1.0.0", "it has said what it is");
    host.stop();
}
