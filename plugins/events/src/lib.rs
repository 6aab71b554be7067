//! events.log: what happened, for readers with cursors. delivery.log: takes it to every sink.
//!
//! The log itself is in the metadata plugin, in the same transactions as the changes that it tells of.
//! events.log filters it for readers and keeps it from growing for ever. delivery.log is such a reader,
//! one per sink: its cursor is a record, so that a sink gets each event at least once.

mod config;
mod delivery;
mod plugin;
mod record;

pub use config::Config;
pub use delivery::LogDelivery;
pub use plugin::EventLog;
