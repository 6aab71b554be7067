//! `[plugins."transfer.local"]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registry;

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Layers fetched and unpacked at once, over all pulls. Default: 4 (enough to keep two processors
    /// and a network busy; each takes about 2 MiB of memory).
    pub concurrency: u32,
    /// How long a connection may take, in seconds. Default: 10.
    pub connect_timeout_seconds: u64,
    /// How long a registry may send nothing, in seconds. The whole has no limit. Default: 30.
    pub stall_timeout_seconds: u64,
    /// Attempts in a row that bring nothing before a pull fails. Default: 5.
    pub attempts: u32,
    /// Largest manifest or index, in bytes. Default: 4 MiB, which is also what registries take.
    pub max_manifest_bytes: u64,
    /// Plugins that must be asked before an image gets its name, such as `verifier.cosign`: without them nothing is
    /// pulled. All verifiers that there are are asked anyway; this is for those that must not be missed when they are not
    /// there at all. Default: none.
    pub verifiers: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 4,
            connect_timeout_seconds: 10,
            stall_timeout_seconds: 30,
            attempts: 5,
            max_manifest_bytes: 4 << 20,
            verifiers: Vec::new(),
        }
    }
}

impl Config {
    /// The part that the registry client wants.
    pub(crate) fn registry(&self) -> registry::Config {
        registry::Config {
            connect_timeout: Duration::from_secs(self.connect_timeout_seconds),
            stall_timeout: Duration::from_secs(self.stall_timeout_seconds),
            attempts: self.attempts,
            max_manifest_bytes: self.max_manifest_bytes,
            ..registry::Config::default()
        }
    }
}
