//! `[plugins."images.local"]`.

use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Plugins that must be asked before an image gets a name, such as `verifier.cosign`: without them nothing gets one.
    /// All verifiers that there are are asked anyway; this is for those that must not be missed when they are not there
    /// at all. Default: none.
    pub verifiers: Vec<String>,
    /// How long a verifier may take for an answer, in seconds; one that takes longer refuses. Default: 30.
    pub verifier_timeout_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { verifiers: Vec::new(), verifier_timeout_seconds: 30 }
    }
}
