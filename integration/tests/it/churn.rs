//! Containers come and go by the hundred while the daemon is killed, shims hang and clients go away: no shim,
//! no name, no memory is lost.
//!
//! `CAPSTAN_ROUNDS` says how many containers there are; one in a hundred, but five at least, has the daemon
//! killed over it.

use std::fs;
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capstan_integration::process::{anonymous_kib, is_alive, open_descriptors, signal};
use capstan_integration::{Host, Random, make_rootfs};
use rustix::process::Signal;

/// Clients side by side.
const CLIENTS: usize = 4;

/// Containers that live all the time.
const LASTING: usize = 3;

/// How long a container that was cut short may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

fn host() -> (Host, String) {
    let mut host = Host::without_daemon(512);
    make_rootfs(&host.path("rootfs"));
    host.start();
    let rootfs = host.path("rootfs").display().to_string();
    (host, rootfs)
}

fn rounds() -> usize {
    std::env::var("CAPSTAN_ROUNDS")
        .map_or(60, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"))
}

/// `(id, pid, shim's pid)` of all tasks.
fn tasks(host: &Host) -> Vec<(String, u32, u32)> {
    let list = host.json(&["tasks", "ls"]);
    let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap_or(0)).unwrap();
    let row = |task: &serde_json::Value| {
        let id = task["id"].as_str().unwrap_or_default().to_owned();
        (id, number(&task["pid"]), number(&task["shimPid"]))
    };
    list.as_array().unwrap().iter().map(row).collect()
}

/// Shims of this host, as the kernel knows them.
fn shims(host: &Host) -> Vec<u32> {
    let is_shim = |(pid, _): &(u32, String)| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "capstan-shim\n")
    };
    let mut all: Vec<u32> =
        host.remains().processes.iter().filter(|it| is_shim(it)).map(|(pid, _)| *pid).collect();
    all.sort_unstable();
    all
}

/// Names of what there is of tasks on disk: their directories, and what runtimes keep.
fn on_disk(host: &Host) -> Vec<String> {
    let mut names = Vec::new();
    let plugin = host.state().join("runtime.linux");
    // The last are the embedded runtime's own.
    for kind in ["tasks", "oci", "oci/default/.bundles"] {
        let top =
            if kind.contains('.') { plugin.join(kind) } else { plugin.join(kind).join("default") };
        for entry in fs::read_dir(top).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(format!("{kind}/{name}"));
            }
        }
    }
    names.sort();
    names
}

/// One container from its beginning to its end, whatever happens to the daemon meanwhile.
fn one(host: &RwLock<Host>, rootfs: &str, id: &str) {
    let capstan = |args: &[&str]| {
        // The lock is not held while it runs: the daemon is killed under it.
        let mut command = host.read().unwrap().command(args);
        let output = command.output().expect("run capstan");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), stderr)
    };
    let (code, stderr) = capstan(&["run", "-d", "--rootfs", rootfs, "--name", id, "sleep", "1000"]);
    assert!(code == 0 || stderr.starts_with("capstan: "), "run {id}: {code}: {stderr}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (task, why) = capstan(&["tasks", "delete", "--force", id]);
        let is_gone = task == 0 || why.starts_with("capstan: NotFound: ");
        let (container, again) = capstan(&["containers", "rm", id]);
        if is_gone && (container == 0 || again.starts_with("capstan: NotFound: ")) {
            return;
        }
        assert!(Instant::now() < deadline, "{id} does not go: {why}{again}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `count` containers by several clients. With `kill_at` the daemon is killed when so many have begun.
fn churn(host: &RwLock<Host>, rootfs: &str, first: usize, count: usize, kill_at: Option<usize>) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    one(host, rootfs, &format!("n{}", first + number));
                }
            });
        }
        if let Some(kill_at) = kill_at {
            while next.load(Ordering::Relaxed) <= kill_at {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut host = host.write().unwrap();
            host.kill();
            host.start();
        }
    });
}

/// What is there is what lasts: tasks, shims, directories, cgroups.
fn check(host: &Host, lasting: &[(String, u32, u32)]) {
    assert_eq!(tasks(host), lasting, "tasks");
    let mut want: Vec<u32> = lasting.iter().map(|(_, _, shim)| *shim).collect();
    want.sort_unstable();
    // One that was just told to go may take a moment.
    host.until("shims alive are those of tasks alive", || shims(host) == want);
    let names = on_disk(host);
    let is_lasting = |name: &String| lasting.iter().any(|(id, ..)| name.contains(id.as_str()));
    assert!(names.iter().all(is_lasting), "{names:?}");
    let remains = host.remains();
    assert!(remains.mounts.is_empty(), "{remains:?}");
    let is_other = |dir: &&std::path::PathBuf| {
        dir.parent().and_then(Path::file_name).is_some_and(|name| name == "default")
            && !lasting.iter().any(|(id, ..)| dir.ends_with(id))
    };
    assert_eq!(remains.cgroups.iter().filter(is_other).count(), 0, "{remains:?}");
}

#[test]
fn no_shim_and_nothing_else_leaks_while_the_daemon_is_killed() {
    let mut random = Random::new();
    let kills = (rounds() / 100).max(5);
    let (host, rootfs) = host();
    for number in 0..LASTING {
        let id = format!("lasting{number}");
        host.ok(&["run", "-d", "--rootfs", &rootfs, "--name", &id, "sleep", "100000"]);
    }
    let lasting = tasks(&host);
    assert!(lasting.iter().all(|(_, pid, shim)| is_alive(*pid) && is_alive(*shim)));
    let host = RwLock::new(host);
    let begin = Instant::now();
    // Nine of ten under kills, the rest in peace: a daemon's memory can be looked at only while it lives.
    let under_kills = rounds() * 9 / 10;
    let (mut done, mut most) = (0, 0);
    for kill in 0..kills {
        let count = under_kills * (kill + 1) / kills - done;
        let kill_at = usize::try_from(random.below(count as u64)).unwrap();
        churn(&host, &rootfs, done, count, Some(kill_at));
        done += count;
        let host = host.read().unwrap();
        check(&host, &lasting);
        most = most.max(open_descriptors(host.daemon_pid()));
    }
    eprintln!("{done} containers under {kills} kills in {:.0?}", begin.elapsed());

    let step = ((rounds() - done) / 10).max(1);
    let mut samples = Vec::new();
    while done < rounds() || samples.len() < 10 {
        churn(&host, &rootfs, done, step, None);
        done += step;
        let host = host.read().unwrap();
        check(&host, &lasting);
        let pid = host.daemon_pid();
        samples.push((anonymous_kib(pid), open_descriptors(pid)));
    }
    eprintln!(
        "{done} containers in all; every {step}, the daemon's anonymous memory in KiB and descriptors: {samples:?}"
    );
    let descriptors: Vec<usize> = samples.iter().map(|(_, open)| *open).collect();
    assert!(descriptors.iter().all(|open| *open <= descriptors[0] + 4), "they grow: {samples:?}");
    assert!(most <= descriptors[0] + 8, "{most} descriptors were open under kills: {samples:?}");
    // Warm after half; then only noise.
    let (middle, last) = (samples[samples.len() / 2].0, samples[samples.len() - 1].0);
    assert!(last <= middle + middle / 4 + 4096, "its memory grows: {samples:?}");
    let host = host.into_inner().unwrap();
    for (id, ..) in &lasting {
        host.remove(id);
    }
    assert_eq!(on_disk(&host), Vec::<String>::new());
    host.assert_no_container();
}

/// One shim that is stopped delays nobody else, not even a daemon that starts.
#[test]
fn a_shim_that_hangs_delays_nobody_else() {
    let (mut host, rootfs) = host();
    for id in ["hung", "other"] {
        host.ok(&["run", "-d", "--rootfs", &rootfs, "--name", id, "sleep", "100000"]);
    }
    let all = tasks(&host);
    let (_, _, shim) = all.iter().find(|(id, ..)| id == "hung").unwrap().clone();
    signal(shim, Signal::STOP);
    // Somebody waits for it, and somebody talks to it, all the time.
    let mut waits = host.command(&["tasks", "wait", "hung"]).spawn().unwrap();
    let mut talks = host.command(&["tasks", "exec", "hung", "true"]).spawn().unwrap();
    let quick = |host: &Host, args: &[&str], code: i32| {
        let begin = Instant::now();
        let output = host.capstan(args);
        let took = begin.elapsed();
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        assert!(took < Duration::from_secs(1), "{args:?} took {took:?} while a shim is stopped");
    };
    for _ in 0..20 {
        quick(&host, &["tasks", "ls"], 0);
    }
    quick(&host, &["tasks", "inspect", "hung"], 0);
    quick(&host, &["tasks", "exec", "other", "true"], 0);
    quick(&host, &["tasks", "kill", "-s", "KILL", "other"], 0);
    quick(&host, &["tasks", "wait", "other"], 137);
    quick(&host, &["tasks", "delete", "other"], 0);
    quick(&host, &["run", "--rm", "--rootfs", &rootfs, "true"], 0);
    // A new daemon finds it as it was, by its record.
    host.kill();
    let begin = Instant::now();
    host.start();
    assert!(begin.elapsed() < Duration::from_secs(10), "a start took {:?}", begin.elapsed());
    quick(&host, &["tasks", "ls"], 0);
    assert!(host.ok(&["tasks", "ls"]).contains("running"));
    quick(&host, &["run", "--rm", "--rootfs", &rootfs, "true"], 0);
    signal(shim, Signal::CONT);
    host.until("it is reached again", || {
        host.capstan(&["tasks", "exec", "hung", "true"]).code == 0
    });
    for client in [&mut waits, &mut talks] {
        let _ = client.kill();
        client.wait().unwrap();
    }
    host.ok(&["containers", "rm", "other"]);
    host.remove("hung");
    host.assert_no_container();
}

/// Whoever forces a delete gets it, from a shim that hangs too.
#[test]
fn a_shim_that_hangs_is_ended_by_force() {
    let (host, rootfs) = host();
    for flags in [&["--runtime", "embedded"][..], &["--runtime", "runc"]] {
        let run = ["run", "-d", "--rootfs", &rootfs, "--name", "hung"];
        host.ok(&[&run[..], flags, &["sleep", "100000"]].concat());
        let all = tasks(&host);
        let (_, _, shim) = all.iter().find(|(id, ..)| id == "hung").unwrap().clone();
        signal(shim, Signal::STOP);
        let begin = Instant::now();
        host.ok(&["tasks", "delete", "--force", "hung"]);
        assert!(begin.elapsed() < Duration::from_secs(30), "it took {:?}", begin.elapsed());
        host.ok(&["containers", "rm", "hung"]);
        host.assert_no_container();
    }
}

/// A name is not lost to a create whose client went away: the next gets it, or what came of the first.
#[test]
fn a_create_that_is_cancelled_reserves_no_name() {
    let (host, rootfs) = host();
    let mut random = Random::new();
    host.ok(&["containers", "create", "--rootfs", &rootfs, "web", "sleep", "100000"]);
    let mut joined = 0;
    for round in 0..rounds() / 3 {
        let mut first = host.command(&["tasks", "create", "web"]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        let _ = first.kill();
        first.wait().unwrap();
        if round % 2 == 0 {
            let again = host.capstan(&["tasks", "create", "web"]);
            let is_made = again.stderr.starts_with("capstan: AlreadyExists: ");
            assert!(again.code == 0 || is_made, "{again:?}");
            joined += u32::from(is_made);
            let status = host.json(&["tasks", "inspect", "web"])["status"].clone();
            assert_eq!(status, "created", "what came of the first can be used");
        }
        host.ok(&["tasks", "start", "-d", "web"]);
        host.ok(&["tasks", "delete", "--force", "web"]);
    }
    eprintln!("{joined} of {} creates came after that of a client that was gone", rounds() / 6);
    host.ok(&["containers", "rm", "web"]);
    host.assert_no_container();
}

/// Detached ones, that nobody waits for and nobody deletes: each kept a descriptor of the shim's, until there were no
/// more.
#[test]
fn execs_that_nobody_waits_for_are_forgotten() {
    let (host, rootfs) = host();
    host.ok(&["run", "-d", "--rootfs", &rootfs, "--name", "web", "sleep", "100000"]);
    let shim = tasks(&host)[0].2;
    let exec = ["tasks", "exec", "-d"];
    host.ok(&[&exec[..], &["--exec-id", "lasting", "web", "sleep", "100000"]].concat());
    host.ok(&[&exec[..], &["--exec-id", "first", "web", "true"]].concat());
    let (memory, descriptors) = (anonymous_kib(shim), open_descriptors(shim));
    let rows = || host.ok(&["tasks", "ps", "web"]).lines().count();
    for _ in 0..250 {
        host.ok(&[&exec[..], &["web", "true"]].concat());
    }
    host.until("all have ended", || rows() == 3);
    host.until("descriptors are given back", || open_descriptors(shim) <= descriptors);
    let after = anonymous_kib(shim);
    assert!(after <= memory + 256, "{memory} to {after} KiB");
    // Clients that were killed: nobody comes for what is left of the output.
    let script = "sleep 0.2; echo unread";
    for _ in 0..20 {
        let mut client =
            host.command(&["tasks", "exec", "web", "sh", "-c", script]).spawn().unwrap();
        host.until("it runs", || rows() > 3);
        client.kill().unwrap();
        client.wait().unwrap();
        host.until("it has ended", || rows() == 3);
    }
    host.until("descriptors are given back", || open_descriptors(shim) <= descriptors);
    let streams = host.state().join("runtime.linux/tasks/default/web/io");
    assert_eq!(std::fs::read_dir(streams).unwrap().count(), 1, "those of init are there");
    // What has ended is forgotten, so its name is free; one that runs never is.
    host.ok(&[&exec[..], &["--exec-id", "first", "web", "true"]].concat());
    let again = [&exec[..], &["--exec-id", "lasting", "web", "true"]].concat();
    host.fails(&again, 4, "AlreadyExists", &["lasting"]);
    host.ok(&["tasks", "kill", "-s", "KILL", "--exec-id", "lasting", "web"]);
    host.remove("web");
    host.assert_no_container();
}

/// What a shim keeps of execs is given back.
#[test]
fn a_hundred_execs_leave_a_shim_as_small_as_it_was() {
    let (host, rootfs) = host();
    host.ok(&["run", "-d", "--rootfs", &rootfs, "--name", "web", "sleep", "100000"]);
    let shim = tasks(&host)[0].2;
    host.ok(&["tasks", "exec", "web", "true"]);
    let before = (anonymous_kib(shim), open_descriptors(shim));
    for round in 0..100 {
        let code = host.capstan(&["tasks", "exec", "web", "sh", "-c", "echo x; exit 3"]).code;
        assert_eq!(code, 3, "exec {round}");
    }
    let after = (anonymous_kib(shim), open_descriptors(shim));
    eprintln!(
        "a shim's anonymous memory in KiB and descriptors before 100 execs {before:?}, after {after:?}"
    );
    assert!(after.0 <= before.0 + 256 && after.0 < 512, "{before:?} to {after:?}");
    assert_eq!(after.1, before.1, "descriptors");
    host.remove("web");
    host.assert_no_container();
}
