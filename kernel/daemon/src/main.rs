//! capstand: the daemon. The only place where the kernel and the built-in plugins meet.

mod args;
mod builtins;
mod daemon;
mod lock;
mod log;
mod notify;
#[cfg(feature = "probe")]
mod probe;

use std::process::ExitCode;

fn main() -> ExitCode {
    match args::parse().and_then(daemon::dispatch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capstand: {error}");
            ExitCode::FAILURE
        }
    }
}
