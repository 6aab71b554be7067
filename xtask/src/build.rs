//! `cargo xtask build`: the binaries, side by side in one directory, as a user installs them.
//!
//! The shim is special: there is one per container, so it is built for size, linked statically and
//! at a fixed address (no relocations, so its pages stay shared), in a target directory of its own
//! because these flags would make everything else be built twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{root, run};

/// The programs beside the shim: package and binary.
const PROGRAMS: [(&str, &str); 3] = [
    ("capstan-daemon", "capstand"),
    ("capstan-runtime", "capstan-runtime"),
    ("capstan-cli", "capstan"),
];

/// The only target that the shim is built for, for now.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the binaries are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For users.
    Release,
    /// For tests: quicker to build, and with plugins that exist to fail.
    Test,
}

/// Builds all binaries; answers the directory that they are in.
pub(crate) fn build(kind: Kind) -> Result<PathBuf> {
    let out = root().join("target").join(match kind {
        Kind::Release => "capstan",
        Kind::Test => "capstan-test",
    });
    fs::create_dir_all(&out)?;
    let mut cargo = cargo();
    cargo.arg("build").env("CAPSTAN_REVISION", revision());
    for (package, _) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    let built = match kind {
        Kind::Release => {
            cargo.arg("--release");
            "target/release"
        }
        Kind::Test => {
            cargo.args(["--features", "capstan-daemon/probe"]);
            "target/debug"
        }
    };
    run(&mut cargo)?;
    for (_, binary) in PROGRAMS {
        install(&root().join(built).join(binary), &out)?;
    }
    install(&shim()?, &out)?;
    Ok(out)
}

/// Cargo, as this was started by it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

fn shim() -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo
        .args(["build", "--package", "capstan-shim", "--profile", "shim", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    run(&mut cargo)?;
    Ok(root().join("target").join(TARGET).join("shim/capstan-shim"))
}

fn install(file: &Path, dir: &Path) -> Result<()> {
    let to = dir.join(file.file_name().context("a binary has a name")?);
    // Not over a program that may be running: a new file in its place.
    let fresh = to.with_extension("new");
    fs::copy(file, &fresh).with_context(|| format!("copy {}", file.display()))?;
    fs::rename(&fresh, &to)?;
    Ok(())
}

/// The commit that is built, with a `+` if there is more than that.
fn revision() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(root()).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
    format!("{commit}{}", if is_clean { "" } else { "+" })
}
