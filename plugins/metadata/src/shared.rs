//! The open database, as readers and the writer share it. After an error of the system it is opened anew in place.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

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
            damage: watch::Sender::new(false),
        })
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

    /// Opens the file anew.
    ///
    /// # Errors
    /// Those of [`rebuild::open`]; there is no database then.
    pub(crate) fn reopen(&self, reserve: &mut Reserve) -> Result<()> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = database.take() {
            store::close(old);
        }
        let opened = rebuild::open(&self.dir, &self.config, reserve)?;
        *database = Some(opened.database);
        *self.read_only.lock().unwrap_or_else(PoisonError::into_inner) = opened.read_only;
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = database.take() {
            store::close(database);
        }
    }
}
