//! Files that are too large to be looked at as a whole at each start, and journals that would grow without end.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::metadata::{Audit, Commit, Get, Key, ScanAll, Step};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Link, Namespace};

const PAGE: usize = 4096;

fn key(number: usize) -> Key {
    Key::new("things", &Namespace::parse("a").unwrap(), number.to_string())
}

async fn put(link: &Link<Metadata>, numbers: std::ops::Range<usize>, value: &[u8]) {
    let put = |number| Step::Put { key: key(number), value: value.to_vec() };
    let commit = Commit { steps: numbers.map(put).collect(), events: vec![] };
    link.send(commit).await.unwrap();
}

fn path(bench: &Bench, name: &str) -> PathBuf {
    bench.root().join("metadata.redb").join(name)
}

async fn records(link: &Link<Metadata>) -> Option<BTreeMap<Key, Vec<u8>>> {
    Some(link.send(ScanAll("things".into())).await.ok()?.into_iter().collect())
}

/// Damage in a large file is met beside the work, or by a reader: the instance ends, and the next one has all.
#[test]
fn damage_in_a_large_file_is_found_and_nothing_is_lost() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        let link: Link<Metadata> = bench.link("metadata");
        for first in (0..5000).step_by(500) {
            put(&link, first..first + 500, &vec![7; 2000]).await;
        }
        let all = records(&link).await.unwrap();
        bench.stop::<RedbMetadata>().await;
        let database = fs::read(path(&bench, "metadata.redb")).unwrap();
        let journal = fs::read(path(&bench, "metadata.journal")).unwrap();
        assert!(database.len() > 8 << 20, "{}", database.len());
        let mut met = 0;
        for step in 1..5 {
            let page = database.len() / PAGE * step / 7 + step;
            let mut bad = database.clone();
            bad[page * PAGE..][..PAGE].iter_mut().for_each(|byte| *byte ^= 0xFF);
            fs::write(path(&bench, "metadata.redb"), bad).unwrap();
            fs::write(path(&bench, "metadata.journal"), &journal).unwrap();
            bench.start::<RedbMetadata>("").await.unwrap();
            // What is told is right, or nothing is.
            if let Some(found) = records(&link).await {
                assert!(found == all, "page {page}");
            }
            let _ = link.send(Audit { is_full: true }).await;
            met += usize::from(path(&bench, "metadata.suspect").exists());
            bench.stop::<RedbMetadata>().await;
            // The supervisor starts it until it stays. Twice may be needed: what knows which pages are free may be what
            // is damaged, and then the end of the first instance damages more.
            let mut found = None;
            for _ in 0..2 {
                bench.start::<RedbMetadata>("").await.unwrap();
                found = records(&link).await;
                bench.stop::<RedbMetadata>().await;
                if found.is_some() {
                    break;
                }
                met += 1;
            }
            assert!(found.as_ref() == Some(&all), "page {page}, started again");
        }
        assert!(met > 0, "no page was of any use");
    });
}

#[test]
fn the_journal_stays_short() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        let link: Link<Metadata> = bench.link("metadata");
        let journal = path(&bench, "metadata.journal");
        let len = || fs::metadata(&journal).map_or(0, |meta| meta.len());
        for round in 0..60_u8 {
            put(&link, 0..1, &vec![round; 100_000]).await;
        }
        assert!(len() > 4 << 20, "{}", len());
        let mut waited = 0;
        while len() > 1 << 20 {
            waited += 1;
            assert!(waited < 300, "it is {} bytes long", len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What was appended since is in it too.
        put(&link, 1..2, b"last").await;
        bench.stop::<RedbMetadata>().await;
        fs::write(path(&bench, "metadata.redb"), b"").unwrap();
        bench.start::<RedbMetadata>("").await.unwrap();
        assert_eq!(link.send(Get(key(0))).await.unwrap(), Some(vec![59; 100_000]));
        assert_eq!(link.send(Get(key(1))).await.unwrap(), Some(b"last".to_vec()));
    });
}
