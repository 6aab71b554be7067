//! snapshotter.btrfs, as a library.

use capstan_snapshot_btrfs as _;
