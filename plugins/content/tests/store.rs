//! What content.local leaves on the disk, over restarts and kills. The rest of its contract is in the suite.

use bytes::Bytes;
use capstan_content::LocalContent;
use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::content::{
    Abort, Audit, Collect, Delete, Ingest, Ingests, List, Nodes, Open, OpenIngest, Orphans, Stat,
    Use,
};
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::{Content, Page};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::testing_disk::{LoopDisk, ThinDisk};
use capstan_sdk::{Class, Digest, Link, Namespace, Result};
use futures::future::join_all;

const HELLO: &[u8] = b"hello, world\n";
const HELLO_DIGEST: &str =
    "sha256:853ff93762a06ddbf722c4ebe9ddd66d8f63ddaea97f521c3ecc20da7c976020";
const OTHER_DIGEST: &str =
    "sha256:0000000000000000000000000000000000000000000000000000000000000000";

async fn bench() -> (Bench, Link<Content>) {
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    bench.start::<LocalContent>("").await.unwrap();
    let link = bench.link("content");
    (bench, link)
}

fn ns(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::parse(text).unwrap()
}

fn ingest(name: &str, expected: Option<&str>, total: u64) -> OpenIngest {
    OpenIngest { expected: expected.map(digest), total, ..OpenIngest::new(&ns("a"), name) }
}

async fn fill(ingest: &Ingest, bytes: &'static [u8]) {
    ingest.write(Bytes::from_static(bytes)).await.unwrap();
    while ingest.offset() < ingest.info.offset + bytes.len() as u64 {
        tokio::task::yield_now().await;
    }
}

async fn store(link: &Link<Content>, namespace: &str, bytes: &'static [u8]) -> Result<Digest> {
    let open = OpenIngest { namespace: ns(namespace), ..ingest("x", None, 0) };
    let ingest = link.send(open).await?;
    ingest.write(Bytes::from_static(bytes)).await?;
    Ok(ingest.commit(None, 0).await?.0)
}

/// The thread of a writer that went away may still be on its way out.
async fn patiently(link: &Link<Content>, open: OpenIngest) -> Result<Ingest> {
    loop {
        match link.send(open.clone()).await {
            Err(error) if error.class() == Class::Unavailable => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

fn class<T>(result: Result<T>) -> Class {
    result.err().expect("it fails").class()
}

#[test]
fn a_commit_leaves_no_ingest_and_the_last_delete_no_file() {
    run(|| async {
        let (bench, link) = bench().await;
        let name = store(&link, "a", HELLO).await.unwrap();
        let ingests = std::fs::read_dir(bench.root().join("content.local/ingest")).unwrap();
        assert_eq!(ingests.count(), 0);
        let file = bench.root().join("content.local/blobs/sha256").join(name.hex());
        let gone = |namespace: &str| Delete { namespace: ns(namespace), digest: name.clone() };
        let open = OpenIngest { namespace: ns("b"), ..ingest("y", Some(HELLO_DIGEST), 0) };
        assert_eq!(class(link.send(open).await), Class::AlreadyExists);
        link.send(gone("a")).await.unwrap();
        assert!(file.exists());
        link.send(gone("b")).await.unwrap();
        assert!(!file.exists());
    });
}

#[test]
fn an_ingest_is_resumed_where_it_stopped() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let writer = link.send(ingest("x", Some(HELLO_DIGEST), 13)).await.unwrap();
        fill(&writer, &HELLO[..5]).await;
        assert_eq!(class(link.send(ingest("x", None, 0)).await), Class::Unavailable);
        let abort = Abort { namespace: ns("a"), reference: "x".into() };
        assert_eq!(class(link.send(abort).await), Class::Unavailable);
        drop(writer);
        bench.stop::<LocalContent>().await;
        bench.start::<LocalContent>("").await.unwrap();
        assert_eq!(link.send(Ingests(ns("a"))).await.unwrap()[0].offset, 5);
        let open = async |expected: Option<&str>, total: u64| {
            patiently(&link, ingest("x", expected, total)).await
        };
        assert_eq!(class(open(Some(OTHER_DIGEST), 0).await), Class::FailedPrecondition);
        assert_eq!(class(open(None, 99).await), Class::FailedPrecondition);
        let writer = open(None, 0).await.unwrap();
        assert_eq!(writer.info.offset, 5);
        fill(&writer, &HELLO[5..]).await;
        assert_eq!(writer.commit(None, 0).await.unwrap().0.as_str(), HELLO_DIGEST);
    });
}

/// A daemon was killed between the data's move to its name and the end of the ingest: the next pull
/// failed with `NotFound: open its data`, for ever.
#[test]
fn what_a_kill_left_without_data_begins_anew() {
    run(|| async {
        let (mut bench, link) = bench().await;
        for is_restarted in [false, true] {
            let writer = link.send(ingest("x", Some(HELLO_DIGEST), 13)).await.unwrap();
            fill(&writer, &HELLO[..5]).await;
            for entry in std::fs::read_dir(bench.root().join("content.local/ingest")).unwrap() {
                std::fs::remove_file(entry.unwrap().path().join("data")).unwrap();
            }
            drop(writer);
            if is_restarted {
                bench.stop::<LocalContent>().await;
                bench.start::<LocalContent>("").await.unwrap();
            }
            let writer = patiently(&link, ingest("x", Some(HELLO_DIGEST), 13)).await.unwrap();
            assert_eq!(writer.info.offset, 0);
            writer.abort().await.unwrap();
        }
        assert_eq!(store(&link, "a", HELLO).await.unwrap().as_str(), HELLO_DIGEST);
    });
}

/// Who opened an ingest while its writer gave it its name got `NotFound: open its data`.
#[test]
fn an_ingest_that_is_just_ending_has_a_writer() {
    run(|| async {
        let (_bench, link) = bench().await;
        for round in 0..200_u32 {
            let first = link.send(ingest("x", None, 0)).await.unwrap();
            first.write(Bytes::from(round.to_string())).await.unwrap();
            let (committed, second) =
                futures::join!(first.commit(None, 0), link.send(ingest("x", None, 0)));
            committed.unwrap();
            match second {
                Ok(second) => second.abort().await.unwrap(),
                Err(error) => assert_eq!(error.class(), Class::Unavailable, "{error}"),
            }
        }
    });
}

#[test]
fn damage_is_an_error_and_mended_by_the_next_ingest() {
    run(|| async {
        let (bench, link) = bench().await;
        let name = store(&link, "a", HELLO).await.unwrap();
        let file = bench.root().join("content.local/blobs/sha256").join(name.hex());
        let open = || Open { namespace: ns("a"), digest: name.clone() };
        for damage in [b"short".as_slice(), b""] {
            std::fs::remove_file(&file).unwrap();
            if !damage.is_empty() {
                std::fs::write(&file, damage).unwrap();
            }
            assert_eq!(class(link.send(open()).await), Class::Corrupt);
            let writer = link.send(ingest("x", Some(HELLO_DIGEST), 13)).await.unwrap();
            writer.write(Bytes::from_static(HELLO)).await.unwrap();
            writer.commit(None, 0).await.unwrap();
            assert_eq!(link.send(open()).await.unwrap().read_all(100).unwrap(), HELLO);
        }
    });
}

async fn audit(link: &Link<Content>, is_full: bool, is_cleaning: bool) -> Vec<Finding> {
    link.send(Audit { is_full, is_cleaning }).await.unwrap()
}

#[test]
fn a_damaged_blob_loses_its_name_until_it_comes_again() {
    run(|| async {
        let (bench, link) = bench().await;
        let name = store(&link, "a", HELLO).await.unwrap();
        store(&link, "b", HELLO).await.unwrap();
        store(&link, "a", b"sound").await.unwrap();
        let file = bench.root().join("content.local/blobs/sha256").join(name.hex());
        let mut bytes = HELLO.to_vec();
        bytes[3] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        assert!(audit(&link, false, false).await.is_empty(), "its size is right");
        for is_full in [true, true, false] {
            let findings = audit(&link, is_full, true).await;
            assert_eq!(findings.len(), 2, "one for each namespace: {findings:?}");
            for finding in &findings {
                assert_eq!(finding.flaw, Flaw::Damaged);
                assert_eq!(finding.what, format!("content/{name}"));
            }
            assert!(!file.exists());
        }
        let open = || Open { namespace: ns("a"), digest: name.clone() };
        assert_eq!(class(link.send(open()).await), Class::NotFound);
        let use_ = Use { namespace: ns("b"), digest: name.clone() };
        assert_eq!(class(link.send(use_).await), Class::NotFound);
        let stat = Stat { namespace: ns("a"), digest: name.clone() };
        assert_eq!(link.send(stat).await.unwrap().size, 13, "what is known of it is kept");
        let aside =
            || std::fs::read_dir(bench.root().join("content.local/damaged")).unwrap().count();
        assert_eq!(aside(), 1);
        // One namespace brings it back for both.
        let writer = link.send(ingest("x", Some(HELLO_DIGEST), 13)).await.unwrap();
        writer.write(Bytes::from_static(HELLO)).await.unwrap();
        writer.commit(None, 0).await.unwrap();
        assert_eq!(aside(), 0);
        assert!(audit(&link, true, false).await.is_empty());
        let there = Open { namespace: ns("b"), ..open() };
        assert_eq!(link.send(there).await.unwrap().read_all(100).unwrap(), HELLO);
    });
}

#[test]
fn missing_files_orphans_and_strays_are_found() {
    run(|| async {
        let (bench, link) = bench().await;
        let name = store(&link, "a", HELLO).await.unwrap();
        let other = store(&link, "a", b"other").await.unwrap();
        let root = bench.root().join("content.local");
        let path = |digest: &Digest| root.join("blobs/sha256").join(digest.hex());
        std::fs::remove_file(path(&name)).unwrap();
        std::fs::remove_file(path(&other)).unwrap();
        std::fs::write(path(&other), "shorter or longer").unwrap();
        std::fs::write(path(&digest(OTHER_DIGEST)), "nobody names me").unwrap();
        std::fs::write(root.join("blobs/sha256/odd"), "").unwrap();
        std::fs::create_dir(root.join("blobs/foo")).unwrap();
        std::fs::create_dir(root.join("ingest/half-begun")).unwrap();
        let writer = link.send(ingest("live", None, 0)).await.unwrap();
        for is_cleaning in [false, true] {
            let findings = audit(&link, false, is_cleaning).await;
            let of = |flaw: Flaw| findings.iter().filter(|finding| finding.flaw == flaw).count();
            assert_eq!(of(Flaw::Missing), 1, "{findings:?}");
            assert_eq!(of(Flaw::Damaged), 1);
            assert_eq!(of(Flaw::Orphan), 4);
            assert_eq!(findings.len(), 6);
            for finding in findings {
                let is_removed = finding.detail.ends_with("; removed");
                assert_eq!(is_removed, is_cleaning && finding.flaw == Flaw::Orphan);
            }
        }
        assert_eq!(audit(&link, false, false).await.len(), 2, "the orphans are gone");
        fill(&writer, b"it lives").await;
        writer.commit(None, 0).await.unwrap();
        // A wrong size is not passed on to who asks for the blob by its name.
        let open = OpenIngest {
            namespace: ns("b"),
            expected: Some(other.clone()),
            ..ingest("x", None, 0)
        };
        let writer = link.send(open).await.unwrap();
        writer.write(Bytes::from_static(b"other")).await.unwrap();
        writer.commit(None, 0).await.unwrap();
        let open = Open { namespace: ns("a"), digest: other };
        assert_eq!(link.send(open).await.unwrap().read_all(100).unwrap(), b"other");
    });
}

#[test]
fn blobs_that_are_in_no_namespace_are_told_and_go() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<LocalContent>("").await.unwrap();
        let link: Link<Content> = bench.link("content");
        let named = store(&link, "a", HELLO).await.unwrap();
        let blobs = bench.root().join("content.local/blobs/sha256");
        let orphan = digest(OTHER_DIGEST);
        std::fs::write(blobs.join(orphan.hex()), "nobody names me").unwrap();
        std::fs::write(blobs.join("odd"), "no blob").unwrap();
        for is_removing in [false, true] {
            let found = link.send(Orphans { is_removing }).await.unwrap();
            let told: Vec<_> = found.iter().map(|node| (&node.resource, node.size)).collect();
            assert_eq!(told, [(&Resource::Content(orphan.clone()), 15)]);
            assert_eq!(blobs.join(orphan.hex()).exists(), !is_removing);
        }
        assert_eq!(link.send(Orphans { is_removing: true }).await.unwrap(), []);
        let open = Open { namespace: ns("a"), digest: named };
        assert_eq!(link.send(open).await.unwrap().read_all(100).unwrap(), HELLO);
        bench.stop::<LocalContent>().await;
    });
}

#[test]
fn times_of_use_survive_a_restart() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let name = store(&link, "a", HELLO).await.unwrap();
        let used = async || link.send(Nodes(ns("a"))).await.unwrap()[0].used_at_unix_ns;
        let first = used().await;
        link.send(Use { namespace: ns("a"), digest: name.clone() }).await.unwrap();
        let second = used().await;
        assert!(second > first);
        bench.stop::<LocalContent>().await;
        bench.start::<LocalContent>("").await.unwrap();
        assert_eq!(used().await, second);
        let digests = vec![name];
        let collect = Collect { namespace: ns("a"), digests, unused_since_unix_ns: second + 1 };
        let collected = link.send(collect.clone()).await.unwrap();
        assert!(collected.removed.is_empty(), "the look began before this instance did");
        let later = Collect { unused_since_unix_ns: i64::MAX, ..collect };
        assert_eq!(link.send(later).await.unwrap().removed.len(), 1);
    });
}

/// F-054 the other way: where namespaces are isolated, a digest alone gives nobody the bytes of others.
#[test]
fn an_isolated_store_wants_the_bytes() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start::<LocalContent>("sharing = \"isolated\"").await.unwrap();
        let link = bench.link::<Content>("content");
        let name = store(&link, "a", HELLO).await.unwrap();
        let open = OpenIngest { namespace: ns("b"), ..ingest("y", Some(HELLO_DIGEST), 13) };
        let writer = link.send(open.clone()).await.unwrap();
        let there = || Open { namespace: ns("b"), digest: name.clone() };
        assert_eq!(class(link.send(there()).await), Class::NotFound);
        writer.write(Bytes::from_static(b"not the bytes")).await.unwrap();
        assert_eq!(class(writer.commit(None, 0).await), Class::Corrupt);
        assert_eq!(class(link.send(there()).await), Class::NotFound);
        let writer = patiently(&link, open.clone()).await.unwrap();
        writer.write(Bytes::from_static(HELLO)).await.unwrap();
        writer.commit(None, 0).await.unwrap();
        assert_eq!(link.send(there()).await.unwrap().read_all(100).unwrap(), HELLO);
        assert_eq!(class(link.send(open).await), Class::AlreadyExists);
        let files = std::fs::read_dir(bench.root().join("content.local/blobs/sha256")).unwrap();
        assert_eq!(files.count(), 1, "the bytes are stored once all the same");
        let gone = Delete { namespace: ns("a"), digest: name.clone() };
        link.send(gone).await.unwrap();
        assert_eq!(link.send(there()).await.unwrap().size, 13);
    });
}

#[test]
fn the_configuration_chooses_the_algorithm() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start::<LocalContent>("algorithm = \"sha384\"").await.unwrap();
        let link = bench.link::<Content>("content");
        let name = store(&link, "a", HELLO).await.unwrap();
        assert!(name.as_str().starts_with("sha384:"), "{name}");
        assert!(bench.root().join("content.local/blobs/sha384").join(name.hex()).exists());
        bench.stop::<LocalContent>().await;
        let error = bench.start::<LocalContent>("algorithm = \"md5\"").await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
    });
}

/// A full disk stops an ingest with its own class, keeps what came, and does not keep blobs from being deleted.
#[test]
fn a_full_disk_keeps_the_ingest() {
    run(|| async {
        let mut bench = Bench::new();
        let disk = LoopDisk::new("ext4", 24);
        bench.start::<RedbMetadata>("").await.unwrap();
        let place = disk.path().join("content.local");
        std::fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, bench.root().join("content.local")).unwrap();
        bench.start::<LocalContent>("").await.unwrap();
        let link = bench.link::<Content>("content");
        let big = vec![7; 6 << 20];
        let first = link.send(ingest("first", None, 0)).await.unwrap();
        first.write(Bytes::from(big.clone())).await.unwrap();
        let (first, _) = first.commit(None, 0).await.unwrap();
        let mut all: Vec<u8> = Vec::new();
        let writer = link.send(ingest("x", None, 0)).await.unwrap();
        let mut error = None;
        for number in 0..32_u8 {
            let piece = vec![number; 1 << 20];
            all.extend(&piece);
            let written = writer.write(Bytes::from(piece)).await;
            if let Err(full) = written.and(writer.taken(all.len() as u64).await) {
                error = Some(full);
                break;
            }
        }
        assert_eq!(error.expect("the disk is smaller").class(), Class::ResourceExhausted);
        let outcome = writer.commit(None, 0).await;
        assert_eq!(class(outcome), Class::ResourceExhausted, "and it says so again");
        let kept = link.send(Ingests(ns("a"))).await.unwrap();
        let is_it = |info: &&capstan_sdk::contract::content::IngestInfo| info.reference == "x";
        let kept = kept.iter().find(is_it).unwrap();
        assert!(kept.offset >= 1 << 20, "{kept:?}");
        link.send(Delete { namespace: ns("a"), digest: first }).await.unwrap();
        let writer = patiently(&link, ingest("x", None, 0)).await.unwrap();
        let offset = usize::try_from(writer.info.offset).unwrap();
        writer.write(Bytes::copy_from_slice(&all[offset..])).await.unwrap();
        let (name, size) = writer.commit(None, 0).await.unwrap();
        assert_eq!(size, all.len() as u64);
        let blob = link.send(Open { namespace: ns("a"), digest: name }).await.unwrap();
        assert!(blob.read_all(size).unwrap() == all);
        bench.stop::<LocalContent>().await;
    });
}

/// A store on a disk that can fail.
async fn thin_bench() -> (Bench, ThinDisk, Link<Content>) {
    let mut bench = Bench::new();
    let disk = ThinDisk::new("xfs");
    bench.start::<RedbMetadata>("").await.unwrap();
    let place = disk.path().join("content.local");
    std::fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink(&place, bench.root().join("content.local")).unwrap();
    bench.start::<LocalContent>("").await.unwrap();
    let link = bench.link("content");
    (bench, disk, link)
}

/// Small blobs share a sync, which says only that something of the file system is not on the disk.
#[test]
fn of_those_that_share_a_sync_none_has_a_name_that_is_not_on_the_disk() {
    const MANY: u8 = 40;
    run(|| async {
        let (mut bench, disk, link) = thin_bench().await;
        let bytes = |number: u8| Bytes::from(vec![number; 200 << 10]);
        let store_all = async |numbers: &[u8]| {
            let store = async |number: u8| {
                let writer = patiently(&link, ingest(&number.to_string(), None, 0)).await?;
                assert_eq!(writer.info.offset, 0, "nothing is left of what failed");
                writer.write(bytes(number)).await?;
                writer.commit(None, 0).await
            };
            join_all(numbers.iter().map(|number| store(*number))).await
        };
        let check = async |outcomes: &[Result<(Digest, u64)>]| {
            for (number, outcome) in (0..MANY).zip(outcomes) {
                let Ok((digest, size)) = outcome else { continue };
                let open = Open { namespace: ns("a"), digest: digest.clone() };
                let blob = link.send(open).await.unwrap();
                assert!(blob.read_all(*size).unwrap() == bytes(number), "{number}");
            }
        };
        disk.fill();
        let outcomes = store_all(&(0..MANY).collect::<Vec<_>>()).await;
        let failed = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        // The disk may still have had a little.
        assert!(failed.clone().count() >= usize::from(MANY / 2), "{outcomes:?}");
        for error in failed {
            assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
        }
        disk.empty();
        bench.stop::<LocalContent>().await;
        disk.remount();
        bench.start::<LocalContent>("").await.unwrap();
        check(&outcomes).await;
        let all = List { namespace: ns("a"), page: Page::all() };
        let named = link.send(all).await.unwrap().items.len();
        assert_eq!(named, outcomes.iter().filter(|outcome| outcome.is_ok()).count());

        let missing = (0..MANY).zip(&outcomes).filter(|(_, outcome)| outcome.is_err());
        let missing: Vec<u8> = missing.map(|(number, _)| number).collect();
        let mut outcomes = outcomes;
        for (number, outcome) in missing.iter().zip(store_all(&missing).await) {
            outcomes[usize::from(*number)] = outcome;
        }
        bench.stop::<LocalContent>().await;
        disk.remount();
        bench.start::<LocalContent>("").await.unwrap();
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        check(&outcomes).await;
        bench.stop::<LocalContent>().await;
    });
}

/// A sync that failed leaves bytes in the page cache that are nowhere else, and the next one succeeds: what has a
/// digest for a name after that must be on the disk all the same.
#[test]
fn an_ingest_whose_sync_failed_is_not_gone_on_with() {
    run(|| async {
        let (mut bench, disk, link) = thin_bench().await;
        let writer = link.send(ingest("x", None, 0)).await.unwrap();
        disk.fill();
        let all = [vec![1; 1 << 20], vec![2; 1 << 20]].concat();
        writer.write(Bytes::from(all.clone())).await.unwrap();
        let failed = writer.commit(None, 0).await;
        assert_eq!(class(failed), Class::ResourceExhausted);
        disk.empty();

        let writer = patiently(&link, ingest("x", None, 0)).await.unwrap();
        assert_eq!(writer.info.offset, 0, "nothing of it is known to be on the disk");
        writer.write(Bytes::from(all.clone())).await.unwrap();
        let (name, size) = writer.commit(None, 0).await.unwrap();
        bench.stop::<LocalContent>().await;
        disk.remount();
        bench.start::<LocalContent>("").await.unwrap();
        let link = bench.link::<Content>("content");
        let blob = link.send(Open { namespace: ns("a"), digest: name }).await.unwrap();
        assert!(blob.read_all(size).unwrap() == all);
        drop(blob);
        bench.stop::<LocalContent>().await;
    });
}
