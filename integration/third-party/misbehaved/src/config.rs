//! `[plugins."metrics.misbehaved"]`.

use serde::{Deserialize, Serialize};

/// What it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Nothing that it must not.
    #[default]
    Behave,
    /// It panics when it is made.
    PanicInBuild,
    /// It panics when somebody collects.
    PanicInCall,
    /// It panics when it is dropped.
    PanicInDrop,
    /// It keeps its thread for ever when somebody collects.
    Hang,
    /// It ends its process when somebody collects.
    Abort,
    /// It takes memory and keeps it, when somebody collects.
    Leak,
    /// It answers far more than anybody can read.
    Huge,
    /// It says that it cannot work.
    Unwell,
    /// It cannot be made.
    Refuse,
}

/// The section.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Default: `behave`.
    pub what: What,
}
