//! The database file: tables, opening, checking, and how its errors are told.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use capstan_sdk::{Class, Error, Result};
use redb::backends::InMemoryBackend;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageBackend as _, TableDefinition,
    WriteTransaction,
};

use crate::file::DatabaseFile;
use crate::{Config, seal};

pub(crate) const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
pub(crate) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
pub(crate) const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// The number of the newest transaction, in `FORMAT`.
pub(crate) const SEQUENCE: &str = "sequence";

/// The layout that this build writes. It reads 1 too, where values have no checksum.
const FORMAT_VERSION: u64 = 2;

/// Why a database does not open.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It is not what was written.
    Damaged(String),
    /// The medium does not give it back, which may be so for a moment only.
    Unreadable(String),
    /// Something else: another process has it, no space, no permission, a newer format.
    Other(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error.class() {
            Class::Corrupt => Self::Damaged(error.message().into()),
            _ => Self::Other(error),
        }
    }
}

/// Runs work on a database. A panic in it is a `Corrupt`: with sound bytes there is none.
///
/// # Errors
/// Those of the work.
pub(crate) fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::corrupt(format!(
            "metadata: the database panicked: {}",
            text.unwrap_or("no message")
        )))
    })
}

/// Opens the file, or makes it. `is_checked`: all of its bytes are looked at.
pub(crate) fn open(path: &Path, config: &Config, is_checked: bool) -> Result<Database, Trouble> {
    let is_unreadable = Arc::new(AtomicBool::new(false));
    open_file(path, config, is_checked, &is_unreadable).map_err(|trouble| match trouble {
        Trouble::Damaged(why) if is_unreadable.load(Ordering::Relaxed) => Trouble::Unreadable(why),
        trouble => trouble,
    })
}

fn open_file(
    path: &Path,
    config: &Config,
    is_checked: bool,
    is_unreadable: &Arc<AtomicBool>,
) -> Result<Database, Trouble> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache(config)).set_check_integrity_on_open(is_checked);
        builder.create_with_backend(DatabaseFile::open(path, config, is_unreadable)?)
    }));
    let place = format!("open {}", path.display());
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => return Err(refused(error, &place)),
        Err(_) => return Err(Trouble::Damaged("the database panicked when it was opened".into())),
    };
    let sound = guard(|| {
        check_format(&database).map_err(|error| error.at(path.display()))?;
        if is_checked { check_records(&database, &GO_ON) } else { Ok(()) }
    });
    match sound {
        Ok(()) => Ok(database),
        Err(error) => {
            close(database);
            Err(error.into())
        }
    }
}

fn cache(config: &Config) -> usize {
    usize::try_from(config.cache_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20)
}

/// A database in memory with the bytes of the file, where that cannot be written. Nothing of it is kept.
pub(crate) fn open_copy(path: &Path, config: &Config) -> Result<Database, Trouble> {
    let bytes = std::fs::read(path)
        .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache(config)).set_check_integrity_on_open(true);
        builder.create_with_backend(in_memory(&bytes)?)
    }));
    match opened {
        Ok(Ok(database)) => {
            guard(|| check_format(&database).and_then(|()| check_records(&database, &GO_ON)))?;
            Ok(database)
        }
        Ok(Err(error)) => Err(refused(error, &format!("open {}", path.display()))),
        Err(_) => Err(Trouble::Damaged("the database panicked when it was opened".into())),
    }
}

/// An empty one in memory.
///
/// # Errors
/// `Internal`: redb fails.
pub(crate) fn open_empty() -> Result<Database> {
    let database = Database::builder()
        .create_with_backend(InMemoryBackend::new())
        .map_err(|error| Error::internal(format!("make a database in memory: {error}")))?;
    check_format(&database)?;
    Ok(database)
}

/// # Errors
/// There is no memory.
pub(crate) fn in_memory(bytes: &[u8]) -> Result<InMemoryBackend, redb::StorageError> {
    let backend = InMemoryBackend::new();
    backend.set_len(bytes.len() as u64)?;
    backend.write(0, bytes)?;
    Ok(backend)
}

/// What an open that failed means: what neither the system nor another process explains is damage.
fn refused(error: redb::DatabaseError, place: &str) -> Trouble {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch => {
            Trouble::Other(Error::unavailable(format!("{place}: another process has it open")))
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => match is_of_system(&error) {
            true => Trouble::Other(Error::io(place, error)),
            false => Trouble::Damaged(error.to_string()),
        },
        error => Trouble::Damaged(error.to_string()),
    }
}

/// Ends a database whose bytes may be damaged.
pub(crate) fn close(database: Database) {
    // What an end writes is a convenience of the next open; without it, that one repairs.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
}

fn check_format(database: &Database) -> Result<()> {
    let read = database.begin_read().map_err(fail)?;
    let found = match read.open_table(FORMAT) {
        Ok(table) => table.get("version").map_err(fail)?.map(|version| version.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(fail(error)),
    };
    drop(read);
    match found {
        Some(FORMAT_VERSION) => return Ok(()),
        Some(1) | None => {}
        Some(other) => {
            return Err(Error::precondition(format!(
                "the file has format {other}, this capstan knows {FORMAT_VERSION}; use a newer one"
            )));
        }
    }
    let write = database.begin_write().map_err(fail)?;
    if found == Some(1) {
        seal_all(&write)?;
    }
    {
        write.open_table(RECORDS).map_err(fail)?;
        write.open_table(EVENTS).map_err(fail)?;
        let mut format = write.open_table(FORMAT).map_err(fail)?;
        format.insert("version", FORMAT_VERSION).map_err(fail)?;
    }
    write.commit().map_err(fail)
}

/// From format 1 to 2: each value gets its checksum.
fn seal_all(write: &WriteTransaction) -> Result<()> {
    let mut records = write.open_table(RECORDS).map_err(fail)?;
    let mut all = Vec::new();
    for row in records.iter().map_err(fail)? {
        let (key, value) = row.map_err(fail)?;
        all.push((key.value().to_vec(), seal::seal(key.value(), value.value())));
    }
    for (key, value) in all {
        records.insert(key.as_slice(), value.as_slice()).map_err(fail)?;
    }
    let mut events = write.open_table(EVENTS).map_err(fail)?;
    let mut all = Vec::new();
    for row in events.iter().map_err(fail)? {
        let (cursor, value) = row.map_err(fail)?;
        let cursor = cursor.value();
        all.push((cursor, seal::seal(&cursor.to_le_bytes(), value.value())));
    }
    for (cursor, value) in all {
        events.insert(cursor, value.as_slice()).map_err(fail)?;
    }
    Ok(())
}

/// Nobody ends the check of a database that is being opened.
static GO_ON: AtomicBool = AtomicBool::new(false);

/// Reads every record and every event.
///
/// # Errors
/// `Corrupt`: one is damaged. `Aborted`: `is_over` became true.
pub(crate) fn check_records(database: &Database, is_over: &AtomicBool) -> Result<()> {
    let go_on = || match is_over.load(Ordering::Relaxed) {
        true => Err(Error::aborted("the check of the metadata is broken off; try again")),
        false => Ok(()),
    };
    let read = database.begin_read().map_err(fail)?;
    for row in read.open_table(RECORDS).map_err(fail)?.iter().map_err(fail)? {
        let (key, value) = row.map_err(fail)?;
        seal::open(key.value(), value.value())?;
        go_on()?;
    }
    for row in read.open_table(EVENTS).map_err(fail)?.iter().map_err(fail)? {
        let (cursor, value) = row.map_err(fail)?;
        seal::open(&cursor.value().to_le_bytes(), value.value())?;
        go_on()?;
    }
    Ok(())
}

/// The number of the newest transaction.
///
/// # Errors
/// Those of the database.
pub(crate) fn sequence(database: &Database) -> Result<u64> {
    let read = database.begin_read().map_err(fail)?;
    let format = read.open_table(FORMAT).map_err(fail)?;
    Ok(format.get(SEQUENCE).map_err(fail)?.map_or(0, |value| value.value()))
}

/// Whether an error is the system's, and says nothing of the bytes. EIO comes from reading here: a medium that does not
/// give them back (`DatabaseFile` names the one of writing otherwise).
fn is_of_system(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::ReadOnlyFilesystem
        || error.raw_os_error().is_some_and(|number| number != 5)
}

/// Any error of the database, by class.
pub(crate) fn fail(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) if is_of_system(&error) => Error::io("metadata", error),
        redb::Error::Io(error) => Error::corrupt(format!("metadata: {error}")),
        redb::Error::Corrupted(what) => Error::corrupt(format!("metadata: {what}")),
        redb::Error::PreviousIo => {
            Error::unavailable("metadata: an earlier write failed; the file is opened anew")
        }
        error => Error::internal(format!("metadata: {error}")),
    }
}
