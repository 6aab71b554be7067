//! What needs `unsafe`: one file per family of system calls, with safe wrappers.

pub(crate) mod idmap;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod watch;
