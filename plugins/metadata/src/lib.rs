//! metadata.redb: the one place where names become durable.
//!
//! One thread writes: it folds all commits that wait into one transaction with one sync (group
//! commit) and answers them when that is on disk. Readers look at the newest durable state and wait
//! for nobody. The event log is a table of the same database, so an event and the change that it
//! tells of are one transaction.
//!
//! The file: table `records`, `bucket NUL namespace NUL name -> bytes`; table `events`,
//! `cursor -> event.capnp Event`, each value with a checksum behind it; table `format`, `"version" -> 2` and
//! `"sequence" ->` the number of the newest transaction.
//!
//! Beside it, `metadata.journal` is a second copy: a state, and every transaction since. A file that is damaged is set
//! aside and rebuilt from the other one, at start, or after an end of the plugin that damage brought about.
//! `metadata.reserve` is space that is given up when there is none left; `metadata.redb.unsynced` says that a sync failed,
//! and that what the page cache shows need not be on the disk.
//!
//! Invariant: nothing here knows what a record means.

mod audit;
mod change;
mod config;
mod entry;
mod file;
mod journal;
mod key;
mod plugin;
#[cfg(feature = "probe")]
pub mod probe;
mod read;
mod rebuild;
mod report;
mod reserve;
mod salvage;
mod seal;
mod shared;
mod store;
mod writer;

pub use config::Config;
pub use plugin::RedbMetadata;
