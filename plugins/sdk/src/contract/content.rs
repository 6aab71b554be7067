//! content: bytes named by their digest.
//!
//! A blob has a name only after its bytes were synced and verified. Bytes are shared by all
//! namespaces; names are not. Until then they are an *ingest*, which has one writer at a time and
//! can be resumed. Bytes travel as files and streams, never inside messages to this contract.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use capstan_schema::{Algorithm, Digest, Error, Labels, Namespace, Result};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::contract::graph::{Collected, Finding, Node};
use crate::contract::{Listed, Page};

/// What is known of a blob.
#[derive(Clone, Debug)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When this namespace got it.
    pub created_at_unix_ns: i64,
    /// Labels.
    pub labels: Labels,
}

/// What is known of an ingest.
#[derive(Clone, Debug)]
pub struct IngestInfo {
    /// Its name, chosen by the writer.
    pub reference: String,
    /// Bytes so far.
    pub offset: u64,
    /// Expected bytes; 0 = not known.
    pub total: u64,
    /// Expected digest.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at_unix_ns: i64,
    /// When bytes came last.
    pub updated_at_unix_ns: i64,
}

/// A blob that is open for reading. It stays readable even if the blob is deleted meanwhile.
#[derive(Clone, Debug)]
pub struct OpenBlob {
    /// Positioned anywhere: read with `read_at`.
    pub file: Arc<File>,
    /// Bytes.
    pub size: u64,
}

/// Looks a blob up. `NotFound`.
#[derive(Clone, Debug)]
pub struct Stat {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which blob.
    pub digest: Digest,
}

/// Lists blobs by digest.
#[derive(Clone, Debug)]
pub struct List {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which slice.
    pub page: Page,
}

/// Opens a blob for reading, and notes that it was used. `NotFound`, also when its bytes were put aside as damaged;
/// `Corrupt`: the name is there, the bytes are not.
#[derive(Clone, Debug)]
pub struct Open {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which blob.
    pub digest: Digest,
}

/// Opens the writer of an ingest: a new one, or an old one where it stopped.
///
/// `AlreadyExists`: the namespace has the expected blob; if only another namespace had it, it is
/// there now, unless the store is isolated. `Unavailable`: the ingest has a live writer. `FailedPrecondition`:
/// it was begun with another expected digest, size or algorithm. `InvalidArgument`: no name; an expected digest
/// of another algorithm.
#[derive(Clone, Debug)]
pub struct OpenIngest {
    /// In which namespace.
    pub namespace: Namespace,
    /// The name of the ingest.
    pub reference: String,
    /// What the bytes must hash to, if that is known.
    pub expected: Option<Digest>,
    /// How many they must be; 0 = not known.
    pub total: u64,
    /// Set on the blob when it gets its name; also when it has that already.
    pub labels: Labels,
    /// How the bytes are hashed. `None`: as `expected` is, or else as the store's configuration says.
    pub algorithm: Option<Algorithm>,
}

impl OpenIngest {
    /// One of which nothing is known yet.
    pub fn new(namespace: &Namespace, reference: impl Into<String>) -> Self {
        Self {
            namespace: namespace.clone(),
            reference: reference.into(),
            expected: None,
            total: 0,
            labels: Labels::new(),
            algorithm: None,
        }
    }
}

/// Lists ingests, with and without a writer.
#[derive(Clone, Debug)]
pub struct Ingests(pub Namespace);

/// Drops an ingest that has no writer, and its bytes. `NotFound`, `Unavailable`: it has a live writer.
#[derive(Clone, Debug)]
pub struct Abort {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which one.
    pub reference: String,
}

/// Removes a blob from a namespace; its bytes go with the last namespace that has it. `NotFound`.
#[derive(Clone, Debug)]
pub struct Delete {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which blob.
    pub digest: Digest,
}

/// Sets labels and keeps the others; an empty value removes the key. `NotFound`.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub digest: Digest,
    /// The changes.
    pub labels: Labels,
}

/// As [`Stat`], and notes that it was used: from now on it is not collected by a run that has begun already.
/// `NotFound`, also where the record is there and the bytes are not.
#[derive(Clone, Debug)]
pub struct Use {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub digest: Digest,
}

/// Removes those that nobody used since `unused_since_unix_ns`; the bytes of each go with its last namespace.
#[derive(Clone, Debug)]
pub struct Collect {
    /// Where.
    pub namespace: Namespace,
    /// Which; in few commits, so a caller passes many.
    pub digests: Vec<Digest>,
    /// When the caller began to look who keeps them.
    pub unused_since_unix_ns: i64,
}

/// The blobs and ingests of a namespace. An ingest is a root while it has a writer, and for some time after it had one.
#[derive(Clone, Debug)]
pub struct Nodes(pub Namespace);

/// Compares records with files, of all namespaces; with `is_full` every byte is hashed, and a blob that is damaged
/// loses its name: its file is put aside, so that [`Open`] and [`Use`] say `NotFound` until it comes again. [`Stat`]
/// still tells its record, with the labels that say where it came from.
///
/// With `is_cleaning` the files that nothing names are removed; they are findings all the same, and their detail
/// ends with `; removed`.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Hash all bytes.
    pub is_full: bool,
    /// Remove what nothing names.
    pub is_cleaning: bool,
}

/// What is in no namespace. The blobs that have bytes and no record: a blob gets its file before its record, and a crash
/// between the two, or a record that could not be written, leaves such a file. The ingests of namespaces that are not there,
/// or not any more, which nobody has gone on with for as long as an ingest is kept. With `is_removing` they go, and the
/// answer is what went.
#[derive(Clone, Debug)]
pub struct Orphans {
    /// Remove them.
    pub is_removing: bool,
}

crate::contract! {
    /// The contract of kind `content`.
    Content ("content") as ContentAddr {
        stat: Stat => BlobInfo [again],
        list: List => Listed<BlobInfo> [again],
        open: Open => OpenBlob [again],
        open_ingest: OpenIngest => Ingest [again],
        ingests: Ingests => Vec<IngestInfo> [again],
        abort: Abort => (),
        delete: Delete => (),
        label: Label => BlobInfo,
        use_: Use => BlobInfo [again],
        collect: Collect => Collected [again],
        nodes: Nodes => Vec<Node> [again],
        audit: Audit => Vec<Finding> [again],
        orphans: Orphans => Vec<Node> [again],
    }
}

/// What a writer sends to the store.
#[derive(Debug)]
pub enum IngestCommand {
    /// More bytes, in order.
    Write(Bytes),
    /// Verify, sync, name. Answers digest and size.
    Commit {
        /// What the bytes must hash to.
        expected: Option<Digest>,
        /// How many they must be; 0 = not known.
        total: u64,
        /// The answer.
        reply: oneshot::Sender<Result<(Digest, u64)>>,
    },
    /// Drop it all.
    Abort(oneshot::Sender<Result<()>>),
}

/// How far an ingest is; shared by its store, its writer and those who read along.
#[derive(Debug, Default)]
pub struct IngestProgress {
    state: Mutex<IngestState>,
    /// For readers, which block.
    changed: Condvar,
    /// For tasks.
    noted: Notify,
}

#[derive(Clone, Debug, Default)]
struct IngestState {
    offset: u64,
    ended: Option<Result<()>>,
}

impl IngestProgress {
    /// Progress that starts at what an earlier writer left.
    pub fn starting_at(offset: u64) -> Self {
        Self { state: Mutex::new(IngestState { offset, ended: None }), ..Self::default() }
    }

    /// For the store: bytes up to `offset` can be read from the file.
    pub fn advance(&self, offset: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).offset = offset;
        self.changed.notify_all();
        self.noted.notify_waiters();
    }

    /// For the store: no more bytes will come, and all that came are verified if it is `Ok`; they may still have to be synced
    /// and named, which is for whoever commits to wait for. The first end counts.
    pub fn end(&self, how: Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended.get_or_insert(how);
        drop(state);
        self.changed.notify_all();
        self.noted.notify_waiters();
    }

    /// Bytes so far.
    pub fn offset(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).offset
    }

    fn failure(&self) -> Option<Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.ended {
            Some(Err(error)) => Some(error.clone()),
            _ => None,
        }
    }

    /// Waits until bytes up to `offset` can be read from the file, or no more will come.
    async fn reached(&self, offset: u64) -> Result<()> {
        loop {
            let noted = self.noted.notified();
            if self.offset() >= offset {
                return Ok(());
            }
            let ended = self.state.lock().unwrap_or_else(PoisonError::into_inner).ended.clone();
            match ended {
                Some(how) => return how,
                None => noted.await,
            }
        }
    }

    /// Blocks until there are bytes behind `position`; `None` at the end.
    fn wait_behind(&self, position: u64) -> Result<Option<u64>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.offset > position {
                return Ok(Some(state.offset - position));
            }
            match &state.ended {
                Some(Ok(())) => return Ok(None),
                Some(Err(error)) => return Err(error.clone()),
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// The one writer of an ingest. Dropping it releases the ingest and keeps its bytes.
pub struct Ingest {
    /// As it was when it was opened.
    pub info: IngestInfo,
    commands: mpsc::Sender<IngestCommand>,
    progress: Arc<IngestProgress>,
    file: Arc<File>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingest({})", self.info.reference)
    }
}

impl Ingest {
    /// For the store.
    pub fn new(
        info: IngestInfo,
        commands: mpsc::Sender<IngestCommand>,
        progress: Arc<IngestProgress>,
        file: Arc<File>,
    ) -> Self {
        Self { info, commands, progress, file }
    }

    /// Appends bytes. Waits only when the store is several chunks behind.
    ///
    /// Cancel safety: dropped while it waits, the bytes were not taken.
    ///
    /// # Errors
    /// Those of an earlier write: `ResourceExhausted` when the disk is full, `Corrupt` after more bytes than it was to have,
    /// which drops it.
    pub async fn write(&self, bytes: Bytes) -> Result<()> {
        if self.commands.send(IngestCommand::Write(bytes)).await.is_err() {
            return Err(self.broken());
        }
        Ok(())
    }

    /// Verifies, syncs and names what was written. Bytes that the store has already are fine.
    ///
    /// # Errors
    /// `Corrupt`: size or digest are not as expected; the ingest is gone then. Those of earlier writes.
    pub async fn commit(self, expected: Option<Digest>, total: u64) -> Result<(Digest, u64)> {
        let (reply, answer) = oneshot::channel();
        let command = IngestCommand::Commit { expected, total, reply };
        if self.commands.send(command).await.is_err() {
            return Err(self.broken());
        }
        answer.await.unwrap_or_else(|_| Err(self.broken()))
    }

    /// Drops the ingest and its bytes.
    ///
    /// # Errors
    /// The bytes cannot be removed.
    pub async fn abort(self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(IngestCommand::Abort(reply)).await.is_err() {
            return Err(self.broken());
        }
        answer.await.unwrap_or_else(|_| Err(self.broken()))
    }

    /// Bytes that the store has taken so far.
    pub fn offset(&self) -> u64 {
        self.progress.offset()
    }

    /// Waits until the store has taken the bytes up to `offset`: from then on they are in the file.
    ///
    /// # Errors
    /// Those of the writes before it.
    pub async fn taken(&self, offset: u64) -> Result<()> {
        self.progress.reached(offset).await
    }

    /// Where the bytes are that were taken; for reading.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Readers for those who want to follow the writer.
    pub fn follow(&self) -> Follow {
        Follow { file: Arc::clone(&self.file), progress: Arc::clone(&self.progress) }
    }

    fn broken(&self) -> Error {
        self.progress.failure().unwrap_or_else(|| {
            let name = &self.info.reference;
            Error::unavailable(format!("the content store ended the ingest {name:?}; begin again"))
        })
    }
}

/// Makes readers of an ingest that is being written. Cheap to clone; good also after the commit.
#[derive(Clone, Debug)]
pub struct Follow {
    file: Arc<File>,
    progress: Arc<IngestProgress>,
}

impl Follow {
    /// A reader that starts at the first byte.
    pub fn tail(&self) -> Tail {
        Tail { file: Arc::clone(&self.file), progress: Arc::clone(&self.progress), position: 0 }
    }

    /// Bytes that the store has taken so far.
    pub fn offset(&self) -> u64 {
        self.progress.offset()
    }
}

/// Reads an ingest while it is written. Blocks at its end until more comes, so it belongs on a
/// thread for blocking work.
///
/// The bytes are not verified before the end is read: act on them, but name nothing after them until then. They are stored,
/// or not, after it: what is named may be there without the blob.
pub struct Tail {
    file: Arc<File>,
    progress: Arc<IngestProgress>,
    position: u64,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tail(at {})", self.position)
    }
}

impl io::Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.progress.wait_behind(self.position) {
            Ok(Some(ready)) => {
                let want = usize::try_from(ready).unwrap_or(usize::MAX).min(buffer.len());
                let got = self.file.read_at(&mut buffer[..want], self.position)?;
                self.position += got as u64;
                Ok(got)
            }
            Ok(None) => Ok(0),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Reads a stored blob from start to end.
#[derive(Debug)]
pub struct BlobReader {
    blob: OpenBlob,
    position: u64,
}

impl OpenBlob {
    /// A reader of its own position.
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), position: 0 }
    }

    /// All bytes of a small blob.
    ///
    /// # Errors
    /// `ResourceExhausted`: it is larger than `limit` bytes. `Corrupt`: the file is too short.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Error::exhausted(format!(
                "blob of {} bytes is larger than the {limit} that are read at once",
                self.size
            )));
        }
        let size = usize::try_from(self.size).map_err(|_| Error::exhausted("blob too large"))?;
        let mut bytes = vec![0; size];
        self.file
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| Error::corrupt(format!("read a blob of {size} bytes: {error}")))?;
        Ok(bytes)
    }
}

impl io::Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.blob.file.read_at(buffer, self.position)?;
        self.position += got as u64;
        Ok(got)
    }
}
