//! Pull and unpack of an image of 10 layers, from a registry on loopback to a fresh disk.

use std::path::Path;

use capstan_integration::{DockerRegistry, fixtures};

use crate::args::Effort;
use crate::daemon::{Daemon, Dialect};
use crate::lane::{Lane, take_turns};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Goal, Row, Table, Unit};

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    eprintln!("pull: the image is made first, if it is not there (two minutes)");
    let storage = fixtures::storage(&["big"]);
    read_all(&storage);
    let registry = DockerRegistry::serve(&storage);
    let image = registry.reference("big");
    let mut lanes = [
        Lane::new(|| seconds(&Capstan, ours::RUNTIMES[0], &image)),
        Lane::new(|| seconds(&Containerd, peer::RUNTIMES[0], &image)),
    ];
    let rounds = effort.pick(1, 3);
    take_turns("pull", &mut lanes, 0, rounds);
    let [ours, peer] = lanes.map(|lane| lane.samples.median());
    let mut table = Table::new("pull and unpack, 10 layers, 300 MB", &["containerd"]);
    // The design's goal is of containerd 2.3, which is faster at this than Debian's 1.6.
    table.rows.push(
        Row::new("fresh root, median", rounds, Unit::Seconds, ours, vec![peer])
            .goal(Goal::Times { factor: 0.25, of: 0 }),
    );
    vec![table]
}

fn seconds(dialect: &'static dyn Dialect, runtime: &str, image: &str) -> Result<f64, String> {
    // What the one before left unwritten must not be written on our time.
    rustix::fs::sync();
    let mut daemon = Daemon::new(dialect);
    daemon.start()?;
    let took = daemon.pull(image)?.took.as_secs_f64();
    // That it is unpacked is seen by running something in it.
    daemon.run(runtime, image)?;
    Ok(took)
}

/// The registry serves from memory in every round, the first too.
fn read_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => read_all(&entry.path()),
            _ => drop(std::fs::read(entry.path())),
        }
    }
}
