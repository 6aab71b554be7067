//! snapshotter.erofs, as a library.

use capstan_snapshot_erofs as _;
