//! namespaces.local: the tenants.
//!
//! A namespace exists from its creation, by hand or by the first thing in it, until it is removed.
//! It can be removed when nothing is in it.

mod plugin;
mod record;

pub use plugin::LocalNamespaces;
