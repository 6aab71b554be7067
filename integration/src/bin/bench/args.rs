//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::report::Table;
use crate::{archive, boot, ingest, memory, metadata, pull, rate, restart, run};

const HELP: &str = "\
usage: capstan-bench [--quick] [--json FILE] [SECTION...]

Measures capstan and containerd on this machine; needs root. Sections, all by default:
  run       latency of `run --rm` of /bin/true
  rate      containers per second, 16 at once
  memory    of shims and daemons
  pull      three images, unpacked: of 10 layers, of one, of 100
  distant   the same, with 20 ms more for each request
  push      the image of 10 layers, into an empty registry
  archive   the same image exported, imported, and unpacked alone
  boot      until the first answer
  restart   until all running tasks are listed
  metadata  durable changes per second, and reads meanwhile (ours alone)
  ingest    blobs of four sizes (ours alone)

What the boundary of a plugin costs is measured by another program: `cargo xtask bench boundary`.

  --quick       fewer rounds
  --json FILE   write the results as JSON too

CAPSTAN_BIN and CONTAINERD_BIN are the directories of the programs, if it is not the usual ones.
";

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    Quick,
    Full,
}

impl Effort {
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Something that can be measured by itself.
#[derive(Debug)]
pub(crate) struct Section {
    name: &'static str,
    pub(crate) measure: fn(Effort) -> Vec<Table>,
}

const SECTIONS: [Section; 11] = [
    Section { name: "run", measure: run::measure },
    Section { name: "rate", measure: rate::measure },
    Section { name: "memory", measure: memory::measure },
    Section { name: "pull", measure: pull::measure },
    Section { name: "distant", measure: pull::measure_distant },
    Section { name: "push", measure: pull::measure_push },
    Section { name: "archive", measure: archive::measure },
    Section { name: "boot", measure: boot::measure },
    Section { name: "restart", measure: restart::measure },
    Section { name: "metadata", measure: metadata::measure },
    Section { name: "ingest", measure: ingest::measure },
];

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) effort: Effort,
    pub(crate) json: Option<PathBuf>,
    pub(crate) sections: Vec<&'static Section>,
    /// Not for users: [`crate::seclusion`] calls this program again to clean up.
    pub(crate) is_sweep: bool,
}

/// Why there is nothing to do.
#[derive(Debug)]
pub(crate) enum Answer {
    Help,
    Wrong(String),
}

impl Answer {
    pub(crate) fn print(&self) -> ExitCode {
        if let Self::Wrong(why) = self {
            eprintln!("capstan-bench: {why}");
        }
        eprint!("{HELP}");
        match self {
            Self::Help => ExitCode::SUCCESS,
            Self::Wrong(_) => ExitCode::from(2),
        }
    }
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Answer> {
        let mut args =
            Self { effort: Effort::Full, json: None, sections: Vec::new(), is_sweep: false };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--help" | "-h" => return Err(Answer::Help),
                "--quick" => args.effort = Effort::Quick,
                "--sweep" => args.is_sweep = true,
                "--json" => match words.next() {
                    Some(path) => args.json = Some(path.into()),
                    None => return Err(Answer::Wrong("--json: which file?".into())),
                },
                name => match SECTIONS.iter().find(|section| section.name == name) {
                    Some(section) => args.sections.push(section),
                    None => return Err(Answer::Wrong(format!("{name:?}: no such section"))),
                },
            }
        }
        if args.sections.is_empty() {
            args.sections.extend(&SECTIONS);
        }
        Ok(args)
    }
}
