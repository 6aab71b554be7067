//! metrics: what a plugin counts and measures.
//!
//! It is collected only when somebody asks: a provider has no timer, and costs nothing in between.

pub use capstan_schema::sample::{Kind, Sample, by_name, exposition, keep_first, plugin_counts};

/// Measures now. No two samples have the same name and labels, and each passes [`Sample::check`].
///
/// It may be sent as often as one likes, and changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Collect;

crate::contract! {
    /// The contract of kind `metrics`.
    Metrics ("metrics") as MetricsAddr {
        collect: Collect => Vec<Sample> [again],
    }
}
