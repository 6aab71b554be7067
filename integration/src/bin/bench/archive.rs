//! Export of an image of 10 layers into an archive, import of that by a fresh daemon, and unpacking alone.

use std::path::Path;

use capstan_integration::{DockerRegistry, fixtures};

use crate::args::Effort;
use crate::daemon::{Daemon, Dialect};
use crate::lane::{Lane, take_turns};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Goal, Row, Table, Unit};

/// What is measured, in the order in which it is done.
const ROWS: [&str; 3] =
    ["export, median", "import and unpack, fresh root", "unpack alone, fresh root"];

/// One of the two, with its words for it.
struct Side {
    dialect: &'static dyn Dialect,
    runtime: &'static str,
    export: &'static [&'static str],
    import: &'static [&'static str],
    fetch: &'static [&'static str],
    unpack: fn(&Daemon, &str) -> Result<Vec<String>, String>,
}

const SIDES: [Side; 2] = [
    Side {
        dialect: &Capstan,
        runtime: ours::RUNTIMES[0],
        export: &["images", "export"],
        import: &["images", "import"],
        fetch: &["images", "pull", "--plain-http", "--no-unpack"],
        unpack: |_, image| Ok(words(&["images", "unpack", image])),
    },
    Side {
        dialect: &Containerd,
        runtime: peer::RUNTIMES[0],
        export: &["images", "export"],
        import: &["images", "import"],
        fetch: &["content", "fetch", "--plain-http"],
        unpack: |daemon, image| {
            let list = daemon.client(&["images", "ls"])?.stdout;
            let line = list.lines().find(|line| line.starts_with(image));
            let digest = line.and_then(|line| line.split_whitespace().nth(2));
            let digest = digest.ok_or_else(|| format!("{image} is not in its list: {list}"))?;
            Ok(words(&["snapshots", "unpack", digest]))
        },
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    eprintln!("archive: the image is made first, if it is not there (two minutes)");
    let registry = DockerRegistry::serve(&fixtures::storage(&["big"]));
    let image = registry.reference("big");
    let mut table = Table::new("archives and unpacking, 10 layers, 300 MB", &["containerd"]);
    let rounds = effort.pick(1, 3);
    for (index, what) in ROWS.into_iter().enumerate() {
        let mut lanes = SIDES.each_ref().map(|side| Lane::new(|| side.seconds(index, &image)));
        take_turns(what, &mut lanes, 0, rounds);
        let [ours, peer] = lanes.map(|lane| lane.samples.median());
        let row = Row::new(what, rounds, Unit::Seconds, ours, vec![peer]);
        table.rows.push(row.goal(Goal::None));
    }
    vec![table]
}

impl Side {
    fn seconds(&self, row: usize, image: &str) -> Result<f64, String> {
        match row {
            0 => self.exported(image).map(|(_, seconds)| seconds),
            1 => self.imported(image),
            _ => self.unpacked(image),
        }
    }

    fn exported(&self, image: &str) -> Result<(Daemon, f64), String> {
        let mut daemon = Daemon::new(self.dialect);
        daemon.start_with(image)?;
        rustix::fs::sync();
        let file = daemon.path("image.tar");
        let took = daemon.client(&[self.export, &[&file, image]].concat())?.took;
        let size = Path::new(&file).metadata().map_or(0, |about| about.len());
        match size > 1 << 20 {
            true => Ok((daemon, took.as_secs_f64())),
            false => Err(format!("the archive has {size} bytes")),
        }
    }

    fn imported(&self, image: &str) -> Result<f64, String> {
        let (mut from, _) = self.exported(image)?;
        from.stop()?;
        let mut daemon = Daemon::new(self.dialect);
        daemon.start()?;
        rustix::fs::sync();
        let took = daemon.client(&[self.import, &[&from.path("image.tar")]].concat())?.took;
        daemon.run(self.runtime, image)?;
        Ok(took.as_secs_f64())
    }

    fn unpacked(&self, image: &str) -> Result<f64, String> {
        let mut daemon = Daemon::new(self.dialect);
        daemon.start()?;
        daemon.client(&[self.fetch, &[image]].concat())?;
        rustix::fs::sync();
        let unpack = (self.unpack)(&daemon, image)?;
        let unpack: Vec<&str> = unpack.iter().map(String::as_str).collect();
        Ok(daemon.client(&unpack)?.took.as_secs_f64())
    }
}
