//! Collections that nobody asks for, and the audit after a start.

use std::time::Duration;

use capstan_sdk::contract::gc::Collect;
use tracing::warn;

use crate::Config;
use crate::plugin::LocalGc;

/// The first audit waits until the daemon has come up.
const BREATH: Duration = Duration::from_secs(5);

/// Runs for as long as the plugin does.
pub(crate) async fn run(gc: LocalGc, config: Config) {
    if config.audit_at_start {
        tokio::time::sleep(BREATH).await;
        audit(&gc).await;
    }
    if config.interval_seconds == 0 {
        return;
    }
    loop {
        tokio::time::sleep(Duration::from_secs(config.interval_seconds)).await;
        if let Err(error) = gc.collect(Collect { namespace: None, is_dry: false }).await {
            warn!(%error, "garbage was not collected");
        }
    }
}

async fn audit(gc: &LocalGc) {
    match gc.audit(false).await {
        Ok(findings) if findings.is_empty() => {}
        Ok(findings) => warn!(
            findings = findings.len(),
            first = findings[0].what,
            "what is stored is not as it should be; see `capstan system audit`, mend it by `capstan system heal`"
        ),
        Err(error) => warn!(%error, "what is stored could not be audited"),
    }
}
