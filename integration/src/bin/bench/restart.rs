//! From the start of a daemon that was killed until it lists all tasks as running.

use capstan_integration::DockerRegistry;

use crate::args::Effort;
use crate::crowd;
use crate::daemon::{Daemon, Dialect};
use crate::lane::{Lane, take_turns};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Cell, Goal, Row, Table, Unit};
use crate::timed::in_milliseconds;

/// How many tasks.
const COUNT: usize = 50;

/// How many the design promises for.
const MANY: usize = 1000;

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let rounds = effort.pick(3, 7);
    let mut lanes = vec![lane(&Capstan, ours::RUNTIMES[0], &image, COUNT)];
    lanes.extend(peer::RUNTIMES.map(|runtime| lane(&Containerd, runtime, &image, COUNT)));
    take_turns("restart", &mut lanes, 1, rounds);
    let mut figures: Vec<Cell> = lanes.iter().map(|lane| lane.samples.median()).collect();
    let ours = figures.remove(0);
    drop(lanes);

    let mut table = Table::new("restart after SIGKILL", &peer::NAMES);
    table.rows.push(Row::new("50 tasks listed", rounds, Unit::Milliseconds, ours, figures));
    if effort == Effort::Full {
        let mut lanes = [lane(&Capstan, ours::RUNTIMES[0], &image, MANY)];
        take_turns("restart", &mut lanes, 1, rounds);
        let figure = lanes[0].samples.median();
        let peers = vec![Cell::Absent; peer::NAMES.len()];
        table.rows.push(
            Row::new("1,000 tasks listed", rounds, Unit::Milliseconds, figure, peers)
                .goal(Goal::Value(1000.0)),
        );
    }
    vec![table]
}

/// A daemon with tasks of its own; they end with the lane.
fn lane<'a>(dialect: &'static dyn Dialect, runtime: &str, image: &str, count: usize) -> Lane<'a> {
    eprintln!("restart: {count} tasks by {} with {runtime}", dialect.shim());
    let mut crowd = Crowd { daemon: Daemon::new(dialect), ids: Vec::new() };
    let ready = crowd.daemon.start_with(image).and_then(|()| {
        crowd.ids = crowd::start(&crowd.daemon, runtime, image, count)?;
        Ok(())
    });
    Lane::after(&ready, move || {
        crowd.daemon.kill();
        let took = crowd.daemon.start_until(|daemon| daemon.running().is_ok_and(|n| n == count))?;
        Ok(in_milliseconds(took))
    })
}

struct Crowd {
    daemon: Daemon,
    ids: Vec<String>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Err(why) = self.daemon.remove(&self.ids) {
            eprintln!("restart: {why}");
        }
    }
}
