//! `cargo xtask bench`: the binaries measured beside their peers, in one run on one machine.

use anyhow::Result;

use crate::build::{Kind, build};
use crate::command::{cargo, run};
use crate::packages::{self, Set};

/// Builds what users get, and measures it. What it measures, and `args`: integration/src/bin/bench.
pub(crate) fn bench(args: &[&str]) -> Result<()> {
    packages::install(Set::Bench)?;
    let programs = build(Kind::Release)?;
    let mut cargo = cargo();
    cargo
        .args(["run", "--release", "--package", "capstan-integration", "--bin", "capstan-bench"])
        .arg("--")
        .args(args)
        .env("CAPSTAN_BIN", programs);
    run(&mut cargo)
}
