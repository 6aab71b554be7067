//! images.local: names for descriptors, and what stands behind them.
//!
//! A name points at an index or a manifest. That the content behind it is there is for whoever made
//! the name; this plugin looks when it is asked. Whether an image may have a name the verifiers say, whom it asks.

mod config;
mod plugin;
mod record;
mod resolve;
mod update;
mod verify;

pub use config::Config;
pub use plugin::LocalImages;
