//! Settings of the client.

use std::path::PathBuf;
use std::time::Duration;

use super::proxy::Proxies;

/// What a user may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The longest that name resolution, connecting and the TLS handshake take together.
    ///
    /// Default: 10 s (several lost packets on a slow way).
    pub(crate) connect_timeout: Duration,
    /// The longest without a byte from the registry. How long all of it takes is not limited.
    ///
    /// Default: 30 s (a registry that fetches from behind itself first).
    pub(crate) stall_timeout: Duration,
    /// How often one thing is tried in a row without a byte of progress; at least 1.
    ///
    /// Default: 5.
    pub(crate) attempts: u32,
    /// The wait before the second attempt. It doubles each time; chance takes up to half of it
    /// away, so that many clients do not come back as one.
    ///
    /// Default: 100 ms.
    pub(crate) first_wait: Duration,
    /// The longest wait. A registry that asks for a longer one (`Retry-After`) is not tried again.
    ///
    /// Default: 5 s.
    pub(crate) max_wait: Duration,
    /// The largest manifest or index.
    ///
    /// Default: 4 MiB (what registries take; typical is 2 KiB).
    pub(crate) max_manifest_bytes: u64,
    /// How often one request is redirected.
    ///
    /// Default: 5.
    pub(crate) max_redirects: u32,
    /// Whether layers that a registry must not pass on are fetched from where their manifest says that they are.
    ///
    /// Default: no.
    pub(crate) follows_foreign_layers: bool,
    /// How many connections to one host are used at the same time, by all that goes on; at least 1.
    ///
    /// Default: 32.
    pub(crate) max_connections_per_host: usize,
    /// From how many bytes on a blob is fetched in several ranges at once.
    ///
    /// Default: 64 MiB.
    pub(crate) range_threshold_bytes: u64,
    /// How many ranges of one blob are fetched at once; 1 = blobs come in one stream.
    ///
    /// Default: 4.
    pub(crate) range_connections: usize,
    /// How long a range is.
    ///
    /// Default: 8 MiB.
    pub(crate) range_bytes: u64,
    /// Where the settings of hosts are, a directory for each.
    ///
    /// Default: `/etc/capstan/certs.d`; it may be missing.
    pub(crate) hosts_dir: PathBuf,
    /// What the daemon itself tells registries.
    ///
    /// Default: `/etc/capstan/auth.json`; it may be missing.
    pub(crate) credentials_file: PathBuf,
    /// Through whom hosts are reached.
    ///
    /// Default: nobody.
    pub(crate) proxies: Proxies,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            first_wait: Duration::from_millis(100),
            max_wait: Duration::from_secs(5),
            max_manifest_bytes: 4 << 20,
            max_redirects: 5,
            follows_foreign_layers: false,
            max_connections_per_host: 32,
            range_threshold_bytes: 64 << 20,
            range_connections: 4,
            range_bytes: 8 << 20,
            hosts_dir: "/etc/capstan/certs.d".into(),
            credentials_file: "/etc/capstan/auth.json".into(),
            proxies: Proxies::default(),
        }
    }
}
