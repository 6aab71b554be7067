//! capstan: the command line. A client of the Cap'n Proto API and nothing else.

mod args;
mod cmd;
mod exit;
mod print;
mod session;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::report(args::parse().run())
}
