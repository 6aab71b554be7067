//! capstan-shim: the process behind one task.
//!
//! It is the parent of the container, so it sees how that ends, and it survives the daemon. It mounts
//! the root filesystem in a mount namespace of its own, which goes with it; asks an OCI runtime to
//! create the container; keeps the container's streams open; writes down what happens before it tells
//! anybody; and speaks Cap'n Proto (shim.capnp) on a socket in the task's directory.
//!
//! The daemon starts it with the task's directory as working directory and a connected socket as
//! stdin. It ends when its task is deleted, or when that connection breaks before there is a task.
//!
//! It never links a container library, and never follows a path that a container could have changed.

mod attach;
mod cgroup;
mod checkpoint;
mod control;
mod create;
mod exec;
mod failpoint;
mod hub;
mod idmap;
mod log;
mod nonblocking;
mod process;
mod reap;
mod record;
mod runtime;
mod server;
mod setup;
mod stdio;
mod sys;
mod task;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    match setup::prepare().and_then(control::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capstan-shim: {error}");
            ExitCode::FAILURE
        }
    }
}
