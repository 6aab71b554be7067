//! snapshotter.reflink: file trees whose files share their data with those they were copied from (FICLONE).
//!
//! It wants a file system that can do that, such as xfs or btrfs, and says so when it is started on another.
//! It is somebody else's plugin: it knows the SDK and nothing else of capstan.
//!
//! ```text
//! <root>/snapshotter.reflink/snapshots/<id>    a whole tree
//! ```

mod copy;
mod trees;

pub use trees::{Config, Trees};

/// snapshotter.reflink.
pub type ReflinkSnapshotter = capstan_sdk::snapshots::DriverPlugin<Trees>;

capstan_sdk::export_plugin!(ReflinkSnapshotter);
