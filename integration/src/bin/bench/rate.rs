//! Containers per second: create, start, wait and delete, 16 at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use capstan_integration::DockerRegistry;

use crate::args::Effort;
use crate::bare::{self, Bundles};
use crate::daemon::Daemon;
use crate::lane::{Lane, take_turns};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Goal, Row, Table, Unit};
use crate::timed::Ended;

/// How many run at the same time.
const WIDTH: usize = 16;

/// How many there are in all, in one round.
const COUNT: u32 = 100;

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let (mut ours, mut peer) = (Daemon::new(&Capstan), Daemon::new(&Containerd));
    let (ours_ready, peer_ready) = (ours.start_with(&image), peer.start_with(&image));
    let bundles = Bundles::new(WIDTH);
    let (ours, peer, image) = (&ours, &peer, image.as_str());

    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for runtime in ours::RUNTIMES {
        lanes.push(Lane::after(&ours_ready, move || per_second(|_| ours.run(runtime, image))));
    }
    for runtime in peer::RUNTIMES {
        lanes.push(Lane::after(&peer_ready, move || per_second(|_| peer.run(runtime, image))));
    }
    for runtime in peer::RUNTIMES {
        lanes.push(Lane::new(|| per_second(|worker| bundles.run(runtime, worker))));
    }
    let rounds = effort.pick(1, 3);
    take_turns("rate", &mut lanes, 1, rounds);

    let (ours, others) = lanes.split_at(ours::RUNTIMES.len());
    let (peers, bare) = others.split_at(peer::RUNTIMES.len());
    let median = |lanes: &[Lane<'_>]| lanes.iter().map(|lane| lane.samples.median()).collect();
    let mut table = Table::new("100 x run --rm, 16 at once", &peer::NAMES);
    for (runtime, lane) in ours::RUNTIMES.iter().zip(ours) {
        let goal = match *runtime {
            "embedded" => Goal::Times { factor: 10.0, of: 1 },
            _ => Goal::None,
        };
        table.rows.push(
            Row::new(runtime, rounds, Unit::PerSecond, lane.samples.median(), median(peers))
                .goal(goal),
        );
    }
    let mut floor = Table::new("the same, against a runtime without a daemon", &bare::NAMES);
    let embedded = ours[0].samples.median();
    floor.rows.push(Row::new("embedded", rounds, Unit::PerSecond, embedded, median(bare)));
    vec![table, floor]
}

/// Runs them all; one that fails makes the figure worthless, so then there is none.
fn per_second(run: impl Fn(usize) -> Result<Ended, String> + Sync) -> Result<f64, String> {
    let started = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..WIDTH {
            let (run, started, failures) = (&run, &started, &failures);
            scope.spawn(move || {
                while started.fetch_add(1, Ordering::Relaxed) < COUNT as usize {
                    if let Err(why) = run(worker) {
                        failures.lock().expect("nobody panics").push(why);
                    }
                }
            });
        }
    });
    let took = start.elapsed();
    let failures = failures.into_inner().expect("nobody panics");
    match failures.first() {
        None => Ok(f64::from(COUNT) / took.as_secs_f64()),
        Some(first) => Err(format!("{} of {COUNT} failed, the first: {first}", failures.len())),
    }
}
