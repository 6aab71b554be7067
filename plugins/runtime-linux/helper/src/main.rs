//! capstan-runtime: the embedded OCI runtime, so that a user needs neither runc nor crun.
//!
//! youki's libcontainer behind the commands of runc that capstan-shim uses. It is a program of its own
//! because libcontainer forks in the calling process and changes its state: it wants a process with
//! one thread that ends soon, which neither the daemon nor the shim is. A seccomp profile is applied
//! by libseccomp or the container is not created.

mod args;
mod bundle;
mod cgroup;
mod commands;
mod filter;
mod home;
mod log;
mod userns;
mod workdir;
mod workload;

use std::process::ExitCode;

use crate::args::Args;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("capstan-runtime: {why}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match commands::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::report(args.log.as_deref(), &error);
            ExitCode::FAILURE
        }
    }
}
