//! `cargo xtask build`: the binaries, side by side in one directory, as a user installs them.
//!
//! Two are special, and linked statically, at a fixed address, in a target directory of their own because
//! these flags would make everything else be built twice. Of the shim there is one per container, so it
//! is built for size too (without relocations its pages stay shared). The embedded runtime is a process
//! for each step of a container, and a third of what starting one takes is the dynamic linker's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{cargo, root, run};
use crate::libraries;

/// The programs beside the shim and the runtime: package and binary.
const PROGRAMS: [(&str, &str); 2] = [("capstan-daemon", "capstand"), ("capstan-cli", "capstan")];

/// Linked statically, at a fixed address.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Names of functions with the types that they are made for: what kernel/daemon/layout.ld puts side by side is told
/// apart by them. They are in no program that a user gets.
const NAMES: &str = "-C symbol-mangling-version=v0";

/// The only target that these two are built for, for now.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What is chosen of the workspace for tests, everywhere: with another choice of packages or features
/// cargo builds the dependencies again.
pub(crate) const FOR_TESTS: [&str; 3] =
    ["--workspace", "--features", "capstan-daemon/probe,capstan-shim/probe"];

/// A small test to be built with the programs: where there is a test, what only tests depend on counts
/// for the features of all, as it does when they are run.
const ANY_TEST: &str = "conformance";

/// Somebody else's plugins, for tests: directory, library, and program if it has one.
const THIRD_PARTY: [(&str, &str, Option<&str>); 2] = [
    ("integration/third-party/reflink", "libsnapshotter_reflink.so", Some("snapshotter-reflink")),
    ("integration/third-party/misbehaved", "libmetrics_misbehaved.so", None),
];

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
    let mut cargo = match kind {
        Kind::Release => release(),
        Kind::Test => cargo(),
    };
    cargo.arg("build");
    let built = match kind {
        Kind::Release => {
            cargo.arg("--release");
            for (package, _) in PROGRAMS {
                cargo.args(["--package", package]);
            }
            "target/release"
        }
        Kind::Test => {
            cargo.args(FOR_TESTS).args(["--test", ANY_TEST]);
            for (_, binary) in PROGRAMS {
                cargo.args(["--bin", binary]);
            }
            libraries::select(&mut cargo, libraries::ALL);
            "target/debug"
        }
    };
    run(&mut cargo)?;
    for (_, binary) in PROGRAMS {
        install(&root().join(built).join(binary), &out)?;
    }
    install(&shim(kind)?, &out)?;
    install(&runtime(kind)?, &out)?;
    if kind == Kind::Test {
        third_party(&out)?;
        libraries::install(libraries::ALL, &root().join(built), &out)?;
    }
    Ok(out)
}

/// Cargo, for programs as users get them. All calls for them have the same flags, or cargo builds everything twice.
pub(crate) fn release() -> Command {
    let mut cargo = cargo();
    cargo.env("RUSTFLAGS", NAMES);
    cargo
}

/// Plugins that are crates on their own. They share a target directory, with what tests build there.
fn third_party(out: &Path) -> Result<()> {
    let target = root().join("target/third-party");
    for (dir, library, program) in THIRD_PARTY {
        let mut cargo = cargo();
        cargo
            .current_dir(root().join(dir))
            .args(["build", "--locked", "--lib", "--bins", "--examples", "--target-dir"])
            .arg(&target);
        run(&mut cargo)?;
        for file in [Some(library), program].into_iter().flatten() {
            install(&target.join("debug").join(file), out)?;
        }
    }
    Ok(())
}

fn shim(kind: Kind) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo
        .args(["build", "--package", "capstan-shim", "--profile", "shim", "--target", TARGET])
        .env("RUSTFLAGS", STATIC);
    if kind == Kind::Test {
        cargo.args(["--features", "probe"]);
    }
    run(&mut cargo)?;
    Ok(root().join("target").join(TARGET).join("shim/capstan-shim"))
}

fn runtime(kind: Kind) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo
        .args(["build", "--package", "capstan-runtime", "--target", TARGET])
        .env("RUSTFLAGS", STATIC)
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", seccomp_dir()?);
    let profile = match kind {
        Kind::Release => {
            cargo.arg("--release");
            "release"
        }
        Kind::Test => "debug",
    };
    run(&mut cargo)?;
    Ok(root().join("target").join(TARGET).join(profile).join("capstan-runtime"))
}

/// Where the static libseccomp is: with the linker's other libraries.
fn seccomp_dir() -> Result<PathBuf> {
    let output = Command::new("gcc").arg("-print-file-name=libseccomp.a").output()?;
    let file = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let dir = file.parent().filter(|dir| dir.is_absolute());
    let dir =
        dir.context("libseccomp.a is not installed: install the Debian package libseccomp-dev")?;
    Ok(dir.to_owned())
}

pub(crate) fn install(file: &Path, dir: &Path) -> Result<()> {
    let to = dir.join(file.file_name().context("a binary has a name")?);
    // Not over a program that may be running: a new file in its place.
    let fresh = to.with_extension("new");
    fs::copy(file, &fresh).with_context(|| format!("copy {}", file.display()))?;
    fs::rename(&fresh, &to)?;
    Ok(())
}
