//! Many idle containers.

use crate::daemon::Daemon;

/// Starts so many that sleep.
pub(crate) fn start(
    daemon: &Daemon,
    runtime: &str,
    image: &str,
    count: usize,
) -> Result<Vec<String>, String> {
    let ids = (0..count).map(|_| daemon.detach(runtime, image)).collect::<Result<Vec<_>, _>>()?;
    let running = daemon.running()?;
    if running != count {
        return Err(format!("{running} of {count} tasks are listed as running"));
    }
    Ok(ids)
}
