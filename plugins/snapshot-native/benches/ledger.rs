//! What the record of a snapshot costs: the operations of a snapshotter that has nothing but directories, on the real
//! metadata, one after the other, and one transaction of each kind alone.
//!
//! `cargo bench --package capstan-snapshot-native --bench ledger`. It works in `TMPDIR`: put that on the disk that is meant,
//! since what is durable waits for it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::metadata::{self, Get, Key, Step};
use capstan_sdk::contract::snapshotter::{Commit, Mounts, Prepare, Remove, Stat};
use capstan_sdk::contract::{Metadata, Snapshotter};
use capstan_sdk::{Labels, Link, Namespace, testing};
use capstan_snapshot_native::NativeSnapshotter;

/// Operations of each kind.
const COUNT: usize = 500;
/// Snapshots below the one whose mounts are asked for.
const CHAIN: usize = 10;

fn say(line: &str) {
    // Nobody may read.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn namespace() -> Namespace {
    Namespace::parse("bench").expect("a name")
}

/// Does it [`COUNT`] times, and prints what one took.
async fn measure(what: &str, work: impl AsyncFn(usize)) {
    let mut times = Vec::with_capacity(COUNT);
    for number in 0..COUNT {
        let begun = Instant::now();
        work(number).await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let (middle, late) = (times[COUNT / 2], times[COUNT * 99 / 100]);
    say(&format!("{what:<18} {:>9.1} {:>9.1}", microseconds(middle), microseconds(late)));
}

async fn prepare(link: &Link<Snapshotter>, key: String, parent: String) {
    let prepare = Prepare { namespace: namespace(), key, parent, labels: Labels::new() };
    link.send(prepare).await.expect("a snapshot");
}

async fn commit(link: &Link<Snapshotter>, name: String, key: String) {
    let labels = Labels::new();
    let commit = Commit { namespace: namespace(), name, key, rebase: None, labels };
    link.send(commit).await.expect("it is committed");
}

async fn stat(link: &Link<Snapshotter>, key: String) {
    link.send(Stat { namespace: namespace(), key }).await.expect("its record");
}

fn main() {
    say(&format!("{:<18} {:>9} {:>9}", "operation", "p50 us", "p99 us"));
    testing::run(|| async {
        let mut bench = testing::Bench::new();
        bench.start::<RedbMetadata>("").await.expect("the metadata");
        bench.start::<NativeSnapshotter>("").await.expect("the snapshotter");
        snapshots(&bench.link("snapshotter")).await;
        transactions(&bench.link("metadata")).await;
    });
}

async fn snapshots(link: &Link<Snapshotter>) {
    let (active, name) = (|number| format!("active-{number}"), |number| format!("name-{number}"));
    measure("create active", async |number| prepare(link, active(number), String::new()).await)
        .await;
    measure("stat active", async |number| stat(link, active(number)).await).await;
    measure("commit", async |number| commit(link, name(number), active(number)).await).await;
    measure("stat committed", async |number| stat(link, name(number)).await).await;
    let mut parent = name(0);
    for number in 0..CHAIN {
        let (key, next) = (format!("link-{number}"), format!("chain-{number}"));
        prepare(link, key.clone(), parent).await;
        commit(link, next.clone(), key).await;
        parent = next;
    }
    prepare(link, "top".into(), parent).await;
    measure("get active of 10", async |_| {
        let mounts = Mounts { namespace: namespace(), key: "top".into() };
        link.send(mounts).await.expect("its mounts");
    })
    .await;
    // The first has others on it.
    prepare(link, active(0), String::new()).await;
    measure("remove", async |number| {
        let key = if number == 0 { active(0) } else { name(number) };
        link.send(Remove { namespace: namespace(), key }).await.expect("it is removed");
    })
    .await;
}

async fn transactions(link: &Link<Metadata>) {
    let key = || Key::new("bench", &namespace(), "key");
    measure("write transaction", async |number| {
        let steps = vec![Step::Put { key: key(), value: number.to_le_bytes().to_vec() }];
        let commit = metadata::Commit { steps, events: Vec::new() };
        link.send(commit).await.expect("it is committed");
    })
    .await;
    measure("read transaction", async |_| {
        link.send(Get(key())).await.expect("an answer").expect("what was written");
    })
    .await;
}
