//! For tests: syncs of the database that take as long as those of a slow disk, and are counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many syncs of a database were begun, in this process.
pub static SYNCS: AtomicU64 = AtomicU64::new(0);

/// How many of them have ended.
pub static SYNCED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn begin_sync(delay: Duration) {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(delay);
}

pub(crate) fn end_sync() {
    SYNCED.fetch_add(1, Ordering::Relaxed);
}
