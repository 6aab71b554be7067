//! What the kernel lets plugins know about itself and about the other plugins.

use std::path::PathBuf;
use std::sync::Arc;

use capstan_schema::Result;

use crate::{Answers, LocalFuture};

/// Where a plugin is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PluginState {
    /// Its factory runs.
    #[default]
    Starting,
    /// It answers.
    Running,
    /// It ended by itself; a new instance follows after a back-off.
    Restarting,
    /// It did not start, or gave up after too many restarts.
    Failed,
    /// Something that it requires is missing or failed, or it said `Unimplemented` when it was made: this machine does
    /// not have what it is for.
    Skipped,
    /// The configuration denies it.
    Disabled,
    /// The daemon is going down.
    Stopped,
    /// It was told to restart, or is being replaced: calls wait for the next instance.
    Replacing,
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
            Self::Replacing => "replacing",
        }
    }

    /// Whether an instance follows soon, so that a call may wait for it.
    pub fn is_coming(self) -> bool {
        matches!(self, Self::Starting | Self::Restarting | Self::Replacing)
    }
}

/// One plugin, as the kernel sees it.
#[derive(Clone, Debug, Default)]
pub struct PluginStatus {
    /// `kind.name`.
    pub id: String,
    /// Where it is in its life.
    pub state: PluginState,
    /// `static`, `cdylib` or `remote`.
    pub source: &'static str,
    /// Its own version.
    pub version: String,
    /// New instances since the daemon started that nobody asked for.
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
    /// How often each message was answered, and how. It goes on counting.
    pub answers: Arc<Answers>,
    /// Its configuration in effect, as TOML.
    pub config: String,
    /// When this instance came up; 0 if none is.
    pub started_at_unix_ns: i64,
    /// Of the boundary behind which it is; 0 = compiled in.
    pub abi: u32,
    /// File, command or socket; empty = compiled in.
    pub origin: String,
    /// Compiler and SDK, as it says itself.
    pub built_with: String,
    /// It runs, but something that it requires does not; else empty.
    pub degraded: String,
    /// Calls that it has and did not answer yet.
    pub mailbox: u64,
    /// Half of its answers came within that; 0 = there was none.
    pub latency_p50_ns: u64,
    /// 99 of 100 answers came within that.
    pub latency_p99_ns: u64,
    /// For how long nobody answered when it was last restarted or replaced.
    pub blackout_ns: u64,
    /// What it can reach: plugins, directories.
    pub rights: Vec<String>,
    /// Its process, if it has one of its own; else 0.
    pub pid: u32,
    /// Memory that its process has resident; 0 if it has none of its own.
    pub memory_bytes: u64,
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

/// A change to the plugins of a running daemon. What each does is in introspection.capnp.
#[derive(Clone, Debug)]
pub enum Control {
    /// A new instance.
    Restart(String),
    /// A new plugin, from a shared library.
    Load {
        /// The library, absolute.
        path: PathBuf,
        /// In a process of its own.
        is_isolated: bool,
    },
    /// A library in the place of a plugin.
    Replace {
        /// The plugin.
        id: String,
        /// The library, absolute.
        path: PathBuf,
    },
    /// Forgets a plugin that was loaded.
    Unload(String),
    /// Reads the configuration anew.
    Reload,
}

/// The kernel's view of things, for the introspection plugin.
pub trait Kernel: Send + Sync {
    /// All registered plugins, in start order.
    fn plugins(&self) -> Vec<PluginStatus>;
    /// The daemon.
    fn daemon(&self) -> DaemonInfo;
    /// Changes something; answers the ids of the plugins that it was done to.
    ///
    /// Cancel safety: what was begun is carried out.
    fn control(&self, change: Control) -> LocalFuture<'static, Result<Vec<String>>>;
}
