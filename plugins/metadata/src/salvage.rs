//! From what is left of a database and of its journal to a whole state.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use capstan_sdk::{Error, Result};
use redb::{Builder, Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _};

use crate::entry::Op;
use crate::journal::{self, Walk};
use crate::store::{EVENTS, FORMAT, RECORDS, SEQUENCE, fail, in_memory};
use crate::{file, seal};

/// Where redb notes with the second bit that the file was not closed; in front of it is what every redb begins with.
const FLAGS: usize = 9;

/// Whether the last user of the file ended in order, as far as it says.
pub(crate) fn was_closed(path: &Path) -> bool {
    let mut head = [0; FLAGS + 1];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.starts_with(b"redb") && head[FLAGS] & 2 == 0
}

/// Records and events.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) events: BTreeMap<u64, Vec<u8>>,
    pub(crate) sequence: u64,
    pub(crate) cursor: u64,
    /// Every record of the database that it is of could be read.
    pub(crate) has_all_records: bool,
}

impl State {
    /// What a journal tells, and what is wrong with it; `None`: there is none.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub(crate) fn of_journal(path: &Path) -> Result<Option<(Self, Walk)>> {
        let mut state = Self::default();
        let walk = journal::walk(path, |entry| {
            for op in entry.ops().map_while(|op| op) {
                state.take(&op);
            }
        });
        let walk = match walk {
            Ok(walk) => walk,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
        };
        state.sequence = walk.sequence;
        state.cursor = walk.cursor;
        Ok(Some((state, walk)))
    }

    fn take(&mut self, op: &Op<'_>) {
        match op {
            Op::Put(key, value) => drop(self.records.insert(key.to_vec(), value.to_vec())),
            Op::Delete(key) => drop(self.records.remove(*key)),
            Op::Event(cursor, value) => drop(self.events.insert(*cursor, value.to_vec())),
            Op::Trim(up_to) => self.events = self.events.split_off(&up_to.saturating_add(1)),
        }
    }

    /// What can still be read of a damaged database, record by record, and whether the medium did not give all of it
    /// back. All of it is as it was written.
    ///
    /// The file is not changed: this works on a copy in memory.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub(crate) fn of_damaged(path: &Path) -> Result<(Self, bool)> {
        let (mut bytes, is_unreadable) = match file::read(path) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
        };
        // As it is, and without the mark that it must be repaired, which cannot be done.
        let whole = Self::of_bytes(&bytes);
        if was_closed(path) {
            return Ok((whole, is_unreadable));
        }
        if let Some(flags) = bytes.get_mut(FLAGS) {
            *flags &= !2;
        }
        let unmarked = Self::of_bytes(&bytes);
        let is_less = whole.records.len() < unmarked.records.len();
        Ok((if is_less { unmarked } else { whole }, is_unreadable))
    }

    /// Whether this has something that `other` cannot have yet.
    pub(crate) fn is_ahead_of(&self, other: &Self) -> bool {
        self.sequence > other.sequence || self.cursor > other.cursor
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let mut state = Self::default();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let Ok(backend) = in_memory(bytes) else { return };
            let Ok(database) = Builder::new().open_read_only_with_backend(backend) else { return };
            let Ok(read) = database.begin_read() else { return };
            state.sequence = quietly(|| {
                let format = read.open_table(FORMAT).map_err(fail)?;
                Ok(format.get(SEQUENCE).map_err(fail)?.map_or(0, |value| value.value()))
            })
            .unwrap_or(0);
            state.read_records(&read);
            state.read_events(&read);
        }));
        state
    }

    /// From both ends, each until something is damaged.
    fn read_records(&mut self, read: &ReadTransaction) {
        for is_forward in [true, false] {
            let read = quietly(|| {
                let table = read.open_table(RECORDS).map_err(fail)?;
                let mut rows = table.iter().map_err(fail)?;
                let mut is_all = true;
                while let Some(row) = if is_forward { rows.next() } else { rows.next_back() } {
                    let (key, value) = row.map_err(fail)?;
                    match seal::open(key.value(), value.value()) {
                        Ok(value) => {
                            drop(self.records.insert(key.value().to_vec(), value.to_vec()))
                        }
                        Err(_) => is_all = false,
                    }
                }
                Ok(is_all)
            });
            self.has_all_records = read == Some(true);
        }
    }

    fn read_events(&mut self, read: &ReadTransaction) {
        for is_forward in [true, false] {
            quietly(|| {
                let table = read.open_table(EVENTS).map_err(fail)?;
                let mut rows = table.iter().map_err(fail)?;
                while let Some(row) = if is_forward { rows.next() } else { rows.next_back() } {
                    let (cursor, value) = row.map_err(fail)?;
                    let cursor = cursor.value();
                    if let Ok(value) = seal::open(&cursor.to_le_bytes(), value.value()) {
                        self.events.insert(cursor, value.to_vec());
                        self.cursor = self.cursor.max(cursor);
                    }
                }
                Ok(())
            });
        }
    }

    /// Adds what `newer` has, and keeps what it does not speak of.
    pub(crate) fn cover(&mut self, newer: Self) {
        self.records.extend(newer.records);
        self.events.extend(newer.events);
        self.sequence = self.sequence.max(newer.sequence);
        self.cursor = self.cursor.max(newer.cursor);
    }

    /// Writes everything in one transaction into a database that has only its format.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) fn write(&self, database: &Database) -> Result<()> {
        let write = database.begin_write().map_err(fail)?;
        {
            let mut records = write.open_table(RECORDS).map_err(fail)?;
            for (key, value) in &self.records {
                let value = seal::seal(key, value);
                records.insert(key.as_slice(), value.as_slice()).map_err(fail)?;
            }
            let mut events = write.open_table(EVENTS).map_err(fail)?;
            for (cursor, value) in &self.events {
                let value = seal::seal(&cursor.to_le_bytes(), value);
                events.insert(*cursor, value.as_slice()).map_err(fail)?;
            }
            let mut format = write.open_table(FORMAT).map_err(fail)?;
            format.insert(SEQUENCE, self.sequence).map_err(fail)?;
        }
        write.commit().map_err(fail)
    }
}

/// Work on damaged bytes: what fails or panics gives nothing.
fn quietly<T>(work: impl FnOnce() -> Result<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()?.ok()
}
