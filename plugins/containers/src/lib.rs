//! containers.local: container records, their root filesystems, and the OCI runtime specs made for them.
//!
//! A container runs nothing. What the user asked for becomes a runtime spec once, when the container
//! is created; what is stored is what the runtime is given, byte for byte.

mod capability;
mod config;
mod limits;
mod mounts;
mod plugin;
mod record;
mod seccomp;
mod spec;
mod sweep;
mod user;

pub use config::Config;
pub use plugin::LocalContainers;
