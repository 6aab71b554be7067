//! snapshotter.native, as a library.

use capstan_snapshot_native as _;
