//! `[plugins."differ.tar"]`: how much a layer may take.

use capstan_sdk::{Class, Error, Result};
use serde::{Deserialize, Serialize};

/// The section. A layer that trips a limit is refused with `ResourceExhausted`, and the error
/// names the limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes that one layer may unpack to: of its archive, and of its files with their holes.
    /// Default: 64 GiB (several times the largest images in use).
    pub max_bytes: u64,
    /// Entries of one layer's archive, and directories that it makes without an entry.
    /// Default: 10,000,000 (a file system's inodes run out before; images have 100,000).
    pub max_entries: u64,
    /// Components of one path. Default: 256 (deep trees of real images have 30).
    pub max_depth: usize,
    /// Bytes that come out for one byte of the compressed layer; looked at above 64 MiB.
    /// Default: 1100 (gzip cannot exceed 1032; a zstd layer that does is mostly zeros).
    pub max_ratio: u64,
    /// Bytes of one path, or of a link's target. Default: 4095 (the kernel's `PATH_MAX`, less its NUL).
    pub max_path_bytes: usize,
    /// Bytes of the names that are kept in memory until the layer ends or its parents are there: of
    /// deleted files, of directories without an entry, of links to files of the parents.
    /// Default: 64 MiB (half a million names; usual layers have a few).
    pub max_pending_bytes: usize,
    /// Bytes of the window of a zstd layer: so much is kept in memory to inflate it. Between 1 KiB
    /// and 2 GiB; taken down to a power of two. Default: 128 MiB (zstd's own limit).
    pub max_window_bytes: u64,
    /// Whether layers may have devices; if not, one that does is refused with `PermissionDenied`.
    /// Default: true (a container's devices are those of its cgroup, whatever nodes there are).
    pub allow_devices: bool,
    /// Whether layers may have files that run as their owner or with capabilities (setuid, setgid,
    /// `security.capability`); if not, one that does is refused with `PermissionDenied`. Default:
    /// true (Debian's base image has a dozen).
    pub allow_setuid: bool,
}

impl Config {
    /// # Errors
    /// `InvalidArgument`: a value that is out of its range.
    pub(crate) fn check(&self) -> Result<()> {
        if !(1 << 10..=1 << 31).contains(&self.max_window_bytes) {
            return Err(Error::invalid(format!(
                "[plugins.\"differ.tar\"] max_window_bytes = {}: want 1024 to 2147483648",
                self.max_window_bytes
            )));
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 30,
            max_entries: 10_000_000,
            max_depth: 256,
            max_ratio: 1100,
            max_path_bytes: 4095,
            max_pending_bytes: 64 << 20,
            max_window_bytes: 128 << 20,
            allow_devices: true,
            allow_setuid: true,
        }
    }
}

/// A limit that was tripped: `what` went over `limit`, the value of `key`.
pub(crate) fn exceeded(what: &str, key: &str, limit: impl std::fmt::Display) -> Error {
    Error::exhausted(format!(
        "{what}: the limit is {limit}; if the image is trusted, raise [plugins.\"differ.tar\"] {key}"
    ))
}

/// The layer has `what`, which the policy does not let it have.
pub(crate) fn refused(what: &str, key: &str) -> Error {
    let text =
        format!("{what}: if the image is trusted, set [plugins.\"differ.tar\"] {key} = true");
    Error::new(Class::PermissionDenied, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_may_be_partial_but_not_misspelt() {
        let config: Config = toml::from_str("max_depth = 3").unwrap();
        assert_eq!(config.max_depth, 3);
        assert_eq!(config.max_bytes, Config::default().max_bytes);
        assert!(toml::from_str::<Config>("max_dept = 3").is_err());
        assert!(Config::default().check().is_ok());
        for max_window_bytes in [0, 1023, (1 << 31) + 1] {
            assert!(Config { max_window_bytes, ..Config::default() }.check().is_err());
        }
    }
}
