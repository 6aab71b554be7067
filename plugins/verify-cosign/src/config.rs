//! `[plugins."verifier.cosign"]`.

use capstan_sdk::pattern::{Otherwise, Pattern};
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What becomes of an image that no rule is about. Default: `accept`.
    pub default: Otherwise,
    /// In the order in which they are asked. Default: none.
    pub rules: Vec<Rule>,
}

/// Who must have signed certain images.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which images it is about, such as `registry.example/app` or `registry.example/**`.
    pub images: Pattern,
    /// Public keys: each the absolute path of a PEM file, or the text of one. A file is read when the plugin starts, and
    /// may hold several keys.
    pub keys: Vec<String>,
    /// How many different keys must have signed. Default: 1.
    #[serde(default = "one")]
    pub required: usize,
    /// For which repository a payload must say it is, if that is not the image's own: for copies of what was signed
    /// elsewhere. Default: the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Pattern>,
}

fn one() -> usize {
    1
}
