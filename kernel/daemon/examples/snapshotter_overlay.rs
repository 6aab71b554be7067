//! snapshotter.overlay, as a library.

use capstan_snapshot_overlay as _;
