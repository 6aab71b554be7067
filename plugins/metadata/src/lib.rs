//! metadata.redb: the one place where names become durable.
//!
//! One thread writes: it folds all commits that wait into one transaction with one sync (group
//! commit) and answers them when that is on disk. Readers look at the newest durable state and wait
//! for nobody. The event log is a table of the same database, so an event and the change that it
//! tells of are one transaction.
//!
//! The file: table `records`, `bucket NUL namespace NUL name -> bytes`; table `events`,
//! `cursor -> event.capnp Event`; table `format`, `"version" -> 1`.
//!
//! Invariant: nothing here knows what a record means.

mod config;
mod key;
mod plugin;
mod read;
mod store;
mod writer;

pub use config::Config;
pub use plugin::RedbMetadata;
