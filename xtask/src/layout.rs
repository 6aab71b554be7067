//! `cargo xtask layout`: what the linker is told of the daemon's functions, made from what the daemon does.
//!
//! How, and why: integration/src/bin/layout. It is checked in, because building a program should not need to run it, and because
//! two who build the same should get the same.

use std::fs;

use anyhow::{Context as _, Result};

use crate::build::{Kind, build, install, release};
use crate::command::{cargo, root, run};
use crate::packages::{self, Set};

/// What the daemon's build script gives to the linker.
const SCRIPT: &str = "kernel/daemon/layout.ld";

/// Makes it anew.
pub(crate) fn layout() -> Result<()> {
    packages::install(Set::Ci)?;
    let programs = build(Kind::Release)?;
    let out = root().join("target/capstan-layout");
    fs::create_dir_all(&out)?;
    for entry in fs::read_dir(&programs).with_context(|| format!("read {}", programs.display()))? {
        let path = entry?.path();
        if path.is_file() {
            install(&path, &out)?;
        }
    }
    // The same daemon once more, with the names of its functions.
    let mut named = release();
    named.args(["rustc", "--release", "--package", "capstan-daemon", "--bin", "capstand"]);
    run(named.args(["--", "-C", "strip=none"]))?;
    install(&root().join("target/release/capstand"), &out)?;
    let mut look = cargo();
    look.args(["run", "--package", "capstan-integration", "--bin", "capstan-layout", "--"]);
    run(look.arg(root().join(SCRIPT)).env("CAPSTAN_BIN", out))
}
