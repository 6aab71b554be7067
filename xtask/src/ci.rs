//! `cargo xtask ci`: the whole gate, the same at home and on a server.
//!
//! The steps go from the quick to the slow and stop at the first that fails. The tests are the last,
//! and what their runner says last is the last that is said.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::build::{FOR_TESTS, Kind, build};
use crate::command::{cargo, is_ci, root, run};
use crate::packages::{self, Set};
use crate::{criu, python, schema, tidy};

type Step = fn() -> Result<()>;

/// All before the tests.
const STEPS: [(&str, Step); 9] = [
    ("packages", || packages::install(Set::Ci)),
    ("python", python::install),
    ("criu", criu::try_install),
    ("format", || run(cargo().args(["fmt", "--all", "--check"]))),
    ("tidy", tidy::tidy),
    ("schema", schema::check),
    ("clippy", clippy),
    ("build", || build(Kind::Test).map(drop)),
    ("without btrfs", without_btrfs),
];

/// Runs all steps. Fails by its exit code alone where the tests do: they have said why.
pub(crate) fn ci() -> Result<ExitCode> {
    let begin = Instant::now();
    for (name, step) in STEPS {
        eprintln!("ci: {name}");
        let begin = Instant::now();
        if let Err(error) = step() {
            say_free_space();
            return Err(error).with_context(|| format!("ci: {name} ({})", seconds(begin)));
        }
        eprintln!("ci: {name}: {}", seconds(begin));
    }
    say_free_space();
    eprintln!("ci: test, after {}", seconds(begin));
    test()
}

fn clippy() -> Result<()> {
    let mut cargo = cargo();
    cargo.arg("clippy").args(FOR_TESTS).args(["--all-targets", "--", "-D", "warnings"]);
    run(&mut cargo)
}

/// A daemon that is built without its optional plugins has none of them, and has the others.
fn without_btrfs() -> Result<()> {
    let mut daemon = cargo();
    daemon
        .args(["run", "--quiet", "--package", "capstan-daemon", "--no-default-features"])
        .args(["--", "config", "default"]);
    let output = daemon.stderr(Stdio::inherit()).output().context("run the daemon")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "`capstand config default` without btrfs: {}", output.status);
    ensure!(!text.contains("btrfs"), "a daemon without btrfs knows of it:\n{text}");
    ensure!(text.contains("metadata.redb"), "a daemon without btrfs lacks more:\n{text}");
    Ok(())
}

/// Unit tests and those against the real binaries.
fn test() -> Result<ExitCode> {
    let mut nextest = cargo();
    nextest.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    let has_nextest = nextest.status().is_ok_and(|status| status.success());
    let mut tests = cargo();
    if has_nextest {
        tests.args(["nextest", "run"]).args(FOR_TESTS);
    } else {
        eprintln!("ci: there is no cargo-nextest, so this is `cargo test`: slower, else the same");
        tests.arg("test").args(FOR_TESTS).arg("--no-fail-fast");
    }
    if is_ci() {
        tests.env("RUST_BACKTRACE", "1");
    }
    let status = tests.status().context("run the tests")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A full disk explains much, and on a server nobody can look later.
fn say_free_space() {
    let mut df = Command::new("df");
    df.args(["--human-readable", "--output=avail,target"]).arg(root()).arg(std::env::temp_dir());
    // Nothing depends on it.
    let _ = df.stdout(std::io::stderr()).status();
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}
