//! The database file: tables, opening, and how its errors are told.

use std::path::Path;

use capstan_sdk::{Error, Result};
use redb::{Database, ReadableDatabase as _, TableDefinition};

pub(crate) const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
pub(crate) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// The layout that this build reads and writes.
const FORMAT_VERSION: u64 = 1;

/// Opens the file, or makes it.
///
/// # Errors
/// `Corrupt`: it is damaged. `FailedPrecondition`: a newer build made it. `Unavailable`: another
/// process has it open.
pub(crate) fn open(path: &Path, cache_mib: u32) -> Result<Database> {
    let cache = usize::try_from(cache_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20);
    let database = Database::builder().set_cache_size(cache).create(path).map_err(|error| {
        let place = format!("open {}", path.display());
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Error::unavailable(format!("{place}: another process has it open"))
            }
            redb::DatabaseError::Storage(error) => storage(error).at(place),
            error => Error::corrupt(format!("{place}: {error}")),
        }
    })?;
    check_format(&database).map_err(|error| error.at(path.display()))?;
    Ok(database)
}

fn check_format(database: &Database) -> Result<()> {
    let read = database.begin_read().map_err(fail)?;
    let found = match read.open_table(FORMAT) {
        Ok(table) => table.get("version").map_err(fail)?.map(|version| version.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(fail(error)),
    };
    match found {
        Some(FORMAT_VERSION) => return Ok(()),
        Some(other) => {
            return Err(Error::precondition(format!(
                "the file has format {other}, this capstan knows {FORMAT_VERSION}; use a newer one"
            )));
        }
        None => {}
    }
    let write = database.begin_write().map_err(fail)?;
    {
        write.open_table(RECORDS).map_err(fail)?;
        write.open_table(EVENTS).map_err(fail)?;
        let mut format = write.open_table(FORMAT).map_err(fail)?;
        format.insert("version", FORMAT_VERSION).map_err(fail)?;
    }
    write.commit().map_err(fail)
}

/// Any error of the database, by class.
pub(crate) fn fail(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::io("metadata", error),
        redb::Error::Corrupted(what) => Error::corrupt(format!("metadata: {what}")),
        redb::Error::PreviousIo => {
            Error::unavailable("metadata: an earlier write failed; the plugin restarts")
        }
        error => Error::internal(format!("metadata: {error}")),
    }
}

fn storage(error: redb::StorageError) -> Error {
    fail(redb::Error::from(error))
}
