//! For snapshotters that live in the daemon: states and records are the same for all of them, so a
//! new one is a [`Driver`]: directories and mounts.

mod driver;
mod graph;
mod ledger;
mod projects;
mod record;

pub use driver::{Driver, DriverPlugin, numbers, strays};
pub use ledger::Snapshot;
pub use projects::{Marks, Projects};
