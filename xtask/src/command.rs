//! Commands: cargo's and others', run to their end.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory in it").into()
}

/// Whether this runs on a server, where nobody watches.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// Cargo, as this was started by it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With each call, or what has it in it would be built anew between two of them.
    command.current_dir(root()).env("CAPSTAN_REVISION", revision());
    if is_ci() {
        command
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TERM_PROGRESS_WHEN", "never")
            // rustfmt asks the terminal alone.
            .env("TERM", "dumb")
            .env("NEXTEST_SHOW_PROGRESS", "none")
            // Half-built states are for the next build, and there is none.
            .env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Runs a command to its end, with our output as its own.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// What a command writes to stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", line(command), output.status, errors.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {}", line(command)))
}

/// A command as it is typed.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let words = program.into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The commit that is built, with a `+` if there is more than that.
fn revision() -> String {
    let git = |args: &[&str]| output(Command::new("git").current_dir(root()).args(args)).ok();
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
    format!("{}{}", commit.trim(), if is_clean { "" } else { "+" })
}
