//! `[plugins."gc.local"]`.

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A collection follows so many seconds after the last one; 0 = none by the clock. Default: 0, so that
    /// nothing goes that nobody asked for: `capstan gc` collects.
    pub interval_seconds: u64,
    /// A collection follows after so many images, containers and leases were removed; 0 = none. Default: 0.
    pub after_removals: u64,
    /// A collection follows when the file system of the root directory has less free space than so many percent; 0 =
    /// none. It is looked at every ten seconds. Default: 0.
    pub below_free_percent: u64,
    /// Whether a fast audit runs in the background after each start, and logs what it finds. Default: true.
    pub audit_at_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval_seconds: 0, after_removals: 0, below_free_percent: 0, audit_at_start: true }
    }
}
