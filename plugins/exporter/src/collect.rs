//! What all plugins of kind `metrics` say, and what the kernel counts of every plugin.

use std::time::Duration;

use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::{Collect, Sample, plugin_counts};
use capstan_sdk::{Context, Error, PluginState, PluginStatus, Result};
use futures::future;
use tracing::warn;

/// How long one plugin may take: below the ten seconds after which Prometheus gives up.
const DEADLINE: Duration = Duration::from_secs(8);

/// Who does not answer is left out, with a line in the log.
pub(crate) async fn all(context: &Context) -> Vec<Sample> {
    let plugins = match context.kernel() {
        Ok(kernel) => kernel.plugins(),
        Err(error) => {
            warn!(%error, "no metrics");
            return Vec::new();
        }
    };
    let mut samples: Vec<Sample> = plugins.iter().flat_map(of_kernel).collect();
    let running = plugins.iter().filter(|plugin| plugin.state == PluginState::Running);
    let names = running.filter_map(|plugin| plugin.id.strip_prefix("metrics."));
    let found = names.map(|name| async move {
        let answer = tokio::time::timeout(DEADLINE, of_plugin(context, name)).await;
        answer
            .unwrap_or_else(|_| Err(Error::unavailable(format!("no answer within {DEADLINE:?}"))))
            .unwrap_or_else(|error| {
                warn!(plugin = format!("metrics.{name}"), %error, "no metrics");
                Vec::new()
            })
    });
    samples.extend(future::join_all(found).await.into_iter().flatten());
    samples
}

async fn of_plugin(context: &Context, name: &str) -> Result<Vec<Sample>> {
    let samples = context.link_named::<Metrics>(name)?.send(Collect).await?;
    samples.iter().try_for_each(Sample::check)?;
    Ok(samples)
}

fn of_kernel(plugin: &PluginStatus) -> [Sample; 3] {
    plugin_counts(&plugin.id, plugin.calls, plugin.failures, plugin.restarts)
}
