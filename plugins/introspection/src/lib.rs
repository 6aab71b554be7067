//! introspection.local, health.local, version.local: what a daemon says about itself.
//!
//! They only read what the kernel shows; none of them has state.

mod health;
mod host;
mod introspection;
mod plugin;
mod version;

pub use plugin::{HealthService, IntrospectionService, VersionService};
