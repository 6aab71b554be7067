//! The second copy: a file beside the database to which every committed transaction is appended.
//!
//! It begins with a whole state ("base") and is written anew when it is much longer than that. It has no sync on the way
//! of a commit: the database is the truth as long as it is sound, and the journal is synced once a second and at the
//! end. So after a power cut it may lack what came last, which the database then has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Result, tree};
use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use crate::entry::{Draft, Entry, HEAD, Kind, MARK, Op, payload_len};
use crate::file::read_at;
use crate::seal;
use crate::store::{EVENTS, FORMAT, RECORDS, SEQUENCE, fail};

/// What a journal begins with.
const MAGIC: &[u8; 8] = b"CAPSTNJ1";

/// Parts of the base are about so long, so that a damaged page costs few records.
const PART: usize = 16 << 10;

/// So many of the newest events are in a base.
const BASE_EVENTS: u64 = 1000;

/// A journal shorter than this is not written anew.
const SMALL: u64 = 1 << 20;

/// It is written anew when it is so many times as long as its base.
const GROWTH: u64 = 4;

/// What a walk over a journal saw.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Of the last entry that is sound.
    pub(crate) sequence: u64,
    /// The newest cursor that is told of.
    pub(crate) cursor: u64,
    /// Behind the last sound entry.
    pub(crate) end: u64,
    /// Behind the base.
    pub(crate) base_end: u64,
    /// How many entries are sound.
    pub(crate) entries: u64,
    /// Stretches that are not readable and transactions that are missing, in words. What is not complete at the very
    /// end is none: that is what an end in the middle of a write leaves.
    pub(crate) flaws: Vec<String>,
    /// Whether there are bytes behind `end`.
    pub(crate) is_torn: bool,
}

/// Walks over the entries that are sound. What the medium does not give back is not sound.
///
/// # Errors
/// The file cannot be opened; `NotFound`: there is none.
pub(crate) fn walk(path: &Path, mut see: impl FnMut(&Entry)) -> io::Result<Walk> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut walk = Walk::default();
    let mut magic = [0; 8];
    if len < 8 || read_at(&file, &mut magic, 0).is_err() || magic != *MAGIC {
        if len >= 8 {
            walk.flaws.push("its first bytes are not those of a journal".into());
        } else {
            walk.is_torn = len > 0;
        }
    }
    let mut at = 8;
    let mut parts = 0;
    let mut has_base = false;
    while at < len {
        let Some((entry, next)) = entry_at(&file, at, len)? else {
            match resync(&file, at + 1, len)? {
                Some(found) => {
                    walk.flaws.push(format!("bytes {at} to {found} are not readable"));
                    at = found;
                    continue;
                }
                None => {
                    walk.is_torn = true;
                    break;
                }
            }
        };
        match entry.kind {
            Kind::Base => parts += 1,
            Kind::BaseEnd => {
                if entry.part != parts {
                    walk.flaws.push(format!("{parts} of {} parts of its base", entry.part));
                }
                has_base = true;
                walk.base_end = next;
            }
            Kind::Change => {
                if !has_base {
                    walk.flaws.push("the end of its base is missing".into());
                    has_base = true;
                } else if entry.sequence != walk.sequence + 1 {
                    let (after, before) = (walk.sequence, entry.sequence);
                    walk.flaws
                        .push(format!("transactions between {after} and {before} are missing"));
                }
            }
        }
        walk.sequence = entry.sequence;
        walk.cursor = walk.cursor.max(entry.cursor);
        walk.entries += 1;
        walk.end = next;
        see(&entry);
        at = next;
    }
    if walk.is_torn && !has_base && walk.entries > 0 {
        walk.flaws.push("the end of its base is missing".into());
    }
    Ok(walk)
}

/// The sound entry at an offset and the offset behind it.
fn entry_at(file: &File, at: u64, len: u64) -> io::Result<Option<(Entry, u64)>> {
    let mut head = [0; HEAD];
    if at + HEAD as u64 > len {
        return Ok(None);
    }
    read_at(file, &mut head, at)?;
    let Some(size) = payload_len(&head) else { return Ok(None) };
    let next = at + HEAD as u64 + u64::from(size);
    if next > len {
        return Ok(None);
    }
    let mut payload = vec![0; size as usize];
    read_at(file, &mut payload, at + HEAD as u64)?;
    Ok(Entry::read(&head, payload).map(|entry| (entry, next)))
}

/// The next offset at which there is a sound entry.
fn resync(file: &File, from: u64, len: u64) -> io::Result<Option<u64>> {
    const WINDOW: usize = 256 << 10;
    let mut at = from;
    while at + HEAD as u64 <= len {
        let size = usize::try_from((len - at).min(WINDOW as u64)).expect("a window is small");
        let mut window = vec![0; size];
        read_at(file, &mut window, at)?;
        for index in 0..size.saturating_sub(MARK.len() - 1) {
            if window[index..].starts_with(&MARK)
                && entry_at(file, at + index as u64, len)?.is_some()
            {
                return Ok(Some(at + index as u64));
            }
        }
        // A mark may lie over the edge.
        at += (size - (MARK.len() - 1)) as u64;
    }
    Ok(None)
}

/// The journal, as the writer has it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    base_len: u64,
    is_unsynced: bool,
    /// It lacks something that the database has, and cannot be appended to.
    is_behind: bool,
}

/// The path of the journal in the plugin's directory.
pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join("metadata.journal")
}

/// Gives a journal that is behind an end as that of a write which was cut off, so that nobody takes it for complete.
pub(crate) fn tear(dir: &Path) {
    let path = path_in(dir);
    let tear = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&path)?;
        let len = file.metadata()?.len();
        // Without space for a byte more it has one less.
        file.write_all_at(&[0], len).or_else(|_| file.set_len(len.saturating_sub(1)))?;
        file.sync_data()
    };
    match tear() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "the journal is behind, and does not say so");
        }
        _ => {}
    }
}

impl Journal {
    /// Goes on with a journal that a walk found sound.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn resume(dir: &Path, walk: &Walk) -> Result<Self> {
        let path = path_in(dir);
        let place = || format!("open {}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| Error::io(place(), error))?;
        if walk.is_torn {
            file.set_len(walk.end).map_err(|error| Error::io(place(), error))?;
        }
        let base_len = walk.base_end;
        Ok(Self { path, file, len: walk.end, base_len, is_unsynced: false, is_behind: false })
    }

    /// Makes one that has the state of the database, in place of the one that is there.
    ///
    /// # Errors
    /// `ResourceExhausted`: no space; what was there stays.
    pub(crate) fn create(dir: &Path, database: &Database) -> Result<Self> {
        let path = path_in(dir);
        let beside = dir.join("metadata.journal.new");
        let made = dump(&beside, database).and_then(|(file, len)| {
            // Without one to lose, the sync of every second will do.
            let is_first = !path.exists();
            if !is_first {
                file.sync_data().map_err(|error| Error::io("sync the journal", error))?;
            }
            fs::rename(&beside, &path).map_err(|error| Error::io("rename the journal", error))?;
            if !is_first {
                tree::sync_dir(dir)?;
            }
            Ok((file, len, is_first))
        });
        let (file, len, is_unsynced) = made.inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
        Ok(Self { path, file, len, base_len: len, is_unsynced, is_behind: false })
    }

    /// Appends a transaction. An error is kept in mind: see [`Journal::is_behind`].
    pub(crate) fn append(&mut self, entry: &[u8]) {
        if self.is_behind {
            return;
        }
        if let Err(error) = self.file.write_all_at(entry, self.len) {
            tracing::warn!(%error, path = %self.path.display(),
                "the second copy of the metadata cannot be written; it follows when there is room");
            // A torn end is no harm, and a shorter file may go through where a longer one does not.
            let _ = self.file.set_len(self.len);
            self.is_behind = true;
            return;
        }
        self.len += entry.len() as u64;
        self.is_unsynced = true;
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    pub(crate) fn is_unsynced(&self) -> bool {
        self.is_unsynced
    }

    pub(crate) fn is_long(&self) -> bool {
        self.len > SMALL.max(self.base_len * GROWTH)
    }

    /// After which length it is looked at again, where it could not be written anew.
    pub(crate) fn put_off(&mut self) {
        self.base_len = self.len;
    }

    pub(crate) fn sync(&mut self) {
        self.is_unsynced = false;
        if let Err(error) = self.file.sync_data() {
            // Which of its pages are on disk is not known any more.
            tracing::warn!(%error, path = %self.path.display(), "the journal is not synced");
            self.is_behind = true;
        }
    }
}

/// Writes a whole state to a new file.
fn dump(path: &Path, database: &Database) -> Result<(File, u64)> {
    let place = |error: io::Error| Error::io(format!("write {}", path.display()), error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let mut out = BufWriter::with_capacity(PART * 2, options.open(path).map_err(place)?);
    let read = database.begin_read().map_err(fail)?;
    let records = read.open_table(RECORDS).map_err(fail)?;
    let events = read.open_table(EVENTS).map_err(fail)?;
    let format = read.open_table(FORMAT).map_err(fail)?;
    let sequence = format.get(SEQUENCE).map_err(fail)?.map_or(0, |value| value.value());
    let cursor = events.last().map_err(fail)?.map_or(0, |(cursor, _)| cursor.value());

    let mut len = MAGIC.len() as u64;
    out.write_all(MAGIC).map_err(place)?;
    let mut part = 0;
    let mut draft = Draft::new();
    let mut write = |draft: Draft, kind: Kind, part: u32| {
        let bytes = draft.finish(kind, sequence, cursor, part);
        len += bytes.len() as u64;
        out.write_all(&bytes).map_err(place)
    };
    for row in records.iter().map_err(fail)? {
        let (key, value) = row.map_err(fail)?;
        draft.push(&Op::Put(key.value(), seal::open(key.value(), value.value())?));
        if draft.len() >= PART {
            write(std::mem::replace(&mut draft, Draft::new()), Kind::Base, part)?;
            part += 1;
        }
    }
    for row in events.range(cursor.saturating_sub(BASE_EVENTS - 1)..).map_err(fail)? {
        let (cursor, value) = row.map_err(fail)?;
        let key = cursor.value().to_le_bytes();
        draft.push(&Op::Event(cursor.value(), seal::open(&key, value.value())?));
        if draft.len() >= PART {
            write(std::mem::replace(&mut draft, Draft::new()), Kind::Base, part)?;
            part += 1;
        }
    }
    if !draft.is_empty() {
        write(draft, Kind::Base, part)?;
        part += 1;
    }
    write(Draft::new(), Kind::BaseEnd, part)?;
    let file = out.into_inner().map_err(|error| place(error.into_error()))?;
    Ok((file, len))
}
