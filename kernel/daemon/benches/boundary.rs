//! What the boundary adds to a message: the same messages to the same plugin, compiled in, as a library on a thread,
//! and as a library in a process of its own, each under a kernel of its own in this process.
//!
//! `cargo xtask bench boundary` builds the libraries and runs it. The forms take turns, so that noise hits all alike.

#[expect(dead_code, reason = "tests look at more of it")]
#[path = "../tests/host/mod.rs"]
mod host;

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use capstan_content::LocalContent;
use capstan_gc_policy::AgePolicy;
use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::content::{Open, OpenIngest};
use capstan_sdk::contract::gc_policy::{Candidate, Judge};
use capstan_sdk::contract::snapshotter::{Prepare, Stat};
use capstan_sdk::contract::{Content, GcPolicy, Snapshotter};
use capstan_sdk::{Labels, Link, Namespace, Plugin, PluginDescriptor, testing};
use capstan_snapshot_native::NativeSnapshotter;
use futures::stream::{FuturesUnordered, StreamExt as _};

use host::{Form, Host, Programs};

const FORMS: [Form; 3] = [Form::Static, Form::Cdylib, Form::Remote];

/// Rounds of turns.
const ROUNDS: usize = 5;
/// Messages per form and round, one after the other.
const SEQUENTIAL: usize = 1000;
/// Messages per form and round, at once: [`IN_FLIGHT`] of them.
const AT_ONCE: usize = 4000;
/// 64: what some clients at work have under way together.
const IN_FLIGHT: usize = 64;
/// Messages before anything counts.
const WARM_UP: usize = 500;

const MIB: usize = 1 << 20;

/// Figures of one message in one form.
#[derive(Default)]
struct Figures {
    latencies: Vec<Duration>,
    at_once: Duration,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("plugin-host") {
        return capstan_kernel::loader::host();
    }
    say(&format!(
        "{:<36} {:<7} {:>9} {:>9} {:>10}",
        "message", "form", "p50 us", "p99 us", "per second"
    ));
    testing::run(|| async {
        judge().await;
        stat().await;
        read().await;
    });
    ExitCode::SUCCESS
}

fn say(line: &str) {
    // Nobody may read.
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn boot<P: Plugin>(requires: &[PluginDescriptor]) -> [Host; 3] {
    let bin = std::env::var_os("CAPSTAN_BIN").expect("run this by `cargo xtask bench boundary`");
    let programs = Programs {
        libraries: PathBuf::from(bin).join("plugins"),
        host: std::env::current_exe().expect("this program has a name"),
    };
    let [a, b, c] = FORMS.map(|form| Host::boot::<P>(form, &programs, requires, ""));
    [a.await, b.await, c.await]
}

/// Sends messages to each form in turn, and prints what came of it.
async fn measure<L>(what: &str, hosts: [Host; 3], links: [L; 3], send: impl AsyncFn(&L)) {
    let mut figures = [Figures::default(), Figures::default(), Figures::default()];
    for link in &links {
        for _ in 0..WARM_UP {
            send(link).await;
        }
    }
    for _ in 0..ROUNDS {
        for (link, figures) in links.iter().zip(&mut figures) {
            for _ in 0..SEQUENTIAL {
                let begun = Instant::now();
                send(link).await;
                figures.latencies.push(begun.elapsed());
            }
            let begun = Instant::now();
            let mut under_way = FuturesUnordered::new();
            for _ in 0..AT_ONCE {
                if under_way.len() == IN_FLIGHT {
                    under_way.next().await;
                }
                under_way.push(send(link));
            }
            while under_way.next().await.is_some() {}
            figures.at_once += begun.elapsed();
        }
    }
    for (form, mut figures) in FORMS.into_iter().zip(figures) {
        figures.latencies.sort_unstable();
        let count = figures.latencies.len();
        let percentile = |hundredth: usize| {
            figures.latencies[(count * hundredth / 100).min(count - 1)].as_secs_f64() * 1e6
        };
        let messages = u32::try_from(ROUNDS * AT_ONCE).expect("a small number");
        say(&format!(
            "{what:<36} {:<7} {:>9.1} {:>9.1} {:>10.0}",
            form.name(),
            percentile(50),
            percentile(99),
            f64::from(messages) / figures.at_once.as_secs_f64(),
        ));
    }
    for host in hosts {
        host.stop().await;
    }
}

fn namespace() -> Namespace {
    Namespace::parse("bench").expect("a name")
}

/// A small message, answered from memory.
async fn judge() {
    let hosts = boot::<AgePolicy>(&[]).await;
    let links = hosts.each_ref().map(Host::link);
    let candidate = Candidate {
        resource: format!("content/sha256:{}", "0".repeat(64)),
        size: 1000,
        last_used_unix_ns: 0,
        labels: Labels::new(),
    };
    measure("gc-policy.age Judge, 1 candidate", hosts, links, async |link: &Link<GcPolicy>| {
        let candidates = vec![candidate.clone()];
        let judge = Judge { candidates, now_unix_ns: 0, total: 1000 };
        link.send(judge).await.expect("a verdict");
    })
    .await;
}

/// A plugin that asks another one: from outside, over the boundary again.
async fn stat() {
    let hosts = boot::<NativeSnapshotter>(&[PluginDescriptor::of::<RedbMetadata>()]).await;
    let links = hosts.each_ref().map(Host::link::<Snapshotter>);
    for link in &links {
        let (namespace, parent) = (namespace(), String::new());
        let prepare = Prepare { namespace, key: "key".into(), parent, labels: Labels::new() };
        link.send(prepare).await.expect("a snapshot");
    }
    measure("snapshotter.native Stat", hosts, links, async |link: &Link<Snapshotter>| {
        let stat = Stat { namespace: namespace(), key: "key".into() };
        link.send(stat).await.expect("its record");
    })
    .await;
}

/// A blob's bytes do not cross the boundary, its descriptor does.
async fn read() {
    let hosts = boot::<LocalContent>(&[PluginDescriptor::of::<RedbMetadata>()]).await;
    let links = hosts.each_ref().map(Host::link::<Content>);
    let mut digests = Vec::new();
    for link in &links {
        let open = OpenIngest { total: MIB as u64, ..OpenIngest::new(&namespace(), "blob") };
        let writer = link.send(open).await.expect("an ingest");
        writer.write(vec![7; MIB].into()).await.expect("bytes are taken");
        digests.push(writer.commit(None, MIB as u64).await.expect("a blob").0);
    }
    let digest = digests.pop().expect("the three blobs are the same");
    measure("content.local Open, read of 1 MiB", hosts, links, async |link: &Link<Content>| {
        let open = Open { namespace: namespace(), digest: digest.clone() };
        let blob = link.send(open).await.expect("the blob");
        let mut bytes = vec![0; MIB];
        blob.file.read_exact_at(&mut bytes, 0).expect("its bytes");
    })
    .await;
}
