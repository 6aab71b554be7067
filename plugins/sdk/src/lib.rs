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

pub mod abi;
mod answers;
pub mod blocking;
pub mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod context;
pub mod contract;
mod export;
pub mod failpoint;
mod frames;
mod kernel;
mod latency;
mod link;
pub mod mount;
pub mod oci;
pub mod outside;
pub mod pattern;
mod plugin;
mod proxy;
pub mod random;
pub mod record;
pub mod revise;
pub mod rpc;
pub mod snapshots;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "testing")]
pub mod testing_disk;
#[cfg(feature = "testing")]
pub mod testing_metadata;
pub mod tool;
pub mod tree;
pub mod uses;

pub use actix;
pub use answers::{Answered, Answers};
pub use capstan_schema::{
    Algorithm, Class, ContainerId, Descriptor, Digest, Error, FAMILIAR_HOST, FAMILIAR_INDEX,
    Labels, Mount, Namespace, Platform, Reference, Result, merge_labels,
};
pub use context::Context;
pub use export::{Ask, Care, Exports, Peer, Scope, Service};
pub use kernel::{Control, DaemonInfo, Kernel, PluginState, PluginStatus};
pub use latency::Latency;
pub use link::{Absent, Call, Carries, Contract, Handles, Link, Lookup, PATIENCE, Provider, Stats};
pub use outside::remote;
pub use plugin::{
    Descriptor as PluginDescriptor, Factory, Info, LocalFuture, Manifest, Plugin, Running, end_of,
};

#[doc(hidden)]
pub mod macro_support {
    pub use actix;
    pub use inventory;
}
