//! `run --rm` of `/bin/true`, the client included.

use capstan_integration::DockerRegistry;

use crate::args::Effort;
use crate::bare::{self, Bundles};
use crate::daemon::Daemon;
use crate::lane::{Lane, take_turns};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Goal, Row, Table, Unit};
use crate::timed::{Ended, in_milliseconds};

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let (mut ours, mut peer) = (Daemon::new(&Capstan), Daemon::new(&Containerd));
    let (ours_ready, peer_ready) = (ours.start_with(&image), peer.start_with(&image));
    let bundles = Bundles::new(1);
    let (ours, peer, image) = (&ours, &peer, image.as_str());
    let time = |result: Result<Ended, String>| result.map(|ended| in_milliseconds(ended.took));

    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for runtime in ours::RUNTIMES {
        lanes.push(Lane::after(&ours_ready, move || time(ours.run(runtime, image))));
    }
    for runtime in peer::RUNTIMES {
        lanes.push(Lane::after(&peer_ready, move || time(peer.run(runtime, image))));
    }
    for runtime in peer::RUNTIMES {
        lanes.push(Lane::new(|| time(bundles.run(runtime, 0))));
    }
    let rounds = effort.pick(10, 30);
    take_turns("run", &mut lanes, 3, rounds);

    let (ours, others) = lanes.split_at(ours::RUNTIMES.len());
    let (peers, bare) = others.split_at(peer::RUNTIMES.len());
    let mut table = Table::new("run --rm of /bin/true", &peer::NAMES);
    for (runtime, lane) in ours::RUNTIMES.iter().zip(ours) {
        let goal = match *runtime {
            "embedded" => Goal::Times { factor: 0.2, of: 1 },
            _ => Goal::None,
        };
        let of = |figure: fn(&Lane<'_>) -> _| (figure(lane), peers.iter().map(figure).collect());
        let (median, others) = of(|lane| lane.samples.median());
        let what = format!("{runtime}, median");
        table.rows.push(Row::new(&what, rounds, Unit::Milliseconds, median, others).goal(goal));
        let (p95, others) = of(|lane| lane.samples.p95());
        table.rows.push(Row::new(
            &format!("{runtime}, p95"),
            rounds,
            Unit::Milliseconds,
            p95,
            others,
        ));
    }
    let mut floor = Table::new("the same, against a runtime without a daemon", &bare::NAMES);
    let figures = bare.iter().map(|lane| lane.samples.median()).collect();
    floor.rows.push(
        Row::new("embedded, median", rounds, Unit::Milliseconds, ours[0].samples.median(), figures)
            .goal(Goal::Times { factor: 1.0, of: 1 }),
    );
    vec![table, floor]
}
