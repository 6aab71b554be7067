//! What content.local leaves on the disk, over restarts and kills. The rest of its contract is in the suite.

use bytes::Bytes;
use capstan_content::LocalContent;
use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::{Abort, Delete, Ingest, Ingests, Open, OpenIngest};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Digest, Link, Namespace, Result};

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
