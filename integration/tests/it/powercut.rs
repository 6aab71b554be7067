//! The power is cut: the file system of root and state is shut down without its log being flushed, the daemon is
//! killed, the file system is mounted again, and the daemon started. What it had acknowledged is there with the
//! right bytes, what it had not is whole or has no name, and all can be used.
//!
//! An answer that came after the shutdown began counts as none. Then ext4 and xfs answer some syncs with success whose
//! bytes are nowhere after the next mount: a program of 60 lines that does nothing but write, sync and count finds that
//! in one of ten shutdowns (Linux 6.18, both), and never for an answer from before. A true power cut takes the
//! kernel along and has no such moment; what the daemon answers when a disk fails is the matter of `failing_disk`.
//!
//! A cut comes at a failpoint of the daemon (`failpoint::at`) or at a moment at random, while clients pull,
//! ingest, snapshot, create, remove and run. `CAPSTAN_ROUNDS` says how many cuts there are on each file system:
//! 20, or 200 for all of it many times.

mod check;
mod tree;
mod worker;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capstan_integration::{Disk, FakeRegistry, Host, Random};

use check::Aftermath;
use tree::Base;
use worker::{Facts, Worker};

/// Clients at once.
const WORKERS: usize = 3;

/// Cuts before a new disk: what was acknowledged is looked at after each of them.
const ERA: usize = 5;

/// How long a step may take to come on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the daemon is when the power goes; the empty ones are moments at random.
const STEPS: &[&str] = &[
    "",
    "ingest:verified",
    "ingest:synced",
    "",
    "blob:named",
    "blob:forgotten",
    "",
    "snapshot:made",
    "snapshot:filled",
    "",
    "snapshot:synced",
    "snapshot:forgotten",
    "",
    "metadata:filled",
    "metadata:committed",
    "",
    "pull:unpacked",
    "pull:named",
    "",
    "",
];

fn rounds() -> usize {
    std::env::var("CAPSTAN_ROUNDS")
        .map_or(20, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"))
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_ext4() {
    cut_often("ext4", || Disk::ext4(2048));
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_xfs() {
    cut_often("xfs", || Disk::xfs(2048));
}

/// A disk with a daemon, and what is known of it.
struct Era {
    host: Host,
    facts: Vec<Facts>,
}

impl Era {
    fn new(disk: Disk) -> Self {
        let mut host = Host::on(disk);
        fs::create_dir_all(host.failpoints()).expect("make a directory for failpoints");
        host.start();
        Self { host, facts: (0..WORKERS).map(|_| Facts::default()).collect() }
    }
}

fn cut_often(kind: &str, disk: impl Fn() -> Disk) {
    let begin = Instant::now();
    let mut random = Random::new();
    let (registry, base) = (FakeRegistry::start(), Base::new());
    let mut steps = Vec::new();
    while steps.len() < rounds() {
        let mut all = STEPS.to_vec();
        random.shuffle(&mut all);
        steps.extend(all);
    }
    steps.truncate(rounds());
    let (mut wrong, mut acknowledged, mut late) = (Vec::new(), 0, 0);
    let mut era: Option<Era> = None;
    for (point, step) in steps.iter().enumerate() {
        if point % ERA == 0 {
            drop(era.take());
            registry.clear();
        }
        let now = era.get_or_insert_with(|| Era::new(disk()));
        let failures = cut(now, point, step, &registry, &base, &mut random);
        acknowledged +=
            now.facts.iter_mut().map(|f| std::mem::take(&mut f.acknowledged)).sum::<usize>();
        late += now.facts.iter_mut().map(|f| std::mem::take(&mut f.late)).sum::<usize>();
        if !failures.is_empty() {
            let step = if step.is_empty() { "a random moment" } else { step };
            let text = format!("{kind}, cut {point} at {step}:\n{}", failures.join("\n"));
            eprintln!("{text}");
            wrong.push(text);
            era = None;
        }
    }
    eprintln!(
        "{kind}: {} cuts in {:.0?}, {acknowledged} acknowledgements and {late} of the last moment: {} differences",
        rounds(),
        begin.elapsed(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One cut; answers what is not as it should be.
fn cut(
    era: &mut Era,
    point: usize,
    step: &str,
    registry: &FakeRegistry,
    base: &Base,
    random: &mut Random,
) -> Vec<String> {
    let (wish, hit) = (era.host.failpoints().join("wish"), era.host.failpoints().join("hit"));
    let is_cut = AtomicBool::new(false);
    let mut wrong = Vec::new();
    // Work goes on for a while before the moment comes.
    let lead = Duration::from_millis(100 + random.below(400));
    let moment = Duration::from_millis(random.below(250));
    std::thread::scope(|scope| {
        for (number, facts) in era.facts.iter_mut().enumerate() {
            let random = Random::of(random.below(u64::MAX));
            let (host, is_cut) = (&era.host, &is_cut);
            let worker = Worker { host, registry, base, is_cut, number, point, facts, random };
            scope.spawn(move || worker.run());
        }
        std::thread::sleep(lead);
        if step.is_empty() {
            std::thread::sleep(moment);
        } else {
            fs::write(wish.with_extension("new"), step).expect("write a failpoint");
            fs::rename(wish.with_extension("new"), &wish).expect("set a failpoint");
            let deadline = Instant::now() + PATIENCE;
            while !hit.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !hit.exists() {
                wrong.push("the step was never reached".to_owned());
            }
            std::thread::sleep(moment / 16);
        }
        is_cut.store(true, Ordering::SeqCst);
        era.host.cut_power();
    });
    let _ = (fs::remove_file(&wish), fs::remove_file(&hit));
    wrong.extend(era.facts.iter_mut().flat_map(|facts| std::mem::take(&mut facts.failures)));
    if let Err(error) = era.host.restore_power() {
        wrong.push(error);
        return wrong;
    }
    if let Err(log) = era.host.try_start() {
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        wrong.push(format!("the daemon does not start: {}", last.join("\n")));
        return wrong;
    }
    wrong.extend(Aftermath::new(&era.host, point).check(&mut era.facts));
    wrong
}
