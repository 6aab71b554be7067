//! How often each message of each plugin was answered, and how.

use std::sync::Arc;

use capstan_sdk::Kernel;
use capstan_sdk::contract::metrics::Sample;

/// What the kernel has counted since the daemon started.
pub(crate) fn measure(kernel: &Arc<dyn Kernel>) -> Vec<Sample> {
    let plugins = kernel.plugins();
    let of_plugin = |plugin: &capstan_sdk::PluginStatus| {
        let id = plugin.id.clone();
        plugin.answers.list().into_iter().map(move |answered| {
            let help = "Messages that plugins answered, by message and outcome.";
            Sample::counter("capstan_calls_handled_total", help, float(answered.count))
                .with("plugin", &id)
                .with("message", answered.message)
                .with("code", answered.outcome)
        })
    };
    plugins.iter().flat_map(of_plugin).collect()
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats; exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
