//! introspection.local, health.local, version.local, metrics.calls: what a daemon says about itself.
//!
//! They only read what the kernel shows; none of them has state.

mod calls;
mod health;
mod host;
mod introspection;
mod plugin;
mod version;

pub use plugin::{CallMetrics, HealthService, IntrospectionService, VersionService};
