//! snapshotter.native passes the suite of its kind, compiled in and over a boundary, and a restart loses
//! nothing.

use capstan_metadata::RedbMetadata;
use capstan_sdk::conformance::snapshotter;
use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::snapshotter::{Prepare, Stat};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Labels, Link, Namespace};
use capstan_snapshot_native::NativeSnapshotter;

async fn bench() -> (Bench, Link<Snapshotter>) {
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    bench.start::<NativeSnapshotter>("").await.unwrap();
    let link = bench.link("snapshotter");
    (bench, link)
}

async fn check(bench: &Bench) {
    let place = bench.path("mnt");
    std::fs::create_dir(&place).unwrap();
    snapshotter::run(&bench.link("snapshotter"), &place).await;
}

#[test]
fn a_static_one() {
    run(|| async {
        let (bench, _) = bench().await;
        check(&bench).await;
    });
}

#[test]
fn over_the_wire() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<NativeSnapshotter>("").await.unwrap();
        check(&bench).await;
        bench.stop::<NativeSnapshotter>().await;
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
        bench.stop::<NativeSnapshotter>().await;
        let snapshots = bench.root().join("snapshotter.native/snapshots");
        std::fs::create_dir(snapshots.join("77")).unwrap();
        bench.start::<NativeSnapshotter>("").await.unwrap();
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
    run(|| async { snapshotter::run_limit_left::<NativeSnapshotter>(&mut bench().await.0).await });
}
