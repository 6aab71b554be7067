//! snapshotter.overlay: copy-on-write trees on overlayfs.
//!
//! ```text
//! <root>/snapshotter.overlay/snapshots/<id>/fs      the snapshot's own layer
//! <root>/snapshotter.overlay/snapshots/<id>/work    overlayfs's work directory, of active ones on a parent
//! ```
//!
//! A layer's directory does not depend on what is below it, so layers can be unpacked at the same
//! time and put on their parents when they are committed.

mod layers;
mod probe;

pub use layers::{Config, Layers};

/// snapshotter.overlay.
pub type OverlaySnapshotter = capstan_sdk::snapshots::DriverPlugin<Layers>;

capstan_sdk::export_plugin!(OverlaySnapshotter);
