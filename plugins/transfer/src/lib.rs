//! transfer.local: images from registries into content and snapshots.
//!
//! A pull resolves a reference, fetches what is missing, unpacks layers while their bytes still come,
//! and puts the image's name last. What several pulls want at the same time is done once: each blob
//! and each chain of layers is a [`flight`] that others join.
//!
//! A push goes the other way: blobs, then the documents that need them, the name last. A copy is a push of what another
//! registry has.
//!
//! Invariant: a name appears only when everything under it is verified and on disk.

mod archive;
mod commits;
mod config;
mod convert;
mod copy;
mod entries;
mod export;
mod fetch;
mod flight;
mod import;
mod layer;
mod login;
mod object;
mod plugin;
mod progress;
mod pull;
mod push;
mod referrers;
mod refetch;
mod registry;
mod sweep;
mod tree;
mod unpack;
mod verify;

pub use config::Config;
pub use plugin::LocalTransfer;
