//! What the kernel lets plugins know about itself and about the other plugins.

use std::path::PathBuf;

/// Where a plugin is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginState {
    /// Its factory runs.
    Starting,
    /// It answers.
    Running,
    /// It ended by itself; a new instance follows after a back-off.
    Restarting,
    /// It did not start, or gave up after too many restarts.
    Failed,
    /// Something that it requires is missing or failed.
    Skipped,
    /// The configuration denies it.
    Disabled,
    /// The daemon is going down.
    Stopped,
}

impl PluginState {
    /// The word that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Disabled => "disabled",
            Self::Stopped => "stopped",
        }
    }
}

/// One plugin, as the kernel sees it.
#[derive(Clone, Debug)]
pub struct PluginStatus {
    /// `kind.name`.
    pub id: String,
    /// Where it is in its life.
    pub state: PluginState,
    /// `static`, `cdylib` or `remote`.
    pub source: &'static str,
    /// Its own version.
    pub version: String,
    /// New instances since the daemon started, without the first.
    pub restarts: u32,
    /// One line about it.
    pub about: String,
    /// As declared; optional ones end with `?`.
    pub requires: Vec<String>,
    /// Contracts.
    pub provides: Vec<String>,
    /// Why it is not running, or why the instance before this one ended; else empty.
    pub last_error: String,
    /// Grows with each instance.
    pub generation: u64,
    /// Typed messages answered.
    pub calls: u64,
    /// Typed messages lost in a panic or in a dead instance.
    pub failures: u64,
    /// Its configuration in effect, as TOML.
    pub config: String,
    /// When this instance came up; 0 if none is.
    pub started_at_unix_ns: i64,
}

/// The daemon, as the kernel sees it.
#[derive(Clone, Debug)]
pub struct DaemonInfo {
    /// Semantic version.
    pub version: &'static str,
    /// Commit, or empty.
    pub revision: &'static str,
    /// Persistent data.
    pub root: PathBuf,
    /// Data that need not survive a reboot.
    pub state: PathBuf,
    /// `unix:///...`.
    pub address: String,
    /// When the daemon started.
    pub started_at_unix_ns: i64,
}

/// The kernel's view of things, for the introspection plugin.
pub trait Kernel: Send + Sync {
    /// All registered plugins, in start order.
    fn plugins(&self) -> Vec<PluginStatus>;
    /// The daemon.
    fn daemon(&self) -> DaemonInfo;
}
