//! metrics.misbehaved: does what a plugin must not do, when it is told to.
//!
//! As long as it is told nothing it has one gauge. What it does it does when it is made, or when somebody collects.

mod config;
mod plugin;

pub use config::{Config, What};
pub use plugin::Misbehaved;
