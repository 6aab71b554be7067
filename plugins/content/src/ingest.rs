//! Ingests: bytes on their way to become a blob.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use capstan_sdk::contract::content::{
    Ingest, IngestCommand, IngestInfo, IngestProgress, OpenIngest,
};
use capstan_sdk::{Algorithm, Class, Digest, Error, Namespace, Result, clock, failpoint};
use sha2::Digest as _;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::hasher::Hasher;
use crate::landing::Verified;
use crate::record::IngestRecord;

/// Chunks that may wait for the disk, per ingest. With the network's chunks of up to 64 KiB that is
/// at most 1 MiB: enough to keep the disk busy, too little to notice.
const QUEUE: usize = 16;

/// Bytes of an ingest between two syncs ahead of its commit.
const STEP: u64 = 16 << 20;

/// Whether one is under way, of whichever ingest: the disk has enough to do with one.
static IS_SYNCING: AtomicBool = AtomicBool::new(false);

/// `ingest/`, with one directory per ingest.
///
/// The one writer of an ingest holds a lock on its directory until that is gone, so that a writer of
/// an instance of the plugin that has ended, and still lives, is seen as well.
#[derive(Clone, Debug)]
pub(crate) struct Ingests {
    dir: PathBuf,
    /// Held while an ingest is opened: between the look and the lock.
    opening: Arc<Mutex<()>>,
}

impl Ingests {
    /// Opens it, or makes it; sweeps what a crash left before an ingest was complete enough to resume.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("ingest");
        let fail = |error| Error::io(format!("open {}", dir.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fail)?;
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let Ok(Some(_lock)) = claim(&path) else { continue };
            if let Err(error) = open_left(&path) {
                debug!(path = %path.display(), %error, "an ingest that cannot be resumed is swept");
                if let Err(error) = fs::remove_dir_all(&path) {
                    warn!(path = %path.display(), %error, "it could not be swept");
                }
            }
        }
        Ok(Self { dir, opening: Arc::default() })
    }

    fn path(&self, namespace: &Namespace, reference: &str) -> PathBuf {
        let mut hash = sha2::Sha256::new();
        hash.update(namespace.as_str());
        hash.update([0]);
        hash.update(reference);
        self.dir.join(Digest::from_hash(Algorithm::Sha256, &hash.finalize()).hex())
    }

    /// All ingests of a namespace, by reference.
    pub(crate) fn list(&self, namespace: &Namespace) -> Result<Vec<IngestInfo>> {
        let fail = |error| Error::io(format!("list {}", self.dir.display()), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            // One that ends while we look is not there.
            let (Ok(record), Ok(data)) = (read_record(&path), fs::metadata(path.join("data")))
            else {
                continue;
            };
            if record.namespace == *namespace {
                let updated = data.modified().ok().and_then(unix_ns);
                found.push(info(&record, data.len(), updated));
            }
        }
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(found)
    }

    /// Removes an ingest that has no writer.
    pub(crate) fn abort(&self, namespace: &Namespace, reference: &str) -> Result<()> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(namespace, reference);
        let place = || format!("ingest {reference:?}");
        let _lock = claim(&path)
            .map_err(|error| error.at(place()))?
            .ok_or_else(|| Error::not_found(format!("{}: there is none", place())))?;
        fs::remove_dir_all(&path).map_err(|error| Error::io(place(), error))
    }

    /// The references of those that have a writer.
    pub(crate) fn written(&self, namespace: &Namespace) -> Result<HashSet<String>> {
        let listed = self.list(namespace)?;
        // So that nobody who opens one now takes our look for a writer.
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let has_writer = |reference: &str| claim(&self.path(namespace, reference)).is_err();
        Ok(listed.into_iter().map(|info| info.reference).filter(|name| has_writer(name)).collect())
    }

    /// What lies there and is no ingest, and has no writer that could make it one.
    pub(crate) fn strays(&self, is_cleaning: bool) -> Result<Vec<PathBuf>> {
        let fail = |error| Error::io(format!("list {}", self.dir.display()), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let is_stray = match entry.file_type().map_err(fail)?.is_dir() {
                false => true,
                true => matches!(claim(&path), Ok(Some(_)) if open_left(&path).is_err()),
            };
            if !is_stray {
                continue;
            }
            if is_cleaning {
                remove_any(&path)?;
            }
            found.push(path);
        }
        Ok(found)
    }

    /// Those of namespaces that are not `known`, which nobody writes, nor has since `oldest_unix_ns`. With `is_removing` they
    /// go.
    pub(crate) fn forsaken(
        &self,
        known: &HashSet<Namespace>,
        oldest_unix_ns: i64,
        is_removing: bool,
    ) -> Result<Vec<IngestInfo>> {
        let fail = |error| Error::io(format!("list {}", self.dir.display()), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(Some(_lock)) = claim(&path) else { continue };
            // What is no ingest is the audit's.
            let Ok((record, data)) = open_left(&path) else { continue };
            let about = data.metadata().map_err(fail)?;
            let info = info(&record, about.len(), about.modified().ok().and_then(unix_ns));
            if known.contains(&record.namespace) || last_written(&info) >= oldest_unix_ns {
                continue;
            }
            if is_removing {
                remove_any(&path)?;
            }
            found.push(info);
        }
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(found)
    }

    /// Opens the writer of an ingest, hashing what an earlier writer left. `algorithm`: if the caller has no wish.
    pub(crate) fn writer(&self, open: &OpenIngest, algorithm: Algorithm) -> Result<Writer> {
        let path = self.path(&open.namespace, &open.reference);
        let at = |error: Error| error.at(format!("ingest {:?}", open.reference));
        let (lock, mut record, file) = {
            let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            begin_or_resume(&path, open, algorithm).map_err(at)?
        };
        record.labels.extend(open.labels.clone());
        let reader =
            File::open(path.join("data")).map_err(|error| at(Error::io("open it", error)))?;
        let mut hasher = Hasher::new(record.algorithm);
        let offset = rehash(&file, &mut hasher).map_err(at)?;
        let reader = Arc::new(reader);
        let opened = (offset == 0).then(Instant::now);
        Ok(Writer { record, path, file, opened, reader, hasher, offset, unsynced: 0, lock })
    }
}

/// Makes whoever has this file the one writer of the ingest in a directory, until it is closed. `None`:
/// there is no such directory.
///
/// # Errors
/// `Unavailable`: it has a writer.
fn claim(path: &Path) -> Result<Option<File>> {
    loop {
        let dir = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| Error::io("open it", error))?,
        };
        dir.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Error::unavailable("it has a writer; wait for it, or use another name")
            }
            TryLockError::Error(error) => Error::io("lock it", error),
        })?;
        // Its writer may have ended, and removed it, between the two steps.
        let inode = |about: std::io::Result<Metadata>| about.ok().map(|about| about.ino());
        if inode(dir.metadata()) == inode(fs::metadata(path)) {
            return Ok(Some(dir));
        }
    }
}

fn begin_or_resume(
    path: &Path,
    open: &OpenIngest,
    algorithm: Algorithm,
) -> Result<(File, IngestRecord, File)> {
    if let Some(lock) = claim(path)? {
        match open_left(path) {
            Ok((record, file)) => {
                check_same(&record, open)?;
                return Ok((lock, record, file));
            }
            // A daemon was killed after it had given the data its name, or before there was any.
            Err(error) => {
                debug!(path = %path.display(), %error, "an ingest that cannot be resumed begins anew");
                fs::remove_dir_all(path).map_err(|error| Error::io("sweep it", error))?;
            }
        }
    }
    begin(path, open, algorithm)
}

/// Removes a file or a tree.
pub(crate) fn remove_any(path: &Path) -> Result<()> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|about| about.is_dir());
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|error| Error::io(format!("remove {}", path.display()), error))
}

fn unix_ns(time: std::time::SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// When the last of its bytes came, or it began.
pub(crate) fn last_written(info: &IngestInfo) -> i64 {
    info.updated_at_unix_ns.max(info.started_at_unix_ns)
}

fn info(record: &IngestRecord, offset: u64, updated_at_unix_ns: Option<i64>) -> IngestInfo {
    IngestInfo {
        reference: record.reference.clone(),
        offset,
        total: record.total,
        expected: record.expected.clone(),
        started_at_unix_ns: record.started_at_unix_ns,
        updated_at_unix_ns: updated_at_unix_ns.unwrap_or(record.started_at_unix_ns),
    }
}

fn read_record(path: &Path) -> Result<IngestRecord> {
    let file = path.join("record");
    let bytes =
        fs::read(&file).map_err(|error| Error::io(format!("read {}", file.display()), error))?;
    IngestRecord::read(&bytes)
}

/// The data file first, the record last: a directory with a record is complete.
fn begin(
    path: &Path,
    open: &OpenIngest,
    algorithm: Algorithm,
) -> Result<(File, IngestRecord, File)> {
    let fail = |error| Error::io("begin", error);
    DirBuilder::new().mode(0o700).create(path).map_err(fail)?;
    let lock = claim(path)?.ok_or_else(|| fail(ErrorKind::NotFound.into()))?;
    let file = options().create_new(true).open(path.join("data")).map_err(fail)?;
    let expected = open.expected.as_ref().map(Digest::algorithm);
    let record = IngestRecord {
        namespace: open.namespace.clone(),
        reference: open.reference.clone(),
        total: open.total,
        expected: open.expected.clone(),
        started_at_unix_ns: clock::now_unix_ns(),
        labels: open.labels.clone(),
        algorithm: open.algorithm.or(expected).unwrap_or(algorithm),
    };
    fs::write(path.join("record.new"), record.write()).map_err(fail)?;
    fs::rename(path.join("record.new"), path.join("record")).map_err(fail)?;
    Ok((lock, record, file))
}

/// What an earlier writer left: both record and data, or there is nothing to resume.
fn open_left(path: &Path) -> Result<(IngestRecord, File)> {
    let record = read_record(path)?;
    let data = options().open(path.join("data"));
    Ok((record, data.map_err(|error| Error::io("open its data", error))?))
}

fn check_same(record: &IngestRecord, open: &OpenIngest) -> Result<()> {
    let differs = |what: &str, was: String| {
        Error::precondition(format!(
            "it was begun with {what} {was}; abort it (capstan content abort), then begin anew"
        ))
    };
    if let (Some(was), Some(now)) = (&record.expected, &open.expected)
        && was != now
    {
        return Err(differs("digest", was.to_string()));
    }
    let wanted = open.algorithm.or(open.expected.as_ref().map(Digest::algorithm));
    if wanted.is_some_and(|wanted| wanted != record.algorithm) {
        return Err(differs("algorithm", record.algorithm.name().into()));
    }
    if record.total > 0 && open.total > 0 && record.total != open.total {
        return Err(differs("size", record.total.to_string()));
    }
    Ok(())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn rehash(mut file: &File, hasher: &mut Hasher) -> Result<u64> {
    // Of a fresh one it is nothing.
    let size = file.metadata().map_err(|error| Error::io("look at its data", error))?.len();
    let mut buffer = vec![0; size.min(256 << 10) as usize];
    let mut offset = 0;
    loop {
        let got = file.read(&mut buffer).map_err(|error| Error::io("read its data", error))?;
        if got == 0 {
            return Ok(offset);
        }
        hasher.update(&buffer[..got]);
        offset += got as u64;
    }
}

/// The store's side of an open ingest.
pub(crate) struct Writer {
    record: IngestRecord,
    path: PathBuf,
    file: File,
    /// When it was, if it was empty then.
    opened: Option<Instant>,
    /// For those who read along.
    reader: Arc<File>,
    hasher: Hasher,
    offset: u64,
    /// Bytes since the last that were sent to the disk ahead.
    unsynced: u64,
    /// The directory, locked; the last to go.
    lock: File,
}

impl Writer {
    /// The two ends: one for the client, one for [`Writer::run`].
    pub(crate) fn ends(&self) -> (Ingest, Inbox) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let progress = Arc::new(IngestProgress::starting_at(self.offset));
        let info = info(&self.record, self.offset, None);
        let ingest = Ingest::new(info, commands, Arc::clone(&progress), Arc::clone(&self.reader));
        (ingest, Inbox { commands: receiver, progress })
    }

    /// Serves the client until it commits, aborts or goes away; `land` makes a verified file a blob.
    ///
    /// It blocks: it has a thread of the pool for as long as the ingest is open.
    pub(crate) fn run(mut self, mut inbox: Inbox, land: impl FnOnce(Verified) -> Result<()>) {
        while let Some(command) = inbox.commands.blocking_recv() {
            match command {
                IngestCommand::Write(bytes) => match self.append(&bytes) {
                    Ok(()) => inbox.progress.advance(self.offset),
                    Err(error) => {
                        if error.class() == Class::Corrupt {
                            discard(&self.path);
                        }
                        return inbox.progress.end(Err(error));
                    }
                },
                IngestCommand::Commit { expected, total, reply } => {
                    let progress = &inbox.progress;
                    let outcome = self.commit(expected.as_ref(), total, progress, land);
                    inbox.progress.end(outcome.clone().map(drop));
                    // A client that left does not undo a commit.
                    let _ = reply.send(outcome);
                    return;
                }
                IngestCommand::Abort(reply) => {
                    let outcome = fs::remove_dir_all(&self.path).map_err(|error| {
                        Error::io(format!("abort {:?}", self.record.reference), error)
                    });
                    inbox.progress.end(Err(Error::aborted("the ingest was aborted")));
                    drop(self);
                    let _ = reply.send(outcome);
                    return;
                }
            }
        }
        let error = Error::aborted(format!("the writer of {:?} went away", self.record.reference));
        inbox.progress.end(Err(error));
    }

    fn append(&mut self, bytes: &Bytes) -> Result<()> {
        let place = || format!("write ingest {:?} at {}", self.record.reference, self.offset);
        let total = self.record.total;
        if total > 0 && self.offset + bytes.len() as u64 > total {
            return Err(Error::corrupt(format!("{}: more than the {total} bytes it has", place())));
        }
        self.file.write_all_at(bytes, self.offset).map_err(|error| Error::io(place(), error))?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= STEP && !IS_SYNCING.swap(true, Ordering::Relaxed) {
            self.unsynced = 0;
            self.sync_ahead();
        }
        Ok(())
    }

    /// Sends what is there to the disk while more comes: the sync of the commit finds little to do, and what else has to be
    /// synced meanwhile does not wait for all of it.
    fn sync_ahead(&self) {
        // Not the file that is written: what fails here is told to the commit, which asks that one.
        let file = Arc::clone(&self.reader);
        let sync = move || {
            let _ = file.sync_data();
            IS_SYNCING.store(false, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("sync-ahead".into()).spawn(sync).is_err() {
            IS_SYNCING.store(false, Ordering::Relaxed);
        }
    }

    fn commit(
        self,
        expected: Option<&Digest>,
        total: u64,
        progress: &IngestProgress,
        land: impl FnOnce(Verified) -> Result<()>,
    ) -> Result<(Digest, u64)> {
        // The lock is held until the directory is gone.
        let Self { record, path, file, opened, hasher, offset, lock: _lock, .. } = self;
        let digest = hasher.finish();
        let verdict = check(&record, offset, &digest, expected, total);
        if let Err(error) = verdict {
            discard(&path);
            return Err(error);
        }
        // Who reads along need not wait for the disk.
        progress.end(Ok(()));
        failpoint::at("ingest:verified");
        let IngestRecord { namespace, reference, labels, .. } = record;
        land(Verified {
            namespace,
            reference,
            path: path.clone(),
            file,
            opened,
            digest: digest.clone(),
            size: offset,
            labels,
        })?;
        if let Err(error) = fs::remove_dir_all(&path) {
            warn!(path = %path.display(), %error, "a committed ingest could not be removed");
        }
        Ok((digest, offset))
    }
}

/// These bytes are not what anybody wanted: a retry must not build on them.
fn discard(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        warn!(path = %path.display(), %error, "a corrupt ingest could not be removed");
    }
}

fn check(
    record: &IngestRecord,
    size: u64,
    digest: &Digest,
    expected: Option<&Digest>,
    total: u64,
) -> Result<()> {
    let reference = &record.reference;
    for want in [record.total, total] {
        if want > 0 && want != size {
            return Err(Error::corrupt(format!("{reference:?} has {size} bytes, want {want}")));
        }
    }
    for want in [record.expected.as_ref(), expected].into_iter().flatten() {
        if want.algorithm() != digest.algorithm() {
            return Err(Error::invalid(format!(
                "{reference:?} is hashed with {}, want {want}: say so when it is opened",
                digest.algorithm().name()
            )));
        }
        if want != digest {
            return Err(Error::corrupt(format!("{reference:?} hashes to {digest}, want {want}")));
        }
    }
    Ok(())
}

/// The receiving end of an open ingest.
pub(crate) struct Inbox {
    commands: mpsc::Receiver<IngestCommand>,
    progress: Arc<IngestProgress>,
}
