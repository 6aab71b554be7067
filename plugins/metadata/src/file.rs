//! The file of the database. It is redb's own, but that a sync which failed is noted, in a file beside it.
//!
//! After a failed sync the pages that are not on the disk count as written: the page cache goes on to show them, and the
//! next sync succeeds without them. So neither what is read then nor a sync that follows says what is on the disk.
//! Whoever opens the file next, in this process or in another, writes all of it once more first ([`settle`]).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use capstan_sdk::{Error, Result, tree};
use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::Config;

/// What a medium that cannot be read is looked at again by.
const BLOCK: usize = 4096;

type Bounds = Bound<u64>;

/// The file, as redb uses it.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    file: FileBackend,
    mark: PathBuf,
    /// The medium did not give bytes back.
    is_unreadable: Arc<AtomicBool>,
    #[cfg(feature = "probe")]
    delay: std::time::Duration,
}

impl DatabaseFile {
    /// Opens it, or makes it. `is_unreadable` becomes true when the medium does not give bytes back.
    ///
    /// # Errors
    /// What the system says.
    #[cfg_attr(not(feature = "probe"), expect(unused_variables, reason = "it is for tests"))]
    pub(crate) fn open(
        path: &Path,
        config: &Config,
        is_unreadable: &Arc<AtomicBool>,
    ) -> Result<Self, DatabaseError> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file =
            options.open(path).map_err(|error| redb::StorageError::from(unwritable(error)))?;
        Ok(Self {
            file: FileBackend::new(file)?,
            mark: mark_of(path),
            is_unreadable: Arc::clone(is_unreadable),
            #[cfg(feature = "probe")]
            delay: std::time::Duration::from_millis(config.sync_delay_ms),
        })
    }
}

/// An error of the medium is one of a disk that cannot be written, and no sign that what it has is damaged.
fn unwritable(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::IO) => io::Error::new(
            ErrorKind::ReadOnlyFilesystem,
            format!("the disk does not take what is written ({error}): mend it or move the root"),
        ),
        _ => error,
    }
}

impl StorageBackend for DatabaseFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out).inspect_err(|error| {
            if Errno::from_io_error(error) == Some(Errno::IO) {
                self.is_unreadable.store(true, Ordering::Relaxed);
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(unwritable)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(feature = "probe")]
        crate::probe::begin_sync(self.delay);
        let synced = self.file.sync_data();
        #[cfg(feature = "probe")]
        crate::probe::end_sync();
        synced.map_err(|error| {
            note(&self.mark, &error);
            unwritable(error)
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data).map_err(unwritable)
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

/// Where it is noted that a sync of a file failed. It lives in the page cache at least, and so as long as what it
/// warns of.
pub(crate) fn mark_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".unsynced");
    name.into()
}

fn note(mark: &Path, why: &io::Error) {
    warn!(error = %why, mark = %mark.display(), "a sync of the metadata failed");
    if let Err(error) = fs::write(mark, format!("{why}\n")) {
        warn!(%error, "that a sync of the metadata failed cannot be noted");
    }
}

/// Makes the disk have what the page cache shows, if a sync of the file had failed: all of it goes into a new file that
/// takes the place of the old one, so that nothing rests on blocks that were met with a failure. Answers whether a sync
/// had failed.
///
/// # Errors
/// `ResourceExhausted`, `FailedPrecondition`: the disk does not take it. `Unavailable`: another process has it open.
/// `Corrupt`: it cannot be read. It is still to be done then.
pub(crate) fn settle(path: &Path) -> Result<bool> {
    let mark = mark_of(path);
    if !mark.exists() {
        return Ok(false);
    }
    let place = || format!("write {} once more", path.display());
    let fail = |error| Error::io(place(), unwritable(error));
    match File::options().read(true).write(true).open(path) {
        Ok(file) => {
            let _lock = lock(&file).map_err(|error| error.at(place()))?;
            replace(&file, path)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    fs::remove_file(&mark).map_err(fail)?;
    info!(file = %path.display(), "written once more, as a sync of it had failed");
    Ok(true)
}

/// Redb's own lock of the file.
fn lock(file: &File) -> Result<FileBackend> {
    let broken = |error: &dyn std::fmt::Display| Error::internal(format!("lock it: {error}"));
    let file = file.try_clone().map_err(|error| broken(&error))?;
    let lock = FileBackend::new(file).map_err(|error| broken(&error))?;
    match lock.try_lock_range(Bound::Included(0), Bound::Unbounded) {
        Ok(true) => Ok(lock),
        Ok(false) => Err(Error::unavailable("another process has it open")),
        Err(error) => Err(broken(&error)),
    }
}

fn replace(file: &File, path: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    let mut reader = file;
    reader.read_to_end(&mut bytes).map_err(|error| {
        Error::corrupt(format!("{}: it cannot be read: {error}", path.display()))
    })?;
    let beside = beside(path);
    let write = || {
        let fresh = File::create(&beside)?;
        fresh.write_all_at(&bytes, 0).and_then(|()| fresh.sync_all())?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&beside);
        Error::io(format!("write {} once more", path.display()), unwritable(error))
    })?;
    tree::sync_dir(path.parent().expect("it is in a directory"))
}

/// The name of what is to take the place of a file.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Reads what can be read: a block that the medium does not give back is zeros. Answers whether there was one.
///
/// # Errors
/// Any other than that.
pub(crate) fn read_at(file: &File, out: &mut [u8], at: u64) -> io::Result<bool> {
    let is_medium = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::IO);
    match file.read_exact_at(out, at) {
        Err(error) if is_medium(&error) => {}
        read => return read.map(|()| false),
    }
    // Blocks of the file, wherever this begins.
    let mut from = at;
    let mut rest = out;
    while !rest.is_empty() {
        let size =
            (BLOCK - usize::try_from(from % BLOCK as u64).expect("it is small")).min(rest.len());
        let (block, more) = rest.split_at_mut(size);
        match file.read_exact_at(block, from) {
            Err(error) if is_medium(&error) => block.fill(0),
            read => read?,
        }
        from += size as u64;
        rest = more;
    }
    Ok(true)
}

/// Reads a whole file as [`read_at`] does.
///
/// # Errors
/// As there.
pub(crate) fn read(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let is_unreadable = read_at(&file, &mut bytes, 0)?;
    Ok((bytes, is_unreadable))
}
