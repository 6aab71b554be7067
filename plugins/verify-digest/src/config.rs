//! `[plugins."verifier.digest"]`.

use std::path::PathBuf;

use capstan_sdk::Digest;
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

/// Which digests certain images may have.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which images it is about, such as `registry.example/app` or `registry.example/**`.
    pub images: Pattern,
    /// Of a manifest or an index, as `images ls` shows it. Default: none, so that only those of `file` are let in.
    #[serde(default)]
    pub digests: Vec<Listed>,
    /// A file with more of them, one a line; an absolute path. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// A digest in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listed(pub(crate) Digest);

impl TryFrom<String> for Listed {
    type Error = capstan_sdk::Error;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Digest::parse(&text).map(Self)
    }
}

impl From<Listed> for String {
    fn from(listed: Listed) -> Self {
        listed.0.as_str().to_owned()
    }
}
