//! `cargo xtask bench`: the binaries measured beside their peers, in one run on one machine; and what the boundary
//! of a plugin costs, which has no peer.

use anyhow::Result;

use crate::build::{Kind, build, release};
use crate::command::{root, run};
use crate::libraries::{self, Library};
use crate::packages::{self, Set};

/// The section that is a program of its own: it is linked with the kernel, and the others see clients alone.
const BOUNDARY: &str = "boundary";

/// The plugins that it measures.
const MEASURED: &[Library] = &[
    ("content_local", "content.local"),
    ("gc_policy_age", "gc-policy.age"),
    ("snapshotter_native", "snapshotter.native"),
];

/// Builds what users get, and measures it. What it measures, and `args`: integration/src/bin/bench.
pub(crate) fn bench(args: &[&str]) -> Result<()> {
    let others: Vec<&str> = args.iter().copied().filter(|arg| *arg != BOUNDARY).collect();
    let is_named = others.len() < args.len();
    if !is_named || names_section(&others) {
        peers(&others)?;
    }
    let asks = args.iter().any(|arg| ["-h", "--help"].contains(arg));
    if is_named || !asks && !names_section(&others) { boundary() } else { Ok(()) }
}

/// Whether there is a word that is no option, and not the value of one.
fn names_section(args: &[&str]) -> bool {
    let before = std::iter::once("").chain(args.iter().copied());
    before.zip(args).any(|(before, arg)| before != "--json" && !arg.starts_with('-'))
}

fn peers(args: &[&str]) -> Result<()> {
    packages::install(Set::Bench)?;
    let programs = build(Kind::Release)?;
    let mut cargo = release();
    cargo
        .args(["run", "--release", "--package", "capstan-integration", "--bin", "capstan-bench"])
        .arg("--")
        .args(args)
        .env("CAPSTAN_BIN", programs);
    run(&mut cargo)
}

fn boundary() -> Result<()> {
    let out = root().join("target/capstan-bench");
    let mut build = release();
    build.args(["build", "--release", "--package", "capstan-daemon"]);
    libraries::select(&mut build, MEASURED);
    run(&mut build)?;
    libraries::install(MEASURED, &root().join("target/release"), &out)?;
    let mut bench = release();
    bench.args(["bench", "--package", "capstan-daemon", "--bench", BOUNDARY]);
    run(bench.env("CAPSTAN_BIN", out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_no_option() {
        assert!(!names_section(&[]));
        assert!(!names_section(&["--quick", "--json", "file"]));
        assert!(names_section(&["--json", "file", "run"]));
        assert!(names_section(&["pull", "--quick"]));
    }
}
