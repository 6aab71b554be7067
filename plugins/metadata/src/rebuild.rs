//! Opening at start, and after an error: the file as it is, or one that is rebuilt from the journal and from what can
//! still be read. A damaged metadata file never keeps the daemon from starting.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capstan_schema::event_capnp;
use capstan_sdk::{Class, Error, Result, clock, record, tree};
use redb::Database;
use tracing::warn;

use crate::reserve::Reserve;
use crate::salvage::{self, State};
use crate::store::{self, Trouble};
use crate::{Config, file, journal, report};

/// A file up to this size is looked at whole at each start; a larger one after an end that was not orderly, when
/// somebody met damage in it, and beside the work (`Audit`).
const CHECKED: u64 = 4 << 20;

/// How often a medium that does not give the file back is asked again, and after how long: what stays unreadable is
/// damaged, but what is so for a moment is not.
const LOOKS: usize = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// After a rebuild cursors go on so far behind the newest one that is known: some that are not may have been told.
const CURSOR_GAP: u64 = 1000;

/// An open database.
pub(crate) struct Opened {
    pub(crate) database: Database,
    /// Not kept: why it cannot be written.
    pub(crate) read_only: Option<Error>,
}

/// Where the database is.
pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join("metadata.redb")
}

/// Whether the file is too large to be looked at as a whole at each start.
pub(crate) fn is_large(dir: &Path) -> bool {
    fs::metadata(path_in(dir)).is_ok_and(|meta| meta.len() > CHECKED)
}

/// Where it is noted that somebody met damage.
fn suspicion(dir: &Path) -> PathBuf {
    dir.join("metadata.suspect")
}

/// Lets the next start look at the whole file.
pub(crate) fn suspect(dir: &Path, why: &Error) {
    warn!(error = %why, "the metadata is damaged; it is rebuilt");
    if let Err(error) = fs::write(suspicion(dir), why.to_string()) {
        warn!(%error, "that the metadata is damaged cannot be noted");
    }
}

/// Opens the database of a directory, whatever its state.
///
/// # Errors
/// `Unavailable`: another process has it. `FailedPrecondition`: a newer build made it. What the system says where
/// it does not let it be read at all.
pub(crate) fn open(dir: &Path, config: &Config, reserve: &mut Reserve) -> Result<Opened> {
    let mut opened = attempt(dir, config);
    if let Err(error) = &opened
        && error.class() == Class::ResourceExhausted
        && reserve.give_up()
    {
        opened = attempt(dir, config);
    }
    let Err(error) = opened else { return opened };
    let is_unwritable =
        matches!(error.class(), Class::ResourceExhausted | Class::FailedPrecondition);
    if !is_unwritable {
        return Err(error);
    }
    // No space, or a file system that cannot be written: reads go on.
    match store::open_copy(&path_in(dir), config) {
        Ok(database) => {
            warn!(%error, "the metadata can only be read");
            Ok(Opened { database, read_only: Some(error) })
        }
        Err(Trouble::Other(_)) => Err(error),
        Err(Trouble::Damaged(why) | Trouble::Unreadable(why)) => {
            warn!(%error, why, "the metadata is damaged and cannot be written: it is rebuilt in memory and only read");
            let database = store::open_empty()?;
            recover(dir)?.0.write(&database)?;
            Ok(Opened { database, read_only: Some(error) })
        }
    }
}

fn attempt(dir: &Path, config: &Config) -> Result<Opened> {
    let path = path_in(dir);
    let len = match fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::io(format!("look at {}", path.display()), error)),
    };
    let is_suspect = suspicion(dir).exists();
    if len == 0 && has_history(dir)? {
        return rebuild(dir, config, "it is empty or not there");
    }
    let is_unsettled = match file::settle(&path) {
        Err(error) if error.class() == Class::Corrupt => {
            return rebuild(dir, config, error.message());
        }
        settled => settled?,
    };
    let is_checked = is_suspect || is_unsettled || len <= CHECKED;
    let mut opened = store::open(&path, config, is_checked);
    if let Err(Trouble::Unreadable(why)) = &opened {
        warn!(why, file = %path.display(), "the metadata cannot be read; once more");
        await_medium(&path);
        opened = store::open(&path, config, true);
    }
    match opened {
        Ok(database) => {
            if is_suspect {
                let _ = fs::remove_file(suspicion(dir));
            }
            if len == 0 {
                tree::sync_dir(dir)?;
            }
            Ok(Opened { database, read_only: None })
        }
        Err(Trouble::Damaged(why) | Trouble::Unreadable(why)) => rebuild(dir, config, &why),
        Err(Trouble::Other(error)) => Err(error),
    }
}

/// Waits until a medium gives a file back, for a moment.
fn await_medium(path: &Path) {
    for _ in 0..LOOKS {
        if fs::read(path).is_ok() {
            return;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// Whether the journal tells of a database that there was.
fn has_history(dir: &Path) -> Result<bool> {
    let path = journal::path_in(dir);
    match journal::walk(&path, |_| {}) {
        Ok(walk) => Ok(walk.sequence > 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

/// Everything that is left, and how it was come by: of each record what the newer of the two copies has.
///
/// # Errors
/// `Unavailable`: the medium gives nothing back. What the system says where a copy cannot be opened.
fn recover(dir: &Path) -> Result<(State, Vec<String>)> {
    let journal = State::of_journal(&journal::path_in(dir))?;
    let is_whole = journal.as_ref().is_some_and(|(_, walk)| walk.flaws.is_empty() && !walk.is_torn);
    // After an orderly end a journal without a flaw has everything (`journal::tear`), and damaged bytes need no look.
    let (left, is_unreadable) = match is_whole && salvage::was_closed(&path_in(dir)) {
        true => (State::default(), false),
        false => State::of_damaged(&path_in(dir))?,
    };
    let mut lines = Vec::new();
    let state = match journal {
        None => {
            lines.push(format!(
                "there is no journal: {} records could be read one by one, the others are lost",
                left.records.len()
            ));
            left
        }
        Some((state, walk)) if walk.flaws.is_empty() && !left.is_ahead_of(&state) => {
            lines.push(format!(
                "the journal has all {} records, up to transaction {}",
                state.records.len(),
                state.sequence
            ));
            state
        }
        Some((state, _)) if left.is_ahead_of(&state) && left.has_all_records => {
            lines.push(format!(
                "the journal is behind; all {} records could be read one by one from the database",
                left.records.len()
            ));
            let records = BTreeMap::new();
            let mut state = State { records, ..state };
            state.cover(left);
            state
        }
        Some((mut state, walk)) => {
            lines.push(format!(
                "{} records from the journal, {} read one by one from the database",
                state.records.len(),
                left.records.len()
            ));
            for flaw in &walk.flaws {
                lines.push(format!("the journal is damaged: {flaw}"));
            }
            // Its own number may be among what is not readable.
            if left.sequence == 0 || left.sequence >= state.sequence {
                state.cover(left);
            } else {
                // An older state of the database.
                let mut older = left;
                std::mem::swap(&mut state, &mut older);
                state.cover(older);
            }
            lines.push(
                "a record that neither has is lost, and one that was removed may be back".into(),
            );
            state
        }
    };
    if is_unreadable && state.records.is_empty() {
        return Err(Error::unavailable(format!(
            "{}: the disk gives nothing back: mend it, or put a backup in its place",
            dir.display()
        )));
    }
    Ok((state, lines))
}

fn rebuild(dir: &Path, config: &Config, why: &str) -> Result<Opened> {
    let path = path_in(dir);
    let (mut state, mut lines) = recover(dir)?;
    lines.insert(0, format!("damaged: {why}"));
    lines.push(format!("rebuilt with {} records", state.records.len()));
    state.sequence += 1;
    state.cursor += CURSOR_GAP;
    state.events.insert(state.cursor, rebuilt_event(why, state.records.len()));

    let beside = file::beside(&path);
    let _ = fs::remove_file(&beside);
    let _ = fs::remove_file(file::mark_of(&beside));
    let database = match store::open(&beside, config, false) {
        Ok(database) => database,
        Err(Trouble::Damaged(why) | Trouble::Unreadable(why)) => {
            return Err(Error::internal(format!(
                "{}: a new file is damaged: {why}",
                beside.display()
            )));
        }
        Err(Trouble::Other(error)) => return Err(error),
    };
    let written = state.write(&database);
    drop(database);
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })?;
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > 0) {
        report::set_aside(dir, &path, &lines)?;
    } else {
        for line in &lines {
            warn!(file = %path.display(), "metadata: {line}");
        }
    }
    fs::rename(&beside, &path)
        .map_err(|error| Error::io(format!("rename {}", beside.display()), error))?;
    tree::sync_dir(dir)?;
    let _ = fs::remove_file(suspicion(dir));
    let _ = fs::remove_file(file::mark_of(&path));
    match store::open(&path, config, false) {
        Ok(database) => Ok(Opened { database, read_only: None }),
        Err(Trouble::Damaged(why) | Trouble::Unreadable(why)) => {
            Err(Error::corrupt(format!("{}: damaged once more: {why}", path.display())))
        }
        Err(Trouble::Other(error)) => Err(error),
    }
}

fn rebuilt_event(why: &str, records: usize) -> Vec<u8> {
    record::encode::<event_capnp::event::Owned>(|mut out| {
        out.set_time_unix_ns(clock::now_unix_ns());
        out.set_topic("/metadata/rebuild");
        let records = records.to_string();
        let mut fields = out.init_fields(2);
        for (index, (key, value)) in (0..).zip([("why", why), ("records", &records)]) {
            let mut field = fields.reborrow().get(index);
            field.set_key(key);
            field.set_value(value);
        }
    })
}
