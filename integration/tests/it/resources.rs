//! What containers may use, what they use, and what happens when memory runs out.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use capstan_integration::{DockerRegistry, Host};
use rustix::process::{Pid, Signal, kill_process};

/// Takes memory until the kernel kills it: never before, because a line without an end is kept.
const HOG: &str = "tail /dev/zero";

fn host(more: &str) -> (DockerRegistry, Host, String) {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::with_config(more);
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    (registry, host, image)
}

/// Runs a shell script in the background.
fn run(host: &Host, image: &str, flags: &[&str], name: &str, script: &str) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(flags);
    args.extend([image, "sh", "-c", script]);
    host.ok(&args);
}

/// A file of a container's cgroup: of version 1 in the hierarchy, of version 2 in the one that there is.
fn file(host: &Host, hierarchy: &str, id: &str, name: &str) -> PathBuf {
    let below =
        Path::new(host.cgroup().trim_start_matches('/')).join("default").join(id).join(name);
    let top = Path::new("/sys/fs/cgroup");
    let one = top.join(hierarchy).join(&below);
    if one.exists() { one } else { top.join(below) }
}

fn is_version_1() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
}

fn read(path: &Path) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn topics(host: &Host, id: &str) -> Vec<String> {
    let events = host.ok(&["events", "--since", "0", "/tasks/"]);
    let of_id = events
        .lines()
        .filter(|line| line.contains(&format!("id={id} ")) || line.ends_with(&format!("id={id}")));
    of_id.map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
}

/// Memory from 32 to 64 MiB and back; and what is refused changes nothing.
fn task_update(runtime: &str) {
    let (_registry, host, image) = host("");
    let flags = ["--runtime", runtime, "--memory", "32m", "--pids-limit", "50"];
    run(&host, &image, &flags, "web", "sleep 1000");
    let limit = || match is_version_1() {
        true => read(&file(&host, "memory", "web", "memory.limit_in_bytes")),
        false => read(&file(&host, "memory", "web", "memory.max")),
    };
    let pids = || read(&file(&host, "pids", "web", "pids.max"));
    assert_eq!((limit().as_str(), pids().as_str()), ("33554432", "50"));

    host.ok(&["tasks", "update", "--memory", "64m", "--pids-limit", "40", "--cpus", "0.5", "web"]);
    assert_eq!((limit().as_str(), pids().as_str()), ("67108864", "40"));
    if is_version_1() {
        let swap = read(&file(&host, "memory", "web", "memory.memsw.limit_in_bytes"));
        assert_eq!(swap, "67108864", "there is still no swap");
        assert_eq!(read(&file(&host, "cpu", "web", "cpu.cfs_quota_us")), "50000");
        host.ok(&["tasks", "update", "--cpu-shares", "512", "--cpuset-cpus", "0", "web"]);
        assert_eq!(read(&file(&host, "cpu", "web", "cpu.shares")), "512");
        assert_eq!(read(&file(&host, "cpuset", "web", "cpuset.cpus")), "0");
        host.ok(&[
            "tasks",
            "update",
            "--memory-swap",
            "128m",
            "--memory-reservation",
            "16m",
            "web",
        ]);
        let swap = read(&file(&host, "memory", "web", "memory.memsw.limit_in_bytes"));
        assert_eq!(swap, "134217728");
        throttled(&host);
    }

    // All or nothing: what comes before the refused one is set back.
    let refused = |flags: &[&str], code, class, parts: &[&str]| {
        let mut args = vec!["tasks", "update", "--memory", "48m"];
        args.extend(flags);
        args.push("web");
        host.fails(&args, code, class, parts);
        assert_eq!((limit().as_str(), pids().as_str()), ("67108864", "40"), "{flags:?}");
    };
    refused(&["--cpuset-cpus", "4096"], 5, "InvalidArgument", &["processors", "4096"]);
    refused(&["--pids-limit", "99999999"], 5, "InvalidArgument", &["processes", "99999999"]);
    refused(&["--cpu-quota", "5"], 5, "InvalidArgument", &["quota", "5"]);
    refused(&["--cpu-shares", "1"], 5, "InvalidArgument", &["shares", "2 to 262144"]);
    refused(&["--memory-swap", "32m"], 5, "InvalidArgument", &["33554432"]);
    refused(&["--device-read-bps", "/dev/null:5"], 5, "InvalidArgument", &["/dev/null"]);
    refused(&["--hugetlb", "3MB:4m"], 6, "FailedPrecondition", &["no hugetlb 3MB controller"]);
    let too_low = ["tasks", "update", "--memory", "8k", "web"];
    host.fails(&too_low, 6, "FailedPrecondition", &["memory limit 8192", "uses"]);
    host.fails(&["tasks", "update", "web"], 5, "InvalidArgument", &["--memory"]);
    assert_eq!(limit(), "67108864");

    // A shim that hangs is not asked.
    let shim = host.json(&["tasks", "inspect", "web"])["shimPid"].as_i64().unwrap();
    let shim = Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    kill_process(shim, Signal::STOP).unwrap();
    let update = host.capstan(&["--timeout", "5s", "tasks", "update", "--memory", "80m", "web"]);
    let metrics = host.capstan(&["--timeout", "5s", "tasks", "metrics", "web"]);
    kill_process(shim, Signal::CONT).unwrap();
    assert_eq!((update.code, metrics.code), (0, 0), "{} {}", update.stderr, metrics.stderr);
    assert!(metrics.stdout.contains("container_memory_usage_limit_bytes"), "{}", metrics.stdout);
    assert_eq!(limit(), "83886080");

    assert!(topics(&host, "web").contains(&"/tasks/update".to_owned()));
    host.ok(&["tasks", "kill", "-s", "KILL", "web"]);
    host.capstan(&["tasks", "wait", "web"]);
    let ended = ["tasks", "update", "--memory", "64m", "web"];
    host.fails(&ended, 6, "FailedPrecondition", &["has ended"]);
    host.remove("web");
    host.fails(&ended, 3, "NotFound", &["web"]);
    host.assert_no_container();
}

/// Reads of the device that holds the daemon's root.
fn throttled(host: &Host) {
    let device = device_of(&host.root());
    host.ok(&["tasks", "update", "--device-read-bps", &format!("{device}:1m"), "web"]);
    let limits = read(&file(host, "blkio", "web", "blkio.throttle.read_bps_device"));
    assert_eq!(limits.lines().filter(|line| line.ends_with(" 1048576")).count(), 1, "{limits}");
}

#[test]
fn task_update_with_the_embedded_runtime() {
    task_update("embedded");
}

#[test]
fn task_update_with_runc() {
    task_update("runc");
}

#[test]
fn task_update_with_crun() {
    task_update("crun");
}

/// The names that samples of `id` have, in the text format.
fn families(metrics: &str, id: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| line.contains(&format!("{{id=\"{id}\",namespace=")));
    lines.map(|line| line.split('{').next().unwrap().to_owned()).collect()
}

/// A free port, and the configuration for it.
fn exporter() -> (String, String) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    let section = format!("[plugins.\"exporter.prometheus\"]\naddress = {address:?}\n");
    (address, section)
}

fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    text
}

/// 68 families of version 1, but those whose source this kernel does not have; also after a restart of the
/// daemon; none once the task is deleted.
#[test]
fn metrics_are_there_while_the_task_is() {
    let (address, section) = exporter();
    let (_registry, mut host, image) = host(&section);
    run(&host, &image, &["--cpus", "1"], "web", "sleep 1000");
    run(&host, &image, &["--runtime", "runc"], "other", "sleep 1000");
    // Newer kernels count what a device does only once it was throttled; and there is something to count.
    let throttle = format!("{}:1g", device_of(&host.root()));
    host.ok(&["tasks", "update", "--device-write-bps", &throttle, "web"]);
    let write = ["dd", "if=/dev/zero", "of=/file", "bs=64k", "count=16", "conv=fsync"];
    host.ok(&[&["tasks", "exec", "web"], &write[..]].concat());
    let got = families(&scrape(&address), "web");
    if is_version_1() {
        // Those that are ours on top of the 68.
        let is_one = |name: &&String| {
            !name.starts_with("container_pressure_") && !name.starts_with("container_log_")
        };
        let count = got.iter().filter(is_one).count();
        let absent = absent(&host);
        assert_eq!(count, 68 - absent.len(), "{got:#?}\nwithout source: {absent:#?}");
        assert!(absent.iter().all(|name| !got.contains(*name)), "{got:#?}");
    }
    for name in
        ["pids_current", "cpu_total_nanoseconds", "memory_usage_usage_bytes", "memory_oom_total"]
    {
        assert!(got.contains(&format!("container_{name}")), "{name}: {got:#?}");
    }
    // What the daemon itself was asked is counted by message and outcome.
    let all = scrape(&address);
    let call =
        "capstan_calls_handled_total{plugin=\"runtime.linux\",message=\"Create\",code=\"OK\"} 2";
    assert!(all.contains(call), "{all}");
    host.fails(&["tasks", "inspect", "none"], 3, "NotFound", &["none"]);
    let missed = "message=\"Get\",code=\"NotFound\"}";
    let missed = || scrape(&address).lines().any(|line| line.contains(missed));
    assert!(missed(), "{}", scrape(&address));
    // The command line says the same.
    assert_eq!(families(&host.ok(&["metrics"]), "web"), got);
    let samples = host.json(&["tasks", "metrics", "web"]);
    let names =
        samples.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<String>>(), got);
    assert_eq!(samples[0]["labels"]["id"], "web");
    let table = host.ok(&["tasks", "metrics", "web"]);
    assert!(table.starts_with("METRIC "), "{table}");

    host.kill();
    host.start();
    assert_eq!(families(&scrape(&address), "web"), got, "after a restart");
    assert!(!families(&scrape(&address), "other").is_empty());
    host.remove("web");
    let after = scrape(&address);
    assert!(families(&after, "web").is_empty(), "{after}");
    assert!(!families(&after, "other").is_empty());
    host.remove("other");
    assert!(!scrape(&address).contains("\ncontainer_"));
    host.assert_no_container();
}

/// F-215: cgroups are read when somebody asks, and not before.
#[test]
fn nothing_is_measured_unless_it_is_asked_for() {
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    let (address, section) = exporter();
    let (_registry, host, image) = host(&section);
    run(&host, &image, &["--memory", "64m"], "web", "sleep 1000");
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let mut count = 0;
    for (hierarchy, one) in
        [("memory", "memory.stat"), ("cpu", "cpu.stat"), ("pids", "pids.current")]
    {
        let at = file(&host, hierarchy, "web", one);
        if at.exists() {
            inotify::add_watch(&watch, at.parent().unwrap(), WatchFlags::ACCESS).unwrap();
            count += 1;
        }
    }
    assert!(count > 0, "no cgroup is watched");
    let seen = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        let mut names = BTreeSet::new();
        while let Ok(event) = reader.next() {
            assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
            names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        names
    };
    scrape(&address);
    assert!(seen().iter().any(|name| name.ends_with(".stat")), "a scrape reads them");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(seen(), BTreeSet::new(), "between two scrapes");
    host.ok(&["tasks", "ls"]);
    assert_eq!(seen(), BTreeSet::new(), "a list reads none");
    host.ok(&["tasks", "metrics", "web"]);
    assert!(seen().iter().any(|name| name.ends_with(".stat")), "who asks for one reads them");
    host.remove("web");
    host.assert_no_container();
}

/// The block device that holds a file.
fn device_of(path: &Path) -> String {
    let number = fs::metadata(path).unwrap().dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let about = read(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}/uevent")));
    let name = about.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap();
    format!("/dev/{name}")
}

/// The families that have no source on this machine.
fn absent(host: &Host) -> Vec<&'static str> {
    let mut absent = Vec::new();
    if !Path::new("/sys/fs/cgroup/hugetlb").exists() {
        // No such hierarchy is mounted.
        absent.extend([
            "container_hugetlb_usage_bytes",
            "container_hugetlb_failcnt_total",
            "container_hugetlb_max_bytes",
        ]);
    }
    // Counted by CFQ, which is gone since Linux 5.0, and by BFQ with CONFIG_BFQ_CGROUP_DEBUG.
    for (name, source) in [
        ("container_blkio_io_merged_recursive_total", "io_merged_recursive"),
        ("container_blkio_io_queued_recursive_total", "io_queued_recursive"),
        ("container_blkio_io_service_time_recursive_total", "io_service_time_recursive"),
        ("container_blkio_io_time_recursive_total", "time_recursive"),
        ("container_blkio_sectors_recursive_total", "sectors_recursive"),
    ] {
        let is_there =
            |of: &str| file(host, "blkio", "web", &format!("blkio.{of}{source}")).exists();
        if !is_there("") && !is_there("bfq.") {
            absent.push(name);
        }
    }
    absent
}

/// The event, the counter, and how the container ended.
fn out_of_memory(runtime: &str) {
    let (_registry, host, image) = host("");
    let flags = ["--runtime", runtime, "--memory", "16m"];
    // The first is a child of init, the second is init.
    let script = format!("{HOG}; echo $?; sleep 0.3; exec {HOG}");
    run(&host, &image, &flags, "hog", &script);
    run(&host, &image, &flags, "calm", "exit 9");
    let wait = host.capstan(&["tasks", "wait", "hog"]);
    assert_eq!(wait.code, 137, "{}", wait.stderr);
    host.capstan(&["tasks", "wait", "calm"]);
    let exit = |id: &str| host.json(&["tasks", "inspect", id])["exit"].clone();
    assert_eq!(exit("hog")["outOfMemory"], true, "{}", exit("hog"));
    assert_eq!(exit("calm")["outOfMemory"], false, "{}", exit("calm"));
    host.until("its end is told", || topics(&host, "hog").contains(&"/tasks/exit".to_owned()));
    let told = topics(&host, "hog");
    assert_eq!(told.last().unwrap(), "/tasks/exit", "{told:?}");
    let ooms = told.iter().filter(|topic| *topic == "/tasks/oom").count();
    assert!((1..=2).contains(&ooms), "{told:?}");
    let events = host.ok(&["events", "--since", "0", "/tasks/oom"]);
    assert!(events.contains("count=2") && events.contains(" default "), "{events}");
    assert!(!events.contains("id=calm"), "{events}");
    let count = |id: &str| {
        let samples = host.json(&["tasks", "metrics", id]);
        let is_it = |one: &&serde_json::Value| one["name"] == "container_memory_oom_total";
        samples.as_array().unwrap().iter().find(is_it).map(|one| one["value"].as_f64().unwrap())
    };
    assert_eq!((count("hog"), count("calm")), (Some(2.0), Some(0.0)));
    host.remove("hog");
    host.remove("calm");
    host.assert_no_container();
}

#[test]
fn out_of_memory_is_told_with_the_embedded_runtime() {
    out_of_memory("embedded");
}

#[test]
fn out_of_memory_is_told_with_runc() {
    out_of_memory("runc");
}

#[test]
fn out_of_memory_is_told_with_crun() {
    out_of_memory("crun");
}

/// What happened while there was no daemon is told by the next one, once, and by no later one.
#[test]
fn out_of_memory_while_the_daemon_is_down() {
    let (_registry, mut host, image) = host("");
    let gate = host.path("gate");
    fs::create_dir(&gate).unwrap();
    let mount = format!("type=bind,src={},dst=/gate", gate.display());
    let flags = ["--memory", "16m", "--mount", &mount];
    let until = "while [ ! -e /gate/open ]; do sleep 0.05; done";
    run(&host, &image, &flags, "lives", &format!("{until}; {HOG}; touch /gate/lives; sleep 1000"));
    run(&host, &image, &flags, "dies", &format!("{until}; {HOG}; touch /gate/dies; exit 4"));
    run(&host, &image, &flags, "removed", &format!("{HOG}; touch /gate/removed; sleep 1000"));
    host.until("one has run out", || gate.join("removed").exists());
    // A task that is killed for its deletion ran out of memory all the same.
    let exit = host.json(&["tasks", "delete", "--force", "removed"]);
    assert_eq!(exit["outOfMemory"], true, "{exit}");

    host.kill();
    fs::write(gate.join("open"), "").unwrap();
    host.until("both have run out", || gate.join("lives").exists() && gate.join("dies").exists());
    let shims = |host: &Host| {
        host.remains().processes.iter().filter(|(_, line)| line.contains("exit 4")).count()
    };
    host.until("one has ended", || shims(&host) == 0);
    host.start();
    let ooms = |host: &Host| {
        let events = host.ok(&["events", "--since", "0", "/tasks/oom"]);
        let count = |id: &str| events.matches(&format!("id={id} count=1")).count();
        (count("lives"), count("dies"), count("removed"))
    };
    host.until("all is told", || ooms(&host) == (1, 1, 1));
    let dies = host.json(&["tasks", "inspect", "dies"]);
    assert_eq!(
        (dies["exit"]["status"].as_u64(), dies["exit"]["outOfMemory"].as_bool()),
        (Some(4), Some(true)),
        "{dies}"
    );
    host.until("its end is told", || topics(&host, "dies").contains(&"/tasks/exit".to_owned()));
    let told = topics(&host, "dies");
    assert_eq!(told[told.len() - 2..], ["/tasks/oom", "/tasks/exit"], "{told:?}");

    host.kill();
    host.start();
    assert_eq!(host.json(&["tasks", "inspect", "dies"])["exit"]["outOfMemory"], true);
    // The one that lives is looked after as before.
    host.ok(&["tasks", "update", "--pids-limit", "60", "lives"]);
    let hog = host.capstan(&["tasks", "exec", "lives", "sh", "-c", HOG]);
    assert_eq!(hog.code, 137, "{}", hog.stderr);
    let second = || host.ok(&["events", "--since", "0", "/tasks/oom"]).contains("id=lives count=2");
    host.until("the second is told", second);
    assert_eq!(ooms(&host), (1, 1, 1), "nothing is told twice");
    host.remove("lives");
    host.remove("dies");
    host.ok(&["containers", "rm", "removed"]);
    host.assert_no_container();
}

/// Only creates that failed, and then the daemon stops.
#[test]
fn containers_that_could_not_be_made_leave_no_cgroups() {
    let (_registry, mut host, image) = host("");
    for runtime in ["embedded", "runc", "crun"] {
        let run = host.capstan(&["run", "--rm", "--runtime", runtime, &image, "/no/such/command"]);
        assert_eq!(run.code, 127, "{}", run.stderr);
    }
    host.assert_no_container();
    host.stop();
    assert_eq!(host.remains().cgroups, Vec::<PathBuf>::new());
}
