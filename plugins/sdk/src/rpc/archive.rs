//! `ArchiveUpload` and `ArchiveDownload` of transfer.capnp: archives that a client sends and gets, piece by piece.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use bytes::Bytes;
use capstan_schema::{Error, MAX_CHUNK_BYTES, Result, transfer_capnp as wire};
use tokio::sync::{Mutex, mpsc, watch};

use super::transfer::{report, update};
use super::{answer, length};
use crate::contract::transfer::{ArchiveSink, ArchiveStream, Imported, Item};

/// Pieces of at most 1 MiB that wait for their reader.
const QUEUE: usize = 2;

/// The outcome of an operation, when it has come.
type Outcome<T> = watch::Receiver<Option<Result<T>>>;

/// Runs an operation beside the capability that stands for it; it is told of the capability's end by its streams.
fn spawn<T: Clone + 'static>(work: impl Future<Output = Result<T>> + 'static) -> Outcome<T> {
    let (land, outcome) = watch::channel(None);
    actix_rt::spawn(async move { land.send(Some(answer::contained(work).await)) });
    outcome
}

async fn outcome<T: Clone>(mut outcome: Outcome<T>) -> Result<T> {
    match outcome.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().expect("it was waited for"),
        Err(_) => Err(Error::aborted("the daemon is stopping")),
    }
}

/// What a client sends; `None` says that it was all.
type Piece = Option<Bytes>;

/// The reading end of an upload.
struct Inlet {
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    has_ended: bool,
}

impl Read for Inlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.has_ended {
            match self.pieces.blocking_recv() {
                Some(Some(bytes)) => self.rest = bytes,
                Some(None) => self.has_ended = true,
                None => return Err(io::Error::other(Error::aborted("the client went away"))),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// The two ends of an upload that has not begun.
pub(super) fn inlet() -> (mpsc::Sender<Piece>, ArchiveStream) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let inlet = Inlet { pieces, rest: Bytes::new(), has_ended: false };
    (sender, ArchiveStream(Box::new(inlet)))
}

pub(super) struct Upload {
    pieces: mpsc::Sender<Piece>,
    outcome: Outcome<Vec<Imported>>,
    /// Tells progress.
    report: tokio::task::JoinHandle<()>,
    sink: Option<wire::progress::Client>,
    /// The end of this receiving half is the sign to give the import up.
    progress: watch::Receiver<Vec<Item>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.report.abort();
    }
}

impl Upload {
    pub(super) fn new(
        pieces: mpsc::Sender<Piece>,
        sink: Option<wire::progress::Client>,
        progress: watch::Receiver<Vec<Item>>,
        work: impl Future<Output = Result<Vec<Imported>>> + 'static,
    ) -> Self {
        let report = actix_rt::spawn(report(sink.clone(), progress.clone()));
        Self { pieces, outcome: spawn(work), report, sink, progress }
    }

    async fn send(&self, piece: Piece) -> Result<()> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // Nobody reads any more: it has failed, or it has seen the end.
        outcome(self.outcome.clone()).await.map(drop)
    }
}

impl wire::archive_upload::Server for Upload {
    async fn write(
        self: Rc<Self>,
        params: wire::archive_upload::WriteParams,
        mut results: wire::archive_upload::WriteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let bytes = params.get_bytes()?;
            if bytes.len() > MAX_CHUNK_BYTES as usize {
                return Err(Error::invalid(format!(
                    "write of {} bytes: at most {MAX_CHUNK_BYTES} at once",
                    bytes.len()
                )));
            }
            self.send(Some(Bytes::copy_from_slice(bytes))).await
        };
        answer!(results, work)
    }

    async fn finish(
        self: Rc<Self>,
        _params: wire::archive_upload::FinishParams,
        mut results: wire::archive_upload::FinishResults,
    ) -> capnp::Result<()> {
        let work = async {
            self.send(None).await?;
            let imported = outcome(self.outcome.clone()).await?;
            if let Some(sink) = &self.sink {
                let items = self.progress.borrow().clone();
                let _ = update(sink, &items).await;
            }
            Ok(imported)
        };
        answer!(results, work, |out, imported| {
            let mut list = out.init_images(length(&imported));
            for (index, image) in (0..).zip(&imported) {
                let mut out = list.reborrow().get(index);
                out.set_name(&image.name);
                image.target.write(out.init_target());
            }
        })
    }
}

/// The writing end of a download.
struct Outlet(mpsc::Sender<Bytes>);

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_CHUNK_BYTES as usize);
        let piece = Bytes::copy_from_slice(&bytes[..count]);
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The two ends of a download that has not begun.
pub(super) fn outlet() -> (ArchiveSink, mpsc::Receiver<Bytes>) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    (ArchiveSink(Box::new(Outlet(sender))), pieces)
}

pub(super) struct Download {
    pieces: Mutex<mpsc::Receiver<Bytes>>,
    outcome: Outcome<()>,
    /// Read before the capability was given away.
    first: RefCell<Option<Bytes>>,
}

impl Download {
    /// Begins; an export that fails before its first byte fails here.
    pub(super) async fn new(
        mut pieces: mpsc::Receiver<Bytes>,
        work: impl Future<Output = Result<()>> + 'static,
    ) -> Result<Self> {
        let end = spawn(work);
        let first = pieces.recv().await;
        if first.is_none() {
            outcome(end.clone()).await?;
        }
        Ok(Self { pieces: Mutex::new(pieces), outcome: end, first: RefCell::new(first) })
    }
}

impl wire::archive_download::Server for Download {
    async fn read(
        self: Rc<Self>,
        _params: wire::archive_download::ReadParams,
        mut results: wire::archive_download::ReadResults,
    ) -> capnp::Result<()> {
        let work = async {
            if let Some(first) = self.first.take() {
                return Ok(first);
            }
            if let Some(bytes) = self.pieces.lock().await.recv().await {
                return Ok(bytes);
            }
            outcome(self.outcome.clone()).await?;
            Ok(Bytes::new())
        };
        answer!(results, work, |out, bytes| out.set_bytes(&bytes))
    }
}
