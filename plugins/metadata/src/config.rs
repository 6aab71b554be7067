//! `[plugins."metadata.redb"]`.

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Memory for pages of the database, in MiB. Default: 4 (50,000 records of a typical host; more
    /// only helps when the file is larger, and the system's page cache holds it anyway).
    pub cache_mib: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { cache_mib: 4 }
    }
}
