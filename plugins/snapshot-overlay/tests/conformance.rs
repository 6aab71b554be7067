//! snapshotter.overlay passes the suite of its kind, and a restart loses nothing.

use capstan_metadata::RedbMetadata;
use capstan_sdk::conformance::snapshotter;
use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Audit, Collect, Commit, Nodes, Prepare, Stat, Use};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Labels, Link, Namespace, mount};
use capstan_snapshot_overlay::OverlaySnapshotter;

async fn bench() -> (Bench, Link<Snapshotter>) {
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    bench.start::<OverlaySnapshotter>("").await.unwrap();
    let link = bench.link("snapshotter");
    (bench, link)
}

#[test]
fn conformance() {
    run(|| async {
        let (bench, link) = bench().await;
        let place = bench.path("mnt");
        std::fs::create_dir(&place).unwrap();
        snapshotter::run(&link, &place).await;
    });
}

#[test]
fn over_the_wire() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<OverlaySnapshotter>("").await.unwrap();
        let place = bench.path("mnt");
        std::fs::create_dir(&place).unwrap();
        snapshotter::run(&bench.link("snapshotter"), &place).await;
        bench.stop::<OverlaySnapshotter>().await;
    });
}

/// The options of such a mount are more than the page that mount(2) takes.
#[test]
fn many_layers() {
    run(|| async {
        const LAYERS: usize = 128;
        let (bench, link) = bench().await;
        let namespace = Namespace::parse("a").unwrap();
        let prepare = |key: String, parent: String| Prepare {
            namespace: namespace.clone(),
            key,
            parent,
            labels: Labels::new(),
        };
        let mut parent = String::new();
        for number in 0..LAYERS {
            let key = format!("key-{number}");
            let mounts = link.send(prepare(key.clone(), String::new())).await.unwrap();
            std::fs::write(format!("{}/{number}", mounts[0].source), "").unwrap();
            let name = format!("layer-{number}");
            let commit = Commit {
                namespace: namespace.clone(),
                name: name.clone(),
                key,
                rebase: Some(parent),
                labels: Labels::new(),
            };
            link.send(commit).await.unwrap();
            parent = name;
        }
        let mounts = link.send(prepare("top".into(), parent)).await.unwrap();
        assert!(mounts[0].options.join(",").len() > 4096);
        let place = bench.path("mnt");
        std::fs::create_dir(&place).unwrap();
        let seen = mount::with_mounted(&mounts, &place, |root| {
            use std::os::fd::AsRawFd as _;
            let path = format!("/proc/self/fd/{}", root.as_raw_fd());
            std::fs::write(format!("{path}/new"), "").unwrap();
            Ok(std::fs::read_dir(path).unwrap().count())
        });
        assert_eq!(seen.unwrap(), LAYERS + 1);
    });
}

#[test]
fn what_is_on_disk_and_in_no_record_is_found() {
    run(|| async {
        let (bench, link) = bench().await;
        let namespace = Namespace::parse("a").unwrap();
        let prepare = |key: &str, parent: &str| Prepare {
            namespace: namespace.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: Labels::new(),
        };
        link.send(prepare("base-key", "")).await.unwrap();
        let commit = Commit {
            namespace: namespace.clone(),
            name: "base".into(),
            key: "base-key".into(),
            rebase: None,
            labels: Labels::new(),
        };
        link.send(commit).await.unwrap();
        link.send(prepare("key", "base")).await.unwrap();
        let snapshots = bench.root().join("snapshotter.overlay/snapshots");
        std::fs::create_dir_all(snapshots.join("77/fs")).unwrap();
        std::fs::write(snapshots.join("odd"), "").unwrap();
        let audit =
            async |is_cleaning| link.send(Audit { is_full: false, is_cleaning }).await.unwrap();
        for is_cleaning in [false, true] {
            let findings = audit(is_cleaning).await;
            assert_eq!(findings.len(), 2, "{findings:?}");
            for finding in findings {
                assert_eq!((finding.flaw, finding.namespace), (Flaw::Orphan, None));
                assert_eq!(finding.detail.ends_with("; removed"), is_cleaning);
            }
        }
        assert!(audit(false).await.is_empty());
        assert!(!snapshots.join("77").exists() && !snapshots.join("odd").exists());
        std::fs::remove_dir_all(snapshots.join("2/work")).unwrap();
        let findings = audit(true).await;
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].flaw, &*findings[0].what), (Flaw::Missing, "snapshot/overlay/key"));
        assert!(snapshots.join("2/fs").exists(), "what has a record is not cleaned away");
    });
}

/// A policy by last use survives a restart, orderly or not, once somebody looked at the graph.
#[test]
fn times_of_use_survive_a_restart() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let namespace = Namespace::parse("a").unwrap();
        let prepare = Prepare {
            namespace: namespace.clone(),
            key: "key".into(),
            parent: String::new(),
            labels: Labels::new(),
        };
        link.send(prepare).await.unwrap();
        let used = async || {
            let nodes = link.send(Nodes(namespace.clone())).await.unwrap();
            (nodes[0].created_at_unix_ns, nodes[0].used_at_unix_ns)
        };
        let (created, first) = used().await;
        assert_eq!(created, first);
        link.send(Use { namespace: namespace.clone(), key: "key".into() }).await.unwrap();
        let (_, second) = used().await;
        assert!(second > first);
        bench.stop::<OverlaySnapshotter>().await;
        bench.start::<OverlaySnapshotter>("").await.unwrap();
        assert_eq!(used().await, (created, second));
        // What a collector that began before the restart asks for counts as used.
        let keys = vec!["key".to_owned()];
        let collect =
            Collect { namespace: namespace.clone(), keys, unused_since_unix_ns: second + 1 };
        assert!(link.send(collect.clone()).await.unwrap().removed.is_empty());
        let later = Collect { unused_since_unix_ns: i64::MAX, ..collect };
        assert_eq!(link.send(later).await.unwrap().removed, ["key"]);
    });
}

#[test]
fn a_restart_keeps_records_and_sweeps_the_rest() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let namespace = Namespace::parse("a").unwrap();
        let prepare = |key: &str| Prepare {
            namespace: namespace.clone(),
            key: key.into(),
            parent: String::new(),
            labels: Labels::new(),
        };
        let before = link.send(prepare("key")).await.unwrap();
        bench.stop::<OverlaySnapshotter>().await;
        let snapshots = bench.root().join("snapshotter.overlay/snapshots");
        std::fs::create_dir(snapshots.join("77")).unwrap();
        bench.start::<OverlaySnapshotter>("").await.unwrap();
        assert!(link.send(Stat { namespace: namespace.clone(), key: "key".into() }).await.is_ok());
        while snapshots.join("77").exists() {
            tokio::task::yield_now().await;
        }
        // Numbers go on behind the highest that was ever seen.
        let after = link.send(prepare("next")).await.unwrap();
        assert_ne!(before, after);
        assert!(snapshots.join("78").exists());
    });
}

#[test]
fn a_limit_that_a_crash_left_is_ended_by_healing() {
    run(|| async { snapshotter::run_limit_left::<OverlaySnapshotter>(&mut bench().await.0).await });
}
