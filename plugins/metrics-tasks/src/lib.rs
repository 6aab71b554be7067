//! metrics.tasks: what containers take, by what their runtimes measure.
//!
//! It keeps no list of tasks: when somebody asks, the runtimes are asked. So tasks of an earlier daemon are
//! there, tasks that were deleted are not, and nothing is read in between.

mod collect;
mod plugin;

pub use plugin::TaskMetrics;
