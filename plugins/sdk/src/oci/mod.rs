//! OCI documents: media types, indexes, manifests, configurations, chain ids.
//!
//! Everything in here is strict and pure: bytes in, plain values or an error out. Media types and
//! documents of Docker's schema 2 are read as what they are in all but name.

mod chain;
mod checkpoint;
mod config;
mod document;
pub mod media;
mod object;

pub use chain::chain_ids;
pub use checkpoint::{CHECKPOINT, checkpoint_manifest};
pub use config::ImageConfig;
pub use document::{Document, RawDescriptor, choose};
pub use object::from_object;

/// The most bytes of a configuration that is taken from a registry, and of any document that is read as a whole when an image
/// is resolved: whoever takes one in must take no larger one.
pub const MAX_DOCUMENT: u64 = 4 << 20;
