//! `[plugins."sink.file"]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether events are written. Default: false (nothing is written, and no file is made).
    pub enabled: bool,
    /// The file. Default: empty (`events.jsonl` in the plugin's own directory). Each root needs a file of
    /// its own: a cursor that the file has already is taken for a repeat.
    pub path: PathBuf,
    /// Bytes after which the file is renamed and a new one is begun. Default: 16 MiB (about 80,000
    /// events).
    pub max_bytes: u64,
    /// How many renamed files are kept, `.1` being the newest. Default: 3.
    pub keep: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: false, path: PathBuf::new(), max_bytes: 16 << 20, keep: 3 }
    }
}
