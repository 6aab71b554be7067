//! `cargo xtask demo`: the binaries at work, for somebody who sees them for the first time.

use anyhow::Result;

use crate::build::{Kind, build, release};
use crate::command::run;
use crate::packages::{self, Set};

/// Builds what users get, and shows it. What it shows: integration/src/bin/demo.rs.
pub(crate) fn demo() -> Result<()> {
    packages::install(Set::Demo)?;
    let programs = build(Kind::Release)?;
    let mut cargo = release();
    cargo
        .args(["run", "--release", "--package", "capstan-integration", "--bin", "capstan-demo"])
        .env("CAPSTAN_BIN", programs);
    run(&mut cargo)
}
