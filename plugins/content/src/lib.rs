//! content.local: bytes named by their digest, as files.
//!
//! ```text
//! <root>/content.local/blobs/<algorithm>/<hex>    a blob, mode 0444
//! <root>/content.local/damaged/<algorithm>-<hex>  the bytes of a blob that an audit found to be wrong
//! <root>/content.local/ingest/<hex>/data          bytes so far; <hex> = sha256 of namespace NUL ref
//! <root>/content.local/ingest/<hex>/record        record.capnp IngestRecord
//! ```
//!
//! A blob is in a namespace when the metadata has a record for it; the file is shared by all
//! namespaces that have one. Order of a commit: data written, data synced, file named, record
//! committed, answered. Those that are at the same step together share the wait for the disk. A file
//! without a record is invisible, and taken over by the next writer of the same digest.
//!
//! It never parses what it stores and never reaches the network.

mod audit;
mod blobs;
mod collect;
mod hasher;
mod ingest;
mod landing;
mod plugin;
mod record;

pub use plugin::{Config, LocalContent, Sharing};
