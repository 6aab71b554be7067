//! content.local passes the suite of its kind: compiled in, and over a boundary.

use bytes::Bytes;
use capstan_content::LocalContent;
use capstan_metadata::RedbMetadata;
use capstan_sdk::conformance::content;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::OpenIngest;
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Namespace};

#[test]
fn a_static_one() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start::<LocalContent>("").await.unwrap();
        content::run(&bench.link("content")).await;
    });
}

#[test]
fn over_the_wire() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<LocalContent>("").await.unwrap();
        content::run(&bench.link("content")).await;
        bench.stop::<LocalContent>().await;
    });
}

#[test]
fn an_ingest_whose_store_ends_breaks_off() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<LocalContent>("").await.unwrap();
        let open = OpenIngest::new(&Namespace::parse("a").unwrap(), "x");
        let link = bench.link::<Content>("content");
        let writer = link.send(open.clone()).await.unwrap();
        writer.write(Bytes::from_static(b"hello")).await.unwrap();
        writer.taken(5).await.unwrap();
        let mut tail = writer.follow().tail();
        let reader =
            tokio::task::spawn_blocking(move || std::io::copy(&mut tail, &mut std::io::sink()));
        bench.stop::<LocalContent>().await;
        let error = writer.commit(None, 0).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(reader.await.unwrap().is_err(), "those who read along learn of it");
        bench.start_over_wire::<LocalContent>("").await.unwrap();
        let writer = link.send(open).await.unwrap();
        assert_eq!(writer.info.offset, 5, "and it can be resumed");
    });
}
