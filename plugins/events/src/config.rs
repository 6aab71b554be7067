//! `[plugins."events.log"]`.

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Events that are kept; older ones are trimmed, and a reader that comes too late is told how
    /// many it missed. Default: 100,000 (about 20 MB on disk, hours of a busy host).
    pub keep: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { keep: 100_000 }
    }
}
