//! events.log: what happened, for readers with cursors.
//!
//! The log itself is in the metadata plugin, in the same transactions as the changes that it tells of.
//! This plugin filters it for readers and keeps it from growing for ever.

mod config;
mod plugin;

pub use config::Config;
pub use plugin::EventLog;
