//! Files of large layers go to the disk while more of the layer comes: the sync that follows an unpack finds little to do.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use capstan_sdk::{Error, Result};
use rustix::fs::syncfs;

/// Bytes of files between two syncs. Each also writes what others have on the file system, so they are few.
const STEP: u64 = 32 << 20;

/// Whether one is under way, for whichever layer: two at once write nothing more.
static IS_SYNCING: AtomicBool = AtomicBool::new(false);

/// Syncs ahead, for one tree. Dropping it waits for the sync that it began.
pub(crate) struct Ahead {
    root: Option<OwnedFd>,
    unsynced: u64,
    sync: Option<JoinHandle<rustix::io::Result<()>>>,
}

impl Ahead {
    /// For the tree below a directory; `None` = does nothing.
    pub(crate) fn new(root: Option<OwnedFd>) -> Self {
        Self { root, unsynced: 0, sync: None }
    }

    /// So many bytes were written to files.
    ///
    /// # Errors
    /// Those of [`Ahead::finish`].
    pub(crate) fn wrote(&mut self, bytes: u64) -> Result<()> {
        self.unsynced += bytes;
        if self.unsynced < STEP || IS_SYNCING.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.finish().inspect_err(|_| IS_SYNCING.store(false, Ordering::Relaxed))?;
        self.unsynced = 0;
        let root = self.root.as_ref().and_then(|root| root.try_clone().ok());
        self.sync = root.and_then(|root| {
            let sync = move || {
                let synced = syncfs(root);
                IS_SYNCING.store(false, Ordering::Relaxed);
                synced
            };
            std::thread::Builder::new().name("sync-ahead".into()).spawn(sync).ok()
        });
        if self.sync.is_none() {
            IS_SYNCING.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits for the sync that was begun.
    ///
    /// # Errors
    /// What the system says: something is not on the disk. It says so once, and a later sync would succeed.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let synced = self.sync.take().map(JoinHandle::join);
        let synced = synced.unwrap_or(Ok(Ok(()))).expect("a sync does not panic");
        synced.map_err(|error| Error::io("sync the layer's files", error))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Who asked for nothing more has failed already.
        let _ = self.finish();
    }
}
