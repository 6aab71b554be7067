//! metadata.redb on a disk that does not take what the page cache has: a file system on a loop device whose image has
//! no room to grow. A write is taken there, its sync fails, and from then on the page cache shows what the disk has not.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{Audit, Commit, Get, Key, ScanAll, Step};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::testing_disk::ThinDisk;
use capstan_sdk::{Class, Link, Namespace, Result};

fn key(number: usize) -> Key {
    Key::new("things", &Namespace::parse("a").unwrap(), format!("name-{number}"))
}

fn value(number: usize) -> Vec<u8> {
    format!("value of {number} ").into_bytes().repeat(600)
}

async fn put(link: &Link<Metadata>, number: usize) -> Result<u64> {
    let event = NewEvent { namespace: None, topic: "/t".into(), fields: vec![] };
    let steps = vec![Step::Put { key: key(number), value: value(number) }];
    link.send(Commit { steps, events: vec![event] }).await
}

async fn records(link: &Link<Metadata>) -> BTreeMap<Key, Vec<u8>> {
    link.send(ScanAll("things".into())).await.unwrap().into_iter().collect()
}

/// A bench whose metadata is on the disk.
async fn start(disk: &ThinDisk) -> (Bench, Link<Metadata>) {
    let mut bench = Bench::new();
    let place = disk.path().join("metadata.redb");
    let _ = fs::create_dir(&place);
    std::os::unix::fs::symlink(&place, bench.root().join("metadata.redb")).unwrap();
    bench.start::<RedbMetadata>("reserve_mib = 0").await.unwrap();
    let link = bench.link("metadata");
    (bench, link)
}

async fn nothing_acknowledged_is_lost(kind: &str) {
    let disk = ThinDisk::new(kind);
    let mark = disk.path().join("metadata.redb/metadata.redb.unsynced");
    let (mut next, mut done, mut refused) = (0, Vec::new(), 0);
    for round in 0..6 {
        let (mut bench, link) = start(&disk).await;
        let found = records(&link).await;
        for number in &done {
            let here = found.get(&key(*number)).map(Vec::as_slice);
            assert!(
                here == Some(&value(*number)),
                "{kind}, round {round}: {number} was acknowledged"
            );
        }
        let findings = link.send(Audit { is_full: true }).await.unwrap();
        assert!(findings.is_empty(), "{kind}, round {round}: {findings:?}");
        for _ in 0..10 {
            put(&link, next).await.expect("there is room");
            done.push(next);
            next += 1;
        }

        disk.fill();
        let mut errors = 0;
        while errors < 20 {
            match put(&link, next).await {
                Ok(_) => done.push(next),
                Err(error) => {
                    let is_known = matches!(
                        error.class(),
                        Class::ResourceExhausted | Class::FailedPrecondition
                    );
                    assert!(is_known, "{kind}, round {round}: {error:?}");
                    errors += 1;
                }
            }
            next += 1;
        }
        refused += errors;
        // What is there can be read all the while.
        assert_eq!(link.send(Get(key(0))).await.unwrap(), Some(value(0)));
        assert!(mark.exists(), "{kind}, round {round}: it is a sync that failed");

        // In some rounds the disk has room again while the daemon runs, in others for the next one.
        disk.empty();
        if round % 2 == 0 {
            while put(&link, next).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            done.push(next);
            next += 1;
            assert!(!mark.exists(), "{kind}, round {round}");
        }
        bench.stop::<RedbMetadata>().await;
        disk.remount();
    }
    assert!(refused >= 100, "{refused}");
}

/// A bench with a hundred records on a disk of which only the names are in memory.
async fn cold(disk: &ThinDisk) -> Bench {
    let (mut bench, link) = start(disk).await;
    for number in 0..100 {
        put(&link, number).await.unwrap();
    }
    bench.stop::<RedbMetadata>().await;
    disk.remount();
    let dir = bench.root().join("metadata.redb");
    for entry in fs::read_dir(&dir).unwrap() {
        fs::metadata(entry.unwrap().path()).unwrap();
    }
    for name in ["metadata.suspect", "metadata.redb.unsynced"] {
        assert!(!dir.join(name).exists());
    }
    bench
}

async fn all_is_there(bench: &Bench) {
    let link = bench.link("metadata");
    assert_eq!(records(&link).await.len(), 100);
    let findings = link.send(Audit { is_full: true }).await.unwrap();
    assert!(findings.is_empty(), "nothing was rebuilt: {findings:?}");
    put(&link, 100).await.unwrap();
}

#[test]
fn a_disk_that_cannot_be_read_for_a_moment_leads_to_no_rebuild() {
    run(|| async {
        let disk = ThinDisk::new("ext4");
        let mut bench = cold(&disk).await;
        let bytes = disk.take_away();
        let back = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            bytes.give_back();
        });
        let begun = Instant::now();
        bench.start::<RedbMetadata>("reserve_mib = 0").await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(500), "it met the disk as it was");
        back.join().unwrap();
        all_is_there(&bench).await;
        bench.stop::<RedbMetadata>().await;
    });
}

#[test]
fn a_disk_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    run(|| async {
        let disk = ThinDisk::new("ext4");
        let mut bench = cold(&disk).await;
        let bytes = disk.take_away();
        let error = bench.start::<RedbMetadata>("reserve_mib = 0").await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.message().contains("gives nothing back"), "{error}");
        bytes.give_back();
        bench.start::<RedbMetadata>("reserve_mib = 0").await.unwrap();
        all_is_there(&bench).await;
        bench.stop::<RedbMetadata>().await;
    });
}

#[test]
fn what_is_acknowledged_after_a_failed_sync_is_on_the_disk_of_an_ext4() {
    run(|| nothing_acknowledged_is_lost("ext4"));
}

#[test]
fn what_is_acknowledged_after_a_failed_sync_is_on_the_disk_of_an_xfs() {
    run(|| nothing_acknowledged_is_lost("xfs"));
}
