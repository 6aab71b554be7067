//! Pull and unpack of three images, from a registry on loopback to a fresh disk; the same from a registry that is 20 ms
//! away; and push of one of them into an empty registry.

use std::path::Path;
use std::time::Duration;

use capstan_integration::{DockerRegistry, FaultProxy, Trouble, fixtures, http};

use crate::args::Effort;
use crate::daemon::{Daemon, Dialect};
use crate::lane::{Lane, take_turns};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Goal, Row, Table, Unit};

/// What is pulled: the image of [`fixtures`], and the words for it.
const IMAGES: [(&str, &str); 3] = [
    ("big", "10 layers, 300 MB, 30,000 files"),
    ("minbase", "a Debian system, one layer"),
    ("hundred", "100 layers, 24 MB, 2,400 files"),
];

/// How much later each answer of a distant registry comes.
const DISTANCE: Duration = Duration::from_millis(20);

/// From a registry that is near.
pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let registry = start();
    let name = |image: &str| registry.reference(image);
    vec![table("pull and unpack, fresh root, median", name, effort)]
}

/// From one that is not. It is the same for both: a proxy of ours, which takes a little of the processors.
pub(crate) fn measure_distant(effort: Effort) -> Vec<Table> {
    let registry = start();
    let proxy = FaultProxy::before(&registry.address());
    proxy.make(usize::MAX, "", "", Trouble::Delay(DISTANCE));
    let name = |image: &str| proxy.reference(image);
    vec![table("pull and unpack, 20 ms more for each request", name, effort)]
}

fn start() -> DockerRegistry {
    eprintln!("pull: the images are made first, if they are not there (four minutes)");
    let storage = fixtures::storage(&IMAGES.map(|(image, _)| image));
    read_all(&storage);
    DockerRegistry::serve(&storage)
}

fn table(title: &'static str, name: impl Fn(&str) -> String, effort: Effort) -> Table {
    let mut table = Table::new(title, &["containerd"]);
    let rounds = effort.pick(1, 3);
    for (image, what) in IMAGES {
        let name = name(image);
        let mut lanes = [
            Lane::new(|| seconds(&Capstan, ours::RUNTIMES[0], &name)),
            Lane::new(|| seconds(&Containerd, peer::RUNTIMES[0], &name)),
        ];
        take_turns(&format!("pull {image}"), &mut lanes, 0, rounds);
        let [ours, peer] = lanes.map(|lane| lane.samples.median());
        // The design's goal is of containerd 2.3, which is faster at this than Debian's 1.6.
        let row = Row::new(what, rounds, Unit::Seconds, ours, vec![peer]);
        table.rows.push(row.goal(Goal::Times { factor: 0.25, of: 0 }));
    }
    table
}

fn seconds(dialect: &'static dyn Dialect, runtime: &str, image: &str) -> Result<f64, String> {
    let mut daemon = Daemon::new(dialect);
    daemon.start()?;
    let took = daemon.pull(image)?.took.as_secs_f64();
    // That it is unpacked is seen by running something in it.
    daemon.run(runtime, image)?;
    Ok(took)
}

/// Into an empty registry, whose disk is memory.
pub(crate) fn measure_push(effort: Effort) -> Vec<Table> {
    let registry = start();
    let (image, what) = IMAGES[0];
    let name = registry.reference(image);
    let mut daemons = [Daemon::new(&Capstan), Daemon::new(&Containerd)];
    let ready = daemons.each_mut().map(|daemon| daemon.start_with(&name));
    let [ours, peer] = &daemons;
    let mut lanes = [
        Lane::after(&ready[0], || pushed(ours, &name)),
        Lane::after(&ready[1], || pushed(peer, &name)),
    ];
    let rounds = effort.pick(1, 5);
    take_turns("push", &mut lanes, 0, rounds);
    let [ours, peer] = lanes.map(|lane| lane.samples.median());
    let mut table = Table::new("push into an empty registry, median", &["containerd"]);
    table.rows.push(Row::new(what, rounds, Unit::Seconds, ours, vec![peer]).goal(Goal::None));
    vec![table]
}

fn pushed(daemon: &Daemon, name: &str) -> Result<f64, String> {
    // `/run` is a tmpfs of the benchmark's own.
    let storage = tempfile::Builder::new()
        .prefix("storage-")
        .tempdir_in("/run")
        .map_err(|error| format!("make a directory: {error}"))?;
    let registry = DockerRegistry::serve(storage.path());
    rustix::fs::sync();
    let target = registry.reference("pushed");
    let took = daemon.client(&["images", "push", "--plain-http", &target, name])?.took;
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let there = http::ask(&registry.address(), "HEAD", "/v2/pushed/manifests/latest", &accept, b"");
    match there.status() {
        200 => Ok(took.as_secs_f64()),
        status => Err(format!("the registry does not have what was pushed: {status}")),
    }
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
