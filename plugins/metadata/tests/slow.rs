//! metadata.redb on a disk whose syncs take 50 ms.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use capstan_metadata::RedbMetadata;
use capstan_metadata::probe::{SYNCED, SYNCS};
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::metadata::{Commit, Get, Key, Step};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Link, Namespace};

const WRITES: usize = 1000;

fn key(number: usize) -> Key {
    Key::new("things", &Namespace::parse("a").unwrap(), number.to_string())
}

async fn write(link: Link<Metadata>, number: usize) {
    let steps = vec![Step::Put { key: key(number), value: vec![7; 200] }];
    link.send(Commit { steps, events: vec![] }).await.unwrap();
}

fn syncs() -> (u64, u64) {
    (SYNCS.load(Ordering::Relaxed), SYNCED.load(Ordering::Relaxed))
}

/// Reads until there is nothing to wait for. How many there were, and how many of them began and ended
/// while one and the same sync was under way: one that waits for a sync is none of those.
async fn read(link: &Link<Metadata>, mut is_over: impl FnMut() -> bool) -> (usize, usize) {
    let (mut all, mut inside) = (0, 0);
    while !is_over() {
        let before = syncs();
        link.send(Get(key(all % WRITES))).await.unwrap();
        all += 1;
        inside += usize::from(before == syncs() && before.0 > before.1);
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    (all, inside)
}

/// A sync per mutation would be 1,000 of them and 50 s.
#[test]
fn a_thousand_writers_share_a_few_slow_syncs_and_readers_do_not_wait() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("sync_delay_ms = 50").await.unwrap();
        let link: Link<Metadata> = bench.link("metadata");
        write(link.clone(), 0).await;

        let (before, begun) = (syncs().0, Instant::now());
        let writers: Vec<_> = (0..WRITES)
            .map(|number| tokio::task::spawn_local(write(link.clone(), number)))
            .collect();
        let is_over = || writers.iter().all(tokio::task::JoinHandle::is_finished);
        let (reads, inside) = read(&link, is_over).await;
        let took = begun.elapsed();
        for writer in writers {
            writer.await.unwrap();
        }
        let count = syncs().0 - before;
        eprintln!("{count} syncs, {took:?}; {inside} of {reads} reads while one was under way");
        assert!(count > 0, "the delay is not in the way of a sync");
        assert!(count * 10 <= WRITES as u64, "{count} syncs for {WRITES} mutations");
        assert!(took * 10 <= Duration::from_millis(50) * 1000, "{took:?}");
        // Had each waited for a sync there would be none.
        assert!(inside >= 5, "{inside} of {reads} reads ended within a sync of 50 ms");
    });
}
