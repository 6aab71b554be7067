//! snapshotter.native on a disk that takes a write and fails the sync of it: the next sync succeeds, and the bytes are
//! nowhere. The rule is the SDK's, for all drivers.

use std::fs;
use std::path::PathBuf;

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::snapshotter::{Commit, Mounts, Prepare, Remove};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::testing_disk::ThinDisk;
use capstan_sdk::{Class, Labels, Link, Namespace, Result};
use capstan_snapshot_native::NativeSnapshotter;

fn namespace() -> Namespace {
    Namespace::parse("a").unwrap()
}

async fn prepare(link: &Link<Snapshotter>, key: &str, parent: &str) -> PathBuf {
    let (key, parent) = (key.to_owned(), parent.to_owned());
    let prepare = Prepare { namespace: namespace(), key, parent, labels: Labels::new() };
    link.send(prepare).await.unwrap()[0].source.clone().into()
}

async fn commit(link: &Link<Snapshotter>, name: &str, key: &str) -> Result<()> {
    let (name, key) = (name.to_owned(), key.to_owned());
    let namespace = namespace();
    link.send(Commit { namespace, name, key, labels: Labels::new(), rebase: None }).await
}

#[test]
fn what_was_written_before_a_failed_sync_is_not_committed_by_the_next_one() {
    run(|| async {
        let mut bench = Bench::new();
        let disk = ThinDisk::new("xfs");
        let place = disk.path().join("snapshotter.native");
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, bench.root().join("snapshotter.native")).unwrap();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start::<NativeSnapshotter>("").await.unwrap();
        let link = bench.link("snapshotter");
        let first = prepare(&link, "first", "").await;
        fs::write(first.join("file"), vec![1; 1 << 20]).unwrap();
        commit(&link, "whole", "first").await.unwrap();

        let one = prepare(&link, "one", "whole").await;
        prepare(&link, "other", "").await;
        disk.fill();
        fs::write(one.join("more"), vec![2; 4 << 20]).unwrap();
        let failed = commit(&link, "broken", "one").await.unwrap_err();
        assert_eq!(failed.class(), Class::ResourceExhausted, "{failed}");
        disk.empty();
        // The system does not say whose bytes they were.
        for key in ["one", "other"] {
            let refused = commit(&link, "broken", key).await.unwrap_err();
            assert_eq!(refused.class(), Class::FailedPrecondition, "{key}: {refused}");
            assert!(refused.message().contains("a sync failed"), "{key}: {refused}");
            link.send(Remove { namespace: namespace(), key: key.into() }).await.unwrap();
        }

        let again = prepare(&link, "again", "whole").await;
        fs::write(again.join("more"), vec![3; 4 << 20]).unwrap();
        commit(&link, "mended", "again").await.unwrap();
        bench.stop::<NativeSnapshotter>().await;
        disk.remount();
        bench.start::<NativeSnapshotter>("").await.unwrap();
        let link: Link<Snapshotter> = bench.link("snapshotter");
        prepare(&link, "look", "mended").await;
        let mounts = Mounts { namespace: namespace(), key: "look".into() };
        let tree = PathBuf::from(&link.send(mounts).await.unwrap()[0].source);
        assert!(fs::read(tree.join("file")).unwrap() == vec![1; 1 << 20]);
        assert!(fs::read(tree.join("more")).unwrap() == vec![3; 4 << 20]);
        bench.stop::<NativeSnapshotter>().await;
    });
}
