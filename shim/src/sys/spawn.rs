//! Commands that end with the shim.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Has a command killed when the shim ends, however that is. Its own children are not.
#[expect(
    unsafe_code,
    reason = "only the child itself can ask for it, before it becomes the command"
)]
pub(crate) fn end_with_us(command: &mut Command) {
    let ask = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: between fork and exec it makes one system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}
