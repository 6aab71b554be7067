//! For tests: a file whose syncs take as long as those of a slow disk, and are counted.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// How often a database was synced, in this process.
pub static SYNCS: AtomicU64 = AtomicU64::new(0);

/// The file.
#[derive(Debug)]
pub(crate) struct SlowFile {
    file: FileBackend,
    delay: Duration,
}

type Bounds = Bound<u64>;

impl SlowFile {
    pub(crate) fn new(file: File, delay_ms: u64) -> Result<Self, DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, delay: Duration::from_millis(delay_ms) })
    }
}

impl StorageBackend for SlowFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        SYNCS.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.delay);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bounds, end: Bounds) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bounds, end: Bounds) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bounds, end: Bounds) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bounds, end: Bounds) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bounds, end: Bounds) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bounds, end: Bounds) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
