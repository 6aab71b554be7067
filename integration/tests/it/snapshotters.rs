//! Snapshotters other than the default, and what the command line does with snapshots and blobs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use capstan_integration::{Disk, DockerRegistry, FakeRegistry, Host, Image, Layer, find};

/// A container on a snapshotter, twice, with a tree that is changed; then nothing of it is left.
fn runs_containers(host: &Host, name: &str) {
    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let run = ["run", "--rm", "--plain-http", "--snapshotter", name, &image];
    for _ in 0..2 {
        let script =
            ["/bin/sh", "-c", "echo new > /new && rm /bin/ls && cat /new && test ! -e /bin/ls"];
        let args: Vec<&str> = run.iter().copied().chain(script).collect();
        assert_eq!(host.ok(&args), "new\n");
    }
    // In a user namespace the image's files are the container's root's.
    let_others_through(host);
    let mut args = run[..run.len() - 1].to_vec();
    let script = "touch /new; stat -c %u:%g /bin/ls /new; tr -s ' ' < /proc/self/uid_map";
    args.extend(["--userns", "0:100000:65536", &image, "/bin/sh", "-c", script]);
    assert_eq!(host.ok(&args), "0:0\n0:0\n 0 100000 65536\n", "{name}");
    let layers = host.ids(&["snapshots", "--snapshotter", name, "ls"]);
    assert_eq!(layers.len(), 1, "{layers:?}");
    let others = host.ids(&["snapshots", "--snapshotter", "overlay", "ls"]).len();
    assert_eq!(others, usize::from(name == "overlay"));
    host.assert_no_container();
    assert_eq!(host.ok(&["system", "audit", "--full"]).lines().count(), 0);
}

/// Who has no rights on the machine goes through the directories of tests; the way to a real state directory is free.
fn let_others_through(host: &Host) {
    for dir in host.path("x").ancestors().skip(1).take(3) {
        if dir.starts_with(std::env::temp_dir()) && dir != std::env::temp_dir() {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        }
    }
}

fn plugin(host: &Host, id: &str) -> serde_json::Value {
    let list = host.json(&["plugins", "ls"]);
    let found = list.as_array().unwrap().iter().find(|plugin| plugin["id"] == id);
    found.unwrap_or_else(|| panic!("no plugin {id} in {list}")).clone()
}

#[test]
fn overlay_and_native_run_containers() {
    for name in ["overlay", "native"] {
        runs_containers(&Host::new(), name);
    }
}

/// F-095.
#[test]
fn the_configuration_chooses_the_snapshotter() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::with_config("[prefer]\nsnapshotter = \"native\"\n");
    assert_eq!(host.ok(&["run", "--rm", "--plain-http", &image, "echo", "here"]), "here\n");
    host.ok(&["snapshots", "prepare", "mine"]);
    let layers = |name: &str| host.ids(&["snapshots", "--snapshotter", name, "ls"]).len();
    assert_eq!((layers("native"), layers("overlay")), (2, 0));
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2);
    host.assert_no_container();
}

#[test]
fn erofs_runs_containers() {
    let mut host = Host::new();
    runs_containers(&host, "erofs");
    host.stop();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let state = host.state().display().to_string();
    assert!(
        !mounts.lines().any(|line| line.contains("erofs") && line.contains(&state)),
        "{mounts}"
    );
}

#[test]
fn btrfs_runs_containers() {
    let disk = Disk::btrfs(512);
    let root = disk.path().display();
    let host = Host::with_config(&format!("[plugins.\"snapshotter.btrfs\"]\nroot = \"{root}\"\n"));
    assert_eq!(plugin(&host, "snapshotter.btrfs")["state"], "running");
    runs_containers(&host, "btrfs");
}

/// Whatever happens to files of an unpacked layer, or to all of it: it is told, and put right.
#[test]
fn damaged_subvolumes_are_told_and_healed() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![
        Layer::new()
            .busybox()
            .dir("d")
            .file("d/gone", 0o600, b"one")
            .file("d/bytes", 0o644, b"two"),
        Layer::new().file("d/mode", 0o640, b"three").symlink("d/link", "mode"),
    ]);
    let reference = registry.offer("torn", &image);
    let disk = Disk::btrfs(512);
    let root = disk.path();
    let section = format!("[plugins.\"snapshotter.btrfs\"]\nroot = {root:?}\n");
    let host = Host::with_config(&section);
    let of = ["--snapshotter", "btrfs"];
    host.ok(&["images", "pull", "--plain-http", of[0], of[1], &reference]);
    let look = || {
        let script = "cd /d; ls; cat gone bytes mode; stat -c '%n %a' *; readlink link";
        host.ok(&["run", "--rm", of[0], of[1], &reference, "sh", "-c", script])
    };
    let want = look();
    let audit = |args: &[&str]| {
        let output = host.capstan(args);
        (output.code, output.stdout)
    };
    assert_eq!(audit(&["system", "audit", "--full"]), (0, String::new()));
    let subvolumes = || {
        let entries = fs::read_dir(root.join("snapshots")).unwrap().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    for layer in subvolumes() {
        fs::remove_file(layer.join("d/gone")).unwrap();
        fs::write(layer.join("d/bytes"), "owt").unwrap();
        if layer.join("d/mode").exists() {
            fs::set_permissions(layer.join("d/mode"), fs::Permissions::from_mode(0o4777)).unwrap();
            fs::remove_file(layer.join("d/link")).unwrap();
            symlink("/etc/passwd", layer.join("d/link")).unwrap();
        }
    }
    let (code, told) = audit(&["system", "audit", "--full"]);
    assert_eq!(code, 10, "{told}");
    for name in ["/d/gone", "/d/bytes", "/d/mode", "/d/link"] {
        assert!(told.contains(name), "{name}: {told}");
    }
    assert_eq!(audit(&["system", "heal", "--full"]).0, 0);
    assert_eq!(audit(&["system", "audit", "--full"]), (0, String::new()));
    assert_eq!(look(), want);
    // And one that is gone altogether.
    let btrfs = find("btrfs");
    let top = subvolumes().into_iter().find(|layer| layer.join("d/mode").exists()).unwrap();
    let deleted = Command::new(btrfs).args(["subvolume", "delete"]).arg(top).output().unwrap();
    assert!(deleted.status.success());
    let (code, told) = audit(&["system", "audit"]);
    assert!(code == 10 && told.contains("is gone"), "{told}");
    assert_eq!(audit(&["system", "heal", "--full"]).0, 0);
    assert_eq!(audit(&["system", "audit", "--full"]), (0, String::new()));
    assert_eq!(look(), want);
}

/// F-097: a machine without btrfs is not ill; one where it was asked for, and is not there, is.
#[test]
fn btrfs_is_skipped_where_it_is_not() {
    let host = Host::new();
    assert_eq!(plugin(&host, "snapshotter.btrfs")["state"], "skipped");
    let about = host.ok(&["plugins", "inspect", "snapshotter.btrfs"]);
    assert!(about.contains("expected btrfs, got ext4"), "{about}");
    host.ok(&["health"]);
    let args = ["snapshots", "--snapshotter", "btrfs", "ls"];
    host.fails(&args, 7, "Unavailable", &["snapshotter.btrfs"]);
    drop(host);
    let host = Host::with_config("[plugins.\"snapshotter.btrfs\"]\nroot = \"/proc\"\n");
    assert_eq!(plugin(&host, "snapshotter.btrfs")["state"], "failed");
    host.fails(&["health"], 7, "Unavailable", &["snapshotter.btrfs"]);
}

#[test]
fn snapshots_are_labelled_and_removed() {
    let host = Host::new();
    for key in ["a", "b", "c"] {
        host.ok(&["snapshots", "prepare", key]);
    }
    host.ok(&["snapshots", "label", "a", "one=1", "two=2"]);
    host.ok(&["snapshots", "label", "a", "one=", "three=3"]);
    let labels = host.json(&["snapshots", "inspect", "a"])["labels"].clone();
    assert_eq!(labels, serde_json::json!({ "two": "2", "three": "3" }));
    host.fails(&["snapshots", "label", "none", "a=b"], 3, "NotFound", &["none"]);
    host.ok(&["snapshots", "commit", "base", "a"]);
    host.ok(&["snapshots", "prepare", "child", "base"]);
    // The first failure is that of the command; the others are removed all the same.
    let output = host.capstan(&["snapshots", "rm", "none", "b", "base", "c"]);
    assert_eq!(output.code, 3, "{}", output.stderr);
    assert_eq!(output.stdout, "b\nc\n");
    let said: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{}", output.stderr);
    assert!(said[0].contains("NotFound") && said[1].contains("FailedPrecondition"), "{said:?}");
    assert_eq!(host.ids(&["snapshots", "ls"]), ["base", "child"]);
    let tree = host.ok(&["snapshots", "tree"]);
    assert_eq!(tree.lines().count(), 2, "{tree}");
    assert_eq!(host.ok(&["snapshots", "usage"]).lines().count(), 3);
    // F-252: for people with a unit, for programs in bytes.
    let mounts = host.json(&["snapshots", "mounts", "child"]);
    let options = mounts[0]["options"].as_array().unwrap();
    let upper = options.iter().find_map(|it| it.as_str().unwrap().strip_prefix("upperdir="));
    fs::write(Path::new(upper.unwrap()).join("big"), vec![1; 3 << 20]).unwrap();
    let usage = &host.json(&["snapshots", "usage", "child"])[0];
    assert_eq!((&usage["key"], &usage["inodes"]), (&"child".into(), &2.into()), "{usage}");
    let size = usage["size"].as_u64().unwrap();
    assert!((3 << 20..(3 << 20) + 65_536).contains(&size), "{usage}");
    let table = host.ok(&["snapshots", "usage", "child"]);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words, ["KEY", "SIZE", "INODES", "child", "3.0", "MiB", "2"], "{table}");
}

#[test]
fn blobs_are_labelled_and_removed() {
    let host = Host::new();
    let ingest = |text: &str, more: &[&str]| {
        let args: Vec<&str> =
            ["content", "ingest"].iter().chain(more).chain(&[text]).copied().collect();
        let output = host.capstan_with_input(&args, text.as_bytes());
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout.trim().to_owned()
    };
    let digests =
        [ingest("one", &[]), ingest("two", &["--algorithm", "sha512"]), ingest("three", &[])];
    assert!(digests[1].starts_with("sha512:"), "{digests:?}");
    assert_eq!(host.ok(&["content", "get", &digests[1]]), "two");
    host.ok(&["content", "label", &digests[0], "one=1", "two=2"]);
    host.ok(&["content", "label", &digests[0], "one="]);
    let labels = host.json(&["content", "inspect", &digests[0]])["labels"].clone();
    assert_eq!(labels, serde_json::json!({ "two": "2" }));
    let none = format!("sha256:{}", "0".repeat(64));
    host.fails(&["content", "label", &none, "a=b"], 3, "NotFound", &[&none]);
    let output = host.capstan(&["content", "rm", &digests[0], &none, &digests[2]]);
    assert_eq!(output.code, 3, "{}", output.stderr);
    assert_eq!(output.stdout, format!("{}\n{}\n", digests[0], digests[2]));
    assert_eq!(host.ids(&["content", "ls"]), [digests[1].as_str()]);
}
