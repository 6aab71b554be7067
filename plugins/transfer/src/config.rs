//! `[plugins."transfer.local"]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registry;

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Layers fetched and unpacked at once, over all pulls; of those up to 1 MiB four times as many are fetched. Default: 8
    /// (enough to keep processors and a network that is far away busy; each takes up to 6 MiB of memory).
    pub concurrency: u32,
    /// How long a connection may take, in seconds. Default: 10.
    pub connect_timeout_seconds: u64,
    /// How long a registry may send nothing, in seconds. The whole has no limit. Default: 30.
    pub stall_timeout_seconds: u64,
    /// Attempts in a row that bring nothing before a pull fails. Default: 5.
    pub attempts: u32,
    /// Largest manifest or index, in bytes. Default: 4 MiB, which is also what registries take.
    pub max_manifest_bytes: u64,
    /// Whether layers that a registry must not pass on, such as those of old Windows images, are fetched from the URLs in
    /// the image's manifest. Whoever made the image chose these hosts; they get no credentials. Default: false, which
    /// refuses an image of which the registry lacks such a layer.
    pub foreign_layers: bool,
    /// Connections to one host that are used at the same time, over all pulls and pushes. Default: 32.
    pub max_connections_per_host: u32,
    /// From how many bytes on a blob is fetched in several ranges at once, which many registries serve faster than one stream.
    /// Default: 64 MiB.
    pub range_threshold_bytes: u64,
    /// How many ranges of one blob are fetched at once; each takes 8 MiB of memory, and over all blobs there are no more than
    /// twice as many. 1 = blobs come in one stream. Default: 4.
    pub range_connections: u32,
    /// Settings of registries: `<hosts_dir>/<host[:port]>/hosts.toml` (or `_default`) in containerd's form, with mirrors,
    /// roots (`ca`), client certificates (`client`), `skip_verify`, `override_path` and headers; or, in docker's form,
    /// `*.crt` and `*.cert` with `*.key` in that directory. They are read at each use. Default: `/etc/capstan/certs.d`.
    pub hosts_dir: PathBuf,
    /// What the daemon tells registries for clients that know no credentials: docker's `config.json` with `auths`. Nobody
    /// but its owner may read it. Default: `/etc/capstan/auth.json`.
    pub credentials_file: PathBuf,
    /// `http[s]://[user:password@]host[:port]`: the proxy for all registries but those on this machine and those that the
    /// variable `NO_PROXY` of the daemon names. The root of one that is reached by https is set as that of a registry, in
    /// `hosts_dir`. A dump of the settings shows it: what is secret belongs into the
    /// variables. Default: empty, which means the daemon's variables `HTTPS_PROXY` and `HTTP_PROXY`.
    pub proxy: String,
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
            concurrency: 8,
            connect_timeout_seconds: 10,
            stall_timeout_seconds: 30,
            attempts: 5,
            max_manifest_bytes: 4 << 20,
            foreign_layers: false,
            max_connections_per_host: 32,
            range_threshold_bytes: 64 << 20,
            range_connections: 4,
            hosts_dir: "/etc/capstan/certs.d".into(),
            credentials_file: "/etc/capstan/auth.json".into(),
            proxy: String::new(),
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
            follows_foreign_layers: self.foreign_layers,
            max_connections_per_host: usize::try_from(self.max_connections_per_host).unwrap_or(1),
            range_threshold_bytes: self.range_threshold_bytes,
            range_connections: usize::try_from(self.range_connections).unwrap_or(1),
            hosts_dir: self.hosts_dir.clone(),
            credentials_file: self.credentials_file.clone(),
            proxies: registry::Proxies::new(&self.proxy, |name| std::env::var(name).ok()),
            ..registry::Config::default()
        }
    }
}
