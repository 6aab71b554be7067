//! `cargo xtask ci`: the whole gate, the same at home and on a server.
//!
//! The steps go from the quick to the slow and stop at the first that fails. The tests are the last,
//! and what their runner says last is the last that is said.

use std::fs::{self, File};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::build::{FOR_TESTS, Kind, build};
use crate::command::{cargo, is_ci, root, run};
use crate::packages::{self, Set};
use crate::{criu, machine, python, schema, tidy};

type Step = fn() -> Result<()>;

/// All before the tests.
const STEPS: [(&str, Step); 10] = [
    ("packages", || packages::install(Set::Ci)),
    ("python", python::install),
    ("criu", criu::try_install),
    ("machine", machine::try_install),
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

/// A daemon that is built without its optional plugins has none of them, and has the others: in what it prints, and
/// when it runs. The command line is that of the tests.
fn without_btrfs() -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "capstan-daemon", "--no-default-features"]);
    run(&mut build)?;
    let target = root().join("target");
    let (daemon, client) = (target.join("debug/capstand"), target.join("capstan-test/capstan"));
    let place = target.join("without-btrfs");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir(&place)?;
    let said = |command: &mut Command| -> Result<String> {
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let check = |text: &str| {
        ensure!(!text.contains("btrfs"), "a daemon without btrfs knows of it:\n{text}");
        ensure!(text.contains("metadata.redb"), "a daemon without btrfs lacks more:\n{text}");
        Ok(())
    };
    check(&said(Command::new(&daemon).args(["config", "default"]))?)?;

    let config = place.join("config.toml");
    let address = format!("unix://{}", place.join("socket").display());
    let dirs = format!(
        "root = {:?}\nstate = {:?}\naddress = {address:?}\n",
        place.join("root"),
        place.join("state")
    );
    let start = |more: &str| -> Result<Child> {
        fs::write(&config, format!("{dirs}{more}"))?;
        let log = File::create(place.join("log"))?;
        let mut command = Command::new(&daemon);
        command.arg("--config").arg(&config).stdout(Stdio::null()).stderr(log);
        command.spawn().context("start the daemon")
    };
    let log = || fs::read_to_string(place.join("log")).unwrap_or_default();
    let mut running = start("")?;
    let ask = || Command::new(&client).args(["--address", &address, "plugins", "ls"]).output();
    let begin = Instant::now();
    let list = loop {
        let output = ask()?;
        if output.status.success() {
            break Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        if begin.elapsed() > Duration::from_secs(20) || running.try_wait()?.is_some() {
            break Err(anyhow!("a daemon without btrfs does not answer:\n{}", log()));
        }
        thread::sleep(Duration::from_millis(50));
    };
    running.kill()?;
    running.wait()?;
    check(&list?)?;
    let mut refusing = start("[plugins.\"snapshotter.btrfs\"]\nroot = \"/\"\n")?;
    let begin = Instant::now();
    while refusing.try_wait()?.is_none() && begin.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
    }
    refusing.kill()?;
    ensure!(!refusing.wait()?.success(), "a section of a plugin that is not there is taken");
    ensure!(log().contains("snapshotter.btrfs"), "the reason is not said:\n{}", log());
    fs::remove_dir_all(&place)?;
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
