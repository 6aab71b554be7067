//! metadata.redb on a disk whose syncs take 50 ms.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use capstan_metadata::RedbMetadata;
use capstan_metadata::probe::SYNCS;
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

/// How long each of so many reads took, shortest first.
async fn read(link: &Link<Metadata>, count: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(count);
    for number in 0..count {
        let begun = Instant::now();
        link.send(Get(key(number % WRITES))).await.unwrap();
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    took.sort();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

/// A sync per mutation would be 1,000 of them and 50 s.
#[test]
fn a_thousand_writers_share_a_few_slow_syncs_and_readers_do_not_wait() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("sync_delay_ms = 50").await.unwrap();
        let link: Link<Metadata> = bench.link("metadata");
        write(link.clone(), 0).await;
        let alone = read(&link, 300).await;

        let syncs = SYNCS.load(Ordering::Relaxed);
        let begun = Instant::now();
        let writers: Vec<_> = (0..WRITES)
            .map(|number| tokio::task::spawn_local(write(link.clone(), number)))
            .collect();
        let meanwhile = read(&link, 300).await;
        for writer in writers {
            writer.await.unwrap();
        }
        let took = begun.elapsed();
        let syncs = SYNCS.load(Ordering::Relaxed) - syncs;
        assert!(syncs > 0, "the delay is not in the way of a sync");
        let shared = usize::try_from(syncs).unwrap();
        assert!(shared * 10 <= WRITES, "{syncs} syncs for {WRITES} mutations");
        assert!(took * 10 <= Duration::from_millis(50) * 1000, "{took:?}");
        // Had one waited for a sync, and more than one in a hundred would, it would have taken 50 ms.
        let (alone, meanwhile) = (p99(&alone), p99(&meanwhile));
        assert!(
            meanwhile < Duration::from_millis(25),
            "{meanwhile:?}, and {alone:?} without writers"
        );
        println!("{syncs} syncs, {took:?}; reads: p99 {meanwhile:?}, without writers {alone:?}");
    });
}
