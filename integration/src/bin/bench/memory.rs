//! Memory of shims and daemons: the proportional set size, which shares what is shared.

use std::thread::sleep;
use std::time::Duration;

use capstan_integration::DockerRegistry;

use crate::args::Effort;
use crate::crowd;
use crate::daemon::{Daemon, Dialect};
use crate::ours::{self, Capstan};
use crate::peer::{self, Containerd};
use crate::report::{Cell, Goal, Row, Table, Unit};

/// How many containers.
const COUNT: usize = 50;

/// How long they are left alone before they are looked at.
const IDLE: Duration = Duration::from_secs(5);

/// Megabytes.
#[derive(Default)]
struct Figures {
    booted: Option<f64>,
    shim: Option<f64>,
    crowded: Option<f64>,
    failure: Option<String>,
}

impl Figures {
    fn cell(&self, figure: Option<f64>) -> Cell {
        match (figure, &self.failure) {
            (Some(value), _) => Cell::Value(value),
            (None, Some(why)) => Cell::Failed(why.clone()),
            (None, None) => Cell::Absent,
        }
    }
}

pub(crate) fn measure(_effort: Effort) -> Vec<Table> {
    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    // One after the other: two of the same program would share what one alone does not.
    let ours = look(&Capstan, ours::RUNTIMES[0], &image);
    let peers = peer::RUNTIMES.map(|runtime| look(&Containerd, runtime, &image));
    let row = |what: &str, n: usize, figure: fn(&Figures) -> Option<f64>, goal: Goal| {
        let cell = |figures: &Figures| figures.cell(figure(figures));
        let others = peers.iter().map(cell).collect();
        Row::new(what, n, Unit::Megabytes, cell(&ours), others).goal(goal)
    };
    let mut table = Table::new("memory (PSS), idle 5 s", &peer::NAMES);
    table.rows = vec![
        row("shim, average of 50", COUNT, |figures| figures.shim, Goal::Value(0.35)),
        row("daemon after boot", 1, |figures| figures.booted, Goal::Value(10.0)),
        row("daemon with 50 containers", 1, |figures| figures.crowded, Goal::None),
    ];
    vec![table]
}

fn look(dialect: &'static dyn Dialect, runtime: &str, image: &str) -> Figures {
    eprintln!("memory: {} with {runtime}", dialect.shim());
    let mut figures = Figures::default();
    if let Err(why) = fill(&mut figures, dialect, runtime, image) {
        figures.failure = Some(why);
    }
    figures
}

fn fill(
    figures: &mut Figures,
    dialect: &'static dyn Dialect,
    runtime: &str,
    image: &str,
) -> Result<(), String> {
    let mut daemon = Daemon::new(dialect);
    daemon.start()?;
    sleep(IDLE);
    figures.booted = Some(megabytes(daemon.pid())?);
    daemon.pull(image)?;
    let ids = crowd::start(&daemon, runtime, image, COUNT)?;
    sleep(IDLE);
    let shims = daemon.shims();
    if shims.len() != COUNT {
        return Err(format!("{} shims for {COUNT} tasks", shims.len()));
    }
    let sum = shims.iter().map(|&pid| megabytes(pid)).sum::<Result<f64, _>>()?;
    figures.shim = Some(sum / f64::from(u32::try_from(shims.len()).expect("few")));
    figures.crowded = Some(megabytes(daemon.pid())?);
    daemon.remove(&ids)
}

/// The proportional set size of a process, in 1,000,000 bytes.
fn megabytes(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    let kib: Option<u32> = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok());
    kib.map(|kib| f64::from(kib) * 1024.0 / 1e6).ok_or_else(|| format!("{path}: no Pss in {text}"))
}
