//! gc-policy.age: spares what was of use a short while ago, and the most recent of the rest up to a size.
//!
//! It has no state and reads no clock: a verdict follows from the question and the configuration. (The
//! collector that asks comes separately.)
//!
//! Invariant: it is asked about what nothing references, so all that it can do is to delay.

mod age;
mod config;
mod plugin;

pub use config::Config;
pub use plugin::AgePolicy;
