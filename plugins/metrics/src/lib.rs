//! metrics.process: what the process takes that it runs in: memory, descriptors, threads, processor time.
//!
//! All is read from /proc/self when somebody asks, and nothing is in between.

mod plugin;
mod process;

pub use plugin::ProcessMetrics;
