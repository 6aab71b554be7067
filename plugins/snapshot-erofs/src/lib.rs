//! snapshotter.erofs: a committed layer is one erofs image in one file; layers are overlaid.
//!
//! ```text
//! <root>/snapshotter.erofs/snapshots/<id>/fs             the own layer of an active snapshot
//! <root>/snapshotter.erofs/snapshots/<id>/work           overlayfs's work directory, of active ones
//! <root>/snapshotter.erofs/snapshots/<id>/layer.erofs    a committed layer, in overlay form
//! <root>/snapshotter.erofs/snapshots/<id>/layer.seal     its digest, bytes and inodes
//! <state>/snapshotter.erofs/mounts/<id>                  a committed layer that somebody stands on, mounted
//! ```
//!
//! An image is read-only by its nature, is verified by one hash, and takes one file instead of thousands. It is
//! mounted straight from its file where the kernel can (6.12), or else by a loop device; once per layer, and only
//! as long as an active snapshot or a view stands on it. Who has mounted the overlay keeps what is below it, so
//! a running container does not need the mounts here.

mod images;
mod layers;
mod mounts;

pub use layers::{Config, Layers};

/// snapshotter.erofs.
pub type ErofsSnapshotter = capstan_sdk::snapshots::DriverPlugin<Layers>;

capstan_sdk::export_plugin!(ErofsSnapshotter);
