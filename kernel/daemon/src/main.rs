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
    let outcome = match args::parse() {
        Ok(None) => return capstan_kernel::loader::host(),
        Ok(Some(action)) => daemon::dispatch(action),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capstand: {error}");
            ExitCode::FAILURE
        }
    }
}
