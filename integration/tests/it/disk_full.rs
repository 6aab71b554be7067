//! A full disk: what frees space works, what takes space is refused, and all is well once there is room.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use capstan_integration::{Disk, FakeRegistry, Host, Image, Layer};

/// Takes every byte that is left; answers the file.
fn fill(disk: &Disk) -> PathBuf {
    let path = disk.path().join("filler");
    let mut file = File::options().create(true).append(true).open(&path).unwrap();
    // What was removed is free when the file system's journal is written: that room is taken, too.
    for _ in 0..2 {
        for size in [1 << 20, 4096, 1] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
        let _ = file.sync_all();
    }
    path
}

#[test]
fn on_a_full_disk_removals_work_and_additions_are_refused() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![Layer::new().busybox()]);
    let reference = registry.offer("app", &image);
    let more = registry
        .offer("more", &Image::new(vec![Layer::new().file("big", 0o644, &vec![3; 2_000_000])]));
    // State and log are on another file system, as they are on a real host.
    let disk = Disk::ext4(192);
    let mut host = Host::without_daemon(512);
    host.configure_root(disk.path());
    host.start();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    host.ok(&["images", "tag", &reference, "localhost/other:1"]);
    for id in ["a", "b", "c"] {
        host.ok(&["containers", "create", id, &reference, "true"]);
    }
    for id in ["x", "y"] {
        host.ok(&["run", "-d", "--name", id, &reference, "sleep", "1000"]);
    }
    host.ok(&["snapshots", "prepare", "scratch"]);
    host.ok(&["namespaces", "create", "empty"]);
    let reserve = disk.path().join("root/metadata.redb/metadata.reserve");
    host.until("there is a reserve", || reserve.exists());

    let filler = fill(&disk);
    let refused = |host: &Host| {
        let full = |args: &[&str]| host.fails(args, 9, "ResourceExhausted", &[]);
        full(&["namespaces", "create", "new"]);
        full(&["images", "tag", &reference, "localhost/new:1"]);
        full(&["images", "pull", "--plain-http", &more]);
        let input = vec![7; 3_000_000];
        let output = host.capstan_with_input(&["content", "ingest", "blob"], &input);
        assert_eq!(output.code, 9, "{}", output.stderr);
    };
    refused(&host);
    // What is there can be read, stopped and removed.
    assert_eq!(host.ids(&["containers", "ls"]).len(), 5);
    host.ok(&["tasks", "kill", "-s", "KILL", "x"]);
    host.until("it has ended", || host.json(&["tasks", "inspect", "x"])["status"] == "stopped");
    host.ok(&["tasks", "delete", "x"]);
    host.ok(&["containers", "rm", "x", "a"]);
    host.ok(&["snapshots", "rm", "scratch"]);
    host.ok(&["namespaces", "rm", "empty"]);
    host.ok(&["images", "rm", "localhost/other:1"]);

    // So it is for the next daemon, also after an end that was not orderly.
    host.kill();
    fill(&disk);
    host.start();
    assert_eq!(host.ids(&["containers", "ls"]), ["b", "c", "y"]);
    refused(&host);
    host.ok(&["containers", "rm", "b"]);
    host.ok(&["tasks", "delete", "--force", "y"]);
    host.ok(&["containers", "rm", "y"]);

    fs::remove_file(&filler).unwrap();
    host.until("there is a reserve again", || reserve.exists());
    host.ok(&["namespaces", "create", "new"]);
    host.ok(&["images", "pull", "--plain-http", &more]);
    let input = vec![7; 3_000_000];
    let output = host.capstan_with_input(&["content", "ingest", "blob"], &input);
    assert_eq!(output.code, 0, "{}", output.stderr);
    host.ok(&["run", "--rm", &reference, "true"]);
    host.ok(&["containers", "rm", "c"]);
    host.assert_no_container();
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

/// A file system that turned read-only: reads go on, changes say why they do not.
#[test]
fn on_a_read_only_disk_reads_go_on() {
    let disk = Disk::ext4(64);
    let mut host = Host::without_daemon(512);
    host.configure_root(disk.path());
    host.start();
    host.ok(&["namespaces", "create", "one"]);
    disk.abort();
    for _ in 0..3 {
        host.fails(&["namespaces", "create", "two"], 6, "FailedPrecondition", &["ead-only"]);
        assert_eq!(host.ids(&["namespaces", "ls"]), ["one"]);
        assert_eq!(host.ids(&["containers", "ls"]), Vec::<String>::new());
    }
    let state = host.json(&["plugins", "inspect", "metadata.redb"]);
    assert_eq!(state["restarts"], 0, "{state}");
    host.kill();
}
