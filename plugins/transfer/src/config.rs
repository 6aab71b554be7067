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
    /// Blobs of one push that are sent at once. Default: 4 (each takes about 1 MiB of memory).
    pub push_concurrency: u32,
    /// The most bytes of a blob that are sent in one request; 0 = all. After a break, a registry that keeps no part of a
    /// request gets only that request again. Default: 64 MiB (many gateways refuse more than 100 MB).
    pub push_chunk_bytes: u64,
    /// Whether layers that must not be passed on are pushed all the same, where they are here. Default: false.
    pub push_foreign_layers: bool,
    /// How much zstd tries for `push --compression zstd`: 1 to 19. Default: 3 (zstd's own).
    pub zstd_level: i32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 4,
            connect_timeout_seconds: 10,
            stall_timeout_seconds: 30,
            attempts: 5,
            max_manifest_bytes: 4 << 20,
            push_concurrency: 4,
            push_chunk_bytes: 64 << 20,
            push_foreign_layers: false,
            zstd_level: 3,
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
