//! For snapshotters that live in the daemon: states and records are the same for all of them, so a
//! new one is a [`Driver`]: directories and mounts.

mod driver;
mod ledger;

pub use driver::{Driver, DriverPlugin, numbers};
pub use ledger::Snapshot;
