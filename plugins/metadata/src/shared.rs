//! The open database, as readers and the writer share it. After an error of the system it is opened anew in place.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};

use capstan_sdk::{Class, Error, Result};
use redb::Database;
use tokio::sync::watch;

use crate::rebuild::{self, Opened};
use crate::reserve::Reserve;
use crate::{Config, store};

/// The database of one plugin.
pub(crate) struct Shared {
    dir: PathBuf,
    config: Config,
    /// `None` for as long as it is being opened anew, or when that failed.
    database: RwLock<Option<Database>>,
    read_only: Mutex<Option<Error>>,
    /// A long look at the database has to end, for somebody wants it alone.
    is_wanted: AtomicBool,
    /// The writer has opened or made the journal, or has tried to.
    has_tried_journal: AtomicBool,
    /// Becomes true when damage was met: the plugin ends, and the next instance rebuilds.
    damage: watch::Sender<bool>,
}

impl Shared {
    /// # Errors
    /// Those of [`rebuild::open`].
    pub(crate) fn open(dir: PathBuf, config: Config, reserve: &mut Reserve) -> Result<Self> {
        let Opened { database, read_only } = rebuild::open(&dir, &config, reserve)?;
        Ok(Self {
            dir,
            config,
            database: RwLock::new(Some(database)),
            read_only: Mutex::new(read_only),
            is_wanted: AtomicBool::new(false),
            has_tried_journal: AtomicBool::new(false),
            damage: watch::Sender::new(false),
        })
    }

    /// Notes that the writer has done what it could for the journal.
    pub(crate) fn note_journal(&self) {
        self.has_tried_journal.store(true, Ordering::Release);
    }

    /// Whether a journal that is not there is missing, and not just about to be made.
    pub(crate) fn wants_journal(&self) -> bool {
        self.has_tried_journal.load(Ordering::Acquire) && !self.is_read_only()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it is so large that it was not looked at as a whole when it was opened.
    pub(crate) fn is_large(&self) -> bool {
        rebuild::is_large(&self.dir)
    }

    /// Changes to true when damage is met.
    pub(crate) fn damage(&self) -> watch::Receiver<bool> {
        self.damage.subscribe()
    }

    /// Why nothing can be written; `None`: it can.
    pub(crate) fn read_only(&self) -> Option<Error> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only().is_some()
    }

    /// Work on the database.
    ///
    /// # Errors
    /// Those of the work. Damage ends the plugin and is told as `Unavailable`, for the next instance answers.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        self.with_raw(work).map_err(|error| match error.class() {
            Class::Corrupt => self.damaged(&error),
            _ => error,
        })
    }

    /// The same, with damage told as it is and nothing done about it.
    ///
    /// # Errors
    /// Those of the work; `Corrupt`: it panicked.
    pub(crate) fn with_raw<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            return Err(Error::unavailable("the metadata is being opened anew; try again"));
        };
        store::guard(|| work(database))
    }

    /// Notes damage. What the caller is told.
    pub(crate) fn damaged(&self, error: &Error) -> Error {
        if !self.damage.send_replace(true) {
            rebuild::suspect(&self.dir, error);
        }
        Error::broken_off(format!("{}; it is rebuilt, try again", error.message()))
    }

    /// Reads all records.
    ///
    /// # Errors
    /// `Corrupt`: one is damaged, and nothing is done about it. `Aborted`: the plugin ends.
    pub(crate) fn check(&self) -> Result<()> {
        self.with_raw(|database| store::check_records(database, &self.is_wanted))
    }

    /// Closes the database; the guard is for whoever opens it again.
    fn take_out(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.is_wanted.store(true, Ordering::Relaxed);
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        self.is_wanted.store(false, Ordering::Relaxed);
        if let Some(old) = database.take() {
            store::close(old);
        }
        database
    }

    /// Closes the database for good.
    pub(crate) fn close(&self) {
        drop(self.take_out());
    }

    /// Opens the file anew.
    ///
    /// # Errors
    /// Those of [`rebuild::open`]; there is no database then.
    pub(crate) fn reopen(&self, reserve: &mut Reserve) -> Result<()> {
        let mut database = self.take_out();
        let opened = rebuild::open(&self.dir, &self.config, reserve)?;
        *database = Some(opened.database);
        *self.read_only.lock().unwrap_or_else(PoisonError::into_inner) = opened.read_only;
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}
