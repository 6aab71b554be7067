//! capstan's build tool: `cargo xtask TASK`. One file per task.

mod bench;
mod build;
mod ci;
mod command;
mod criu;
mod demo;
mod layout;
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

const HELP: &str = include_str!("help.txt");

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
        ["layout"] => layout::layout()?,
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
