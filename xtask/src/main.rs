//! capstan's build tool: `cargo xtask TASK`. One file per task.

mod build;
mod schema;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

const HELP: &str = "\
usage: cargo xtask TASK

  build              build the binaries into target/capstan
  schema [--check]   make schema/src/generated from schema/capnp (--check: fail if it is stale)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["build"] => build::build(build::Kind::Release).map(drop),
        ["build", "--test"] => build::build(build::Kind::Test).map(drop),
        ["schema"] => schema::generate(),
        ["schema", "--check"] => schema::check(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory in it").into()
}

/// Runs a command to its end, with our output as its own.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        bail!("{} {}: {status}", command.get_program().to_string_lossy(), args.join(" "));
    }
    Ok(())
}
