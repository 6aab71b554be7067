//! snapshotter.btrfs: each snapshot is a subvolume, and a child is a snapshot of its parent's.
//!
//! ```text
//! <root>/active/<id>       a writable subvolume; of a view a read-only one
//! <root>/snapshots/<id>    a committed one, which nobody mounts
//! ```
//!
//! `<root>` is `root` of the section, or else the plugin's own directory. It must be on btrfs; the rest of the daemon
//! may be elsewhere. Subvolumes are made by `btrfs` of btrfs-progs.

mod subvolumes;
mod tool;

pub use subvolumes::{Config, Subvolumes};

/// snapshotter.btrfs.
pub type BtrfsSnapshotter = capstan_sdk::snapshots::DriverPlugin<Subvolumes>;

capstan_sdk::export_plugin!(BtrfsSnapshotter);
