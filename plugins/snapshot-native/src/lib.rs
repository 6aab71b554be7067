//! snapshotter.native: file trees by copying. It works on any file system and is slow and large.
//!
//! ```text
//! <root>/snapshotter.native/snapshots/<id>    a whole tree
//! ```

mod copy;
mod trees;

pub use trees::{Config, Trees};

/// snapshotter.native.
pub type NativeSnapshotter = capstan_sdk::snapshots::DriverPlugin<Trees>;

capstan_sdk::export_plugin!(NativeSnapshotter);
