//! `[plugins."gc-policy.age"]`.

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What was of use within so many seconds is kept. Default: 0 (what nothing references goes at once).
    pub keep_seconds: u64,
    /// Of what is older, the most recently used is kept up to so many bytes. Default: 0 (nothing).
    pub keep_bytes: u64,
}
