//! Files of layers go to the disk while more of them come: the sync that follows an unpack finds little to do.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use capstan_sdk::{Error, Result};
use rustix::fs::syncfs;

/// Bytes of files between two syncs, so that few are left for the last one, which all wait for. Each also writes what others
/// have on the file system, so they are not fewer.
const STEP: u64 = 8 << 20;

/// Bytes since the last one, of all layers: it writes those of the others too.
static UNSYNCED: AtomicU64 = AtomicU64::new(0);

/// Whether one is under way, for whichever layer: two at once write nothing more.
static IS_SYNCING: AtomicBool = AtomicBool::new(false);

/// Syncs ahead, for one tree. Dropping it waits for the sync that it began.
pub(crate) struct Ahead {
    root: Option<OwnedFd>,
    sync: Option<JoinHandle<rustix::io::Result<()>>>,
}

impl Ahead {
    /// For the tree below a directory; `None` = does nothing.
    pub(crate) fn new(root: Option<OwnedFd>) -> Self {
        Self { root, sync: None }
    }

    /// So many bytes were written to files.
    ///
    /// # Errors
    /// Those of [`Ahead::finish`].
    pub(crate) fn wrote(&mut self, bytes: u64) -> Result<()> {
        let unsynced = UNSYNCED.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsynced < STEP || IS_SYNCING.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.finish().inspect_err(|_| IS_SYNCING.store(false, Ordering::Relaxed))?;
        UNSYNCED.store(0, Ordering::Relaxed);
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
