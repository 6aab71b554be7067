//! `[plugins."metadata.redb"]`.

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Memory for pages of the database, in MiB. Default: 4 (50,000 records of a typical host; more
    /// only helps when the file is larger, and the system's page cache holds it anyway).
    pub cache_mib: u32,
    /// Disk space that is held back for the time when there is none left, in MiB: it is given up then, so that removals,
    /// stops and events are still written. While less than this is free, nothing new is taken in. 0 = none. Default: 8.
    pub reserve_mib: u32,
    /// For tests: how long each sync of the database takes at least, in ms.
    #[cfg(feature = "probe")]
    pub sync_delay_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_mib: 4,
            reserve_mib: 8,
            #[cfg(feature = "probe")]
            sync_delay_ms: 0,
        }
    }
}
