//! What both sides of every boundary agree on: the Cap'n Proto interfaces, the stored records,
//! and the few value types that have a rule of their own (digest, identifier, error class, sample).
//!
//! It never does anything: no socket, no file, no clock. Invariant: everything in here is data.
//!
//! The interfaces are in `capnp/`, one per file; `src/generated/` is made from them by
//! `cargo xtask schema` and checked in. How they may change is in EVOLUTION.md.

mod digest;
mod error;
pub mod filter;
pub mod generated;
mod identifier;
mod list;
mod reference;
pub mod sample;
mod size;
pub mod time;
mod value;

pub use digest::{Algorithm, Digest};
pub use error::{Class, Error, Result};
pub use filter::{Fields, Filter, Filters};
pub use generated::{
    common_capnp, container_capnp, content_capnp, differ_capnp, event_capnp, gc_capnp,
    gc_policy_capnp, graph_capnp, health_capnp, image_capnp, introspection_capnp, leases_capnp,
    metadata_capnp, metrics_capnp, namespace_capnp, plugin_capnp, record_capnp, root_capnp,
    runtime_capnp, shim_capnp, sink_capnp, snapshot_capnp, task_capnp, transfer_capnp,
    verifier_capnp, version_capnp,
};
pub use identifier::{ContainerId, Namespace};
pub use list::{read_texts, write_texts};
pub use reference::{FAMILIAR_HOST, FAMILIAR_INDEX, Reference, reference_host, registry_host};
pub use size::parse_bytes;
pub use value::{Descriptor, Labels, Mount, Platform, merge_labels, read_labels, write_labels};

/// The largest piece of blob data in one message, in bytes (1 MiB, containerd's chunk size).
pub const MAX_CHUNK_BYTES: u32 = 1 << 20;

/// Limits for every reader of messages from a peer.
///
/// 64 MiB per message (a page of 1,000 containers with large specs stays below), 64 levels of
/// nesting (our deepest struct has 6). Cap'n Proto counts each pointer that is followed, so
/// overlapping pointers do not multiply work.
pub fn limits() -> capnp::message::ReaderOptions {
    let mut options = capnp::message::ReaderOptions::new();
    options.traversal_limit_in_words(Some((64 << 20) / 8)).nesting_limit(64);
    options
}
