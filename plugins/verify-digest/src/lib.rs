//! verifier.digest: lets only images with listed digests have certain names.
//!
//! Rules are read from the top, and the first that is about a name decides. A rule's digests stand in the configuration,
//! or in a file that is read for each question, so whoever changes it needs to tell nobody. A file that cannot be read is
//! an error, which refuses. Without rules everything is accepted.
//!
//! ```toml
//! [[plugins."verifier.digest".rules]]
//! images = "registry.example/prod/**"
//! file = "/etc/capstan/prod-digests"    # one a line; what follows a # is a comment
//! ```

mod config;
mod list;
mod plugin;

pub use config::{Config, Rule};
pub use plugin::DigestVerifier;
