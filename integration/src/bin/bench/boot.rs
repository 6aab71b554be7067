//! From the start of the daemon to its first answer, the client included.

use crate::args::Effort;
use crate::daemon::{Daemon, Dialect};
use crate::lane::{Lane, take_turns};
use crate::ours::Capstan;
use crate::peer::Containerd;
use crate::report::{Goal, Row, Table, Unit};
use crate::timed::in_milliseconds;

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let mut lanes = vec![again(&Capstan), again(&Containerd), first(&Capstan), first(&Containerd)];
    let rounds = effort.pick(5, 15);
    take_turns("boot", &mut lanes, 2, rounds);
    let figure = |lane: usize| lanes[lane].samples.median();
    let mut table = Table::new("boot until `version` is answered", &["containerd"]);
    table.rows = vec![
        Row::new("warm, nothing stored", rounds, Unit::Milliseconds, figure(0), vec![figure(1)])
            .goal(Goal::Value(15.0)),
        Row::new("first boot, no root", rounds, Unit::Milliseconds, figure(2), vec![figure(3)]),
    ];
    vec![table]
}

/// On a root that is made already and has nothing in it.
fn again(dialect: &'static dyn Dialect) -> Lane<'static> {
    let mut daemon = Daemon::new(dialect);
    Lane::new(move || {
        let took = daemon.start()?;
        daemon.stop()?;
        Ok(in_milliseconds(took))
    })
}

/// On no root at all.
fn first(dialect: &'static dyn Dialect) -> Lane<'static> {
    let mut daemon = Daemon::new(dialect);
    Lane::new(move || {
        daemon.wipe();
        let took = daemon.start()?;
        daemon.stop()?;
        Ok(in_milliseconds(took))
    })
}
