//! containers.local: container records, their root filesystems, and the OCI runtime specs made for them.
//!
//! A container runs nothing. What the user asked for becomes a runtime spec once, when the container
//! is created; what is stored is what the runtime is given, byte for byte.

mod bounds;
mod capability;
mod config;
mod devices;
mod graph;
mod hooks;
mod mounts;
mod namespaces;
mod plugin;
mod record;
mod resources;
mod seccomp;
mod spec;
mod sweep;
mod update;
mod user;

pub use config::Config;
pub use hooks::{Hook, Moment};
pub use plugin::LocalContainers;
