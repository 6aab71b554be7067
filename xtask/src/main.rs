//! capstan's build tool: `cargo xtask TASK`. One file per task.

mod bench;
mod build;
mod ci;
mod command;
mod criu;
mod demo;
mod libraries;
mod machine;
mod new_plugin;
mod packages;
mod python;
mod schema;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;

use crate::build::Kind;
use crate::packages::Set;

const HELP: &str = "\
usage: cargo xtask TASK

  build [--test]     build the binaries into target/capstan (--test: for tests, into target/capstan-test)
  schema [--check]   make schema/src/generated from schema/capnp (--check: fail if it is stale)
  tidy               check what no compiler checks: layout, dependencies between crates, sizes, words
  python             make target/python: a Python with pycapnp, for the tests of a plugin in Python
  criu               make target/criu: a criu that works on this kernel, for the tests of checkpoints
  machine            make target/machine: a kernel for a virtual machine, for the tests of limits
  ci                 the whole gate: format, tidy, schema, clippy, build, all tests
  new-plugin KIND NAME DIR
                     make a crate outside of this workspace, with a plugin that works
  demo               show the binaries at work: pull, run, exec, a daemon that dies and comes back
  bench [ARGS]       measure them beside containerd, runc and crun

Debian packages that a task needs are installed by it, as root; it says which.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match perform(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(args: &[&str]) -> Result<ExitCode> {
    match args {
        ["build"] => build(Kind::Release)?,
        ["build", "--test"] => build(Kind::Test)?,
        ["schema"] => schema::generate()?,
        ["schema", "--check"] => schema::check()?,
        ["tidy"] => tidy::tidy()?,
        ["python"] => python::install()?,
        ["criu"] => criu::install()?,
        ["machine"] => machine::install()?,
        ["ci"] => return ci::ci(),
        ["new-plugin", kind, name, dir] => new_plugin::new_plugin(kind, name, dir.as_ref())?,
        ["demo"] => demo::demo()?,
        ["bench", args @ ..] => bench::bench(args)?,
        ["help" | "-h" | "--help"] => eprint!("{HELP}"),
        _ => {
            eprint!("{HELP}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn build(kind: Kind) -> Result<()> {
    packages::install(Set::Build)?;
    build::build(kind).map(drop)
}
