//! What a plugin depends on, and all that it sees: contracts to offer and to use, a context with
//! its directories and configuration, one error type.
//!
//! A plugin is an actix actor that implements [`Plugin`] and is registered by [`export_plugin!`].
//! It offers the **contract** of its kind: a set of typed messages, in [`contract`]. It reaches
//! other plugins through a [`Link`] to a contract, never by their types; a link finds the live
//! instance at each call, so a plugin that was restarted is found, and one that is down answers
//! `Unavailable`. For a contract that also has a Cap'n Proto interface, [`rpc`] adapts one to the other.
//!
//! Invariants: no plugin's name or type is known here; bulk bytes never travel in messages
//! (a message carries a file, a path or a stream); nothing in here outlives the plugin that uses it.

pub mod blocking;
pub mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod context;
pub mod contract;
mod export;
mod kernel;
mod link;
pub mod mount;
pub mod oci;
mod plugin;
pub mod record;
pub mod rpc;
pub mod snapshots;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tree;

pub use capstan_schema::{
    Algorithm, Class, ContainerId, Descriptor, Digest, Error, Labels, Mount, Namespace, Platform,
    Reference, Result,
};
pub use context::Context;
pub use export::{Exports, Peer, Service};
pub use kernel::{DaemonInfo, Kernel, PluginState, PluginStatus};
pub use link::{Call, Carries, Contract, Link, Lookup, Provider, Stats};
pub use plugin::{ConfigType, Descriptor as PluginDescriptor, Info, Plugin, Running, StartFuture};

#[doc(hidden)]
pub mod macro_support {
    pub use actix;
    pub use inventory;
}
