//! transfer.local: images from registries into content and snapshots.

mod registry;
