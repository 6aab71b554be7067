//! Settings of the client.

use std::time::Duration;

/// What a user may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The longest that name resolution and connecting take together.
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
        }
    }
}
