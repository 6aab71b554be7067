//! snapshotter.btrfs passes the suite of its kind on a loop device, compiled in and over a boundary.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use capstan_metadata::RedbMetadata;
use capstan_sdk::conformance::snapshotter;
use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Audit, Commit, LABEL_SIZE, Prepare, Remove, Stat};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::testing_disk::LoopDisk;
use capstan_sdk::{Class, Labels, Link, Namespace, mount};
use capstan_snapshot_btrfs::BtrfsSnapshotter;

fn section(disk: &LoopDisk) -> String {
    format!("root = {:?}", disk.path())
}

async fn bench(disk: &LoopDisk) -> (Bench, Link<Snapshotter>) {
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    bench.start::<BtrfsSnapshotter>(&section(disk)).await.unwrap();
    let link = bench.link("snapshotter");
    (bench, link)
}

async fn check(bench: &Bench) {
    let place = bench.path("mnt");
    fs::create_dir(&place).unwrap();
    snapshotter::run(&bench.link("snapshotter"), &place).await;
}

#[test]
fn a_static_one() {
    run(|| async {
        let disk = LoopDisk::new("btrfs", 200);
        let (bench, _) = bench(&disk).await;
        check(&bench).await;
    });
}

fn btrfs<const N: usize>(words: [&str; N], path: &Path) -> String {
    let btrfs = capstan_sdk::tool::find("btrfs", "btrfs-progs").unwrap();
    let words = words.map(OsStr::new).into_iter();
    capstan_sdk::tool::run(&btrfs, words.chain([path.as_os_str()])).unwrap()
}

/// With the quotas of the file system turned on, limits are kept; and nothing is left of them.
#[test]
fn limits_by_quota_groups() {
    run(|| async {
        let disk = LoopDisk::new("btrfs", 300);
        btrfs(["quota", "enable"], disk.path());
        let (bench, link) = bench(&disk).await;
        let place = bench.path("mnt");
        fs::create_dir(&place).unwrap();
        snapshotter::run_limits(&link, &place).await;
        let prepare = Prepare {
            namespace: Namespace::parse("a").unwrap(),
            key: "key".into(),
            parent: String::new(),
            labels: Labels::from([(LABEL_SIZE.into(), "10m".into())]),
        };
        link.send(prepare.clone()).await.unwrap();
        let limits = || btrfs(["qgroup", "show", "-re"], disk.path());
        assert!(limits().contains("10.00MiB"), "{}", limits());
        assert_eq!(fs::read_dir(disk.path().join("limits")).unwrap().count(), 1);
        let Prepare { namespace, key, .. } = prepare;
        link.send(Remove { namespace, key }).await.unwrap();
        assert_eq!(fs::read_dir(disk.path().join("limits")).unwrap().count(), 0);
        // What was removed goes with the next transaction.
        btrfs(["filesystem", "sync"], disk.path());
        btrfs(["subvolume", "sync"], disk.path());
        assert!(!limits().contains("10.00MiB"), "{}", limits());
    });
}

#[test]
fn over_the_wire() {
    run(|| async {
        let disk = LoopDisk::new("btrfs", 200);
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<BtrfsSnapshotter>(&section(&disk)).await.unwrap();
        check(&bench).await;
        bench.stop::<BtrfsSnapshotter>().await;
    });
}

#[test]
fn another_file_system_is_refused() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        let error = bench.start::<BtrfsSnapshotter>("root = \"/proc\"").await.unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.message().contains("expected btrfs, got proc"), "{error}");
        // Where nobody asked for it, it is only skipped.
        let error = bench.start::<BtrfsSnapshotter>("").await.unwrap_err();
        assert_eq!(error.class(), Class::Unimplemented, "{error}");
    });
}

/// F-129: the mount that a path is in, however deep, and through links.
#[test]
fn mount_lookup() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let disk = LoopDisk::new(kind, 400);
        let deep = disk.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&deep, &link).unwrap();
        for path in [disk.path(), &deep, &link] {
            let found = mount::of(path).unwrap();
            assert_eq!((found.kind.as_str(), found.target.as_path()), (kind, disk.path()));
            assert!(found.source.starts_with("/dev/loop"), "{found:?}");
        }
        assert_ne!(mount::of(place.path()).unwrap().target, disk.path());
    }
}

#[test]
fn mounts_name_subvolumes_and_a_restart_sweeps() {
    run(|| async {
        let disk = LoopDisk::new("btrfs", 200);
        let (mut bench, link) = bench(&disk).await;
        let namespace = Namespace::parse("a").unwrap();
        let prepare = |key: &str, parent: &str| Prepare {
            namespace: namespace.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: Labels::new(),
        };
        let commit = |name: &str, key: &str| Commit {
            namespace: namespace.clone(),
            name: name.into(),
            key: key.into(),
            rebase: None,
            labels: Labels::new(),
        };
        let mut parent = "";
        for name in ["one", "two"] {
            let mounts = link.send(prepare("key", parent)).await.unwrap();
            assert_eq!(mounts[0].kind, "btrfs");
            assert!(mounts[0].options[0].starts_with("subvolid="), "{mounts:?}");
            link.send(commit(name, "key")).await.unwrap();
            parent = name;
        }
        assert!(disk.path().join("snapshots/1").exists() && !disk.path().join("active/1").exists());
        link.send(prepare("live", "two")).await.unwrap();
        bench.stop::<BtrfsSnapshotter>().await;
        let btrfs = capstan_sdk::tool::find("btrfs", "btrfs-progs").unwrap();
        let orphan = disk.path().join("active/77");
        let words = ["subvolume".as_ref(), "create".as_ref(), orphan.as_os_str()];
        capstan_sdk::tool::run(&btrfs, words).unwrap();
        bench.start::<BtrfsSnapshotter>(&section(&disk)).await.unwrap();
        while orphan.exists() {
            tokio::task::yield_now().await;
        }
        link.send(Stat { namespace: namespace.clone(), key: "live".into() }).await.unwrap();
        let words = ["subvolume".as_ref(), "create".as_ref(), orphan.as_os_str()];
        capstan_sdk::tool::run(&btrfs, words).unwrap();
        let findings = link.send(Audit { is_full: true, is_cleaning: true }).await.unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].flaw, Flaw::Orphan);
        assert!(!orphan.exists());
    });
}
