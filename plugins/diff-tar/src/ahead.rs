//! Files of large layers go to the disk while more of the layer comes: the sync that follows an unpack finds little to do.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::syncfs;

/// Bytes of files between two syncs. Each also writes what others have on the file system, so they are few.
const STEP: u64 = 32 << 20;

/// Whether one is under way, for whichever layer: two at once write nothing more.
static IS_SYNCING: AtomicBool = AtomicBool::new(false);

/// Syncs ahead, for one tree. Dropping it waits for the sync that it began.
pub(crate) struct Ahead {
    root: Option<OwnedFd>,
    unsynced: u64,
    sync: Option<JoinHandle<()>>,
}

impl Ahead {
    /// For the tree below a directory; `None` = does nothing.
    pub(crate) fn new(root: Option<OwnedFd>) -> Self {
        Self { root, unsynced: 0, sync: None }
    }

    /// So many bytes were written to files.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.unsynced += bytes;
        if self.unsynced < STEP || IS_SYNCING.swap(true, Ordering::Relaxed) {
            return;
        }
        self.wait();
        self.unsynced = 0;
        let root = self.root.as_ref().and_then(|root| root.try_clone().ok());
        // It is a head start: what fails here fails again where it counts.
        self.sync = root.and_then(|root| {
            let sync = move || {
                let _ = syncfs(root);
                IS_SYNCING.store(false, Ordering::Relaxed);
            };
            std::thread::Builder::new().name("sync-ahead".into()).spawn(sync).ok()
        });
        if self.sync.is_none() {
            IS_SYNCING.store(false, Ordering::Relaxed);
        }
    }

    fn wait(&mut self) {
        if let Some(sync) = self.sync.take() {
            let _ = sync.join();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wait();
    }
}
