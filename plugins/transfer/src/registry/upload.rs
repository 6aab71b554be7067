//! Blobs into a registry (OCI distribution-spec 1.1, "Push"): not those that it has, mounted where another of its
//! repositories has them, else sent whole or in chunks, over breaks.
//!
//! An upload is a place that the registry names anew with each answer. After a break it is asked how much it has, and
//! the rest is sent. A registry that does not know is begun with anew. An upload that nobody goes on with is cancelled.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::contract::content::OpenBlob;
use capstan_sdk::{Class, Digest, Error, Result};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::debug;

use super::Repository;
use super::exchange::{Ask, send};
use super::pool::{Answer, Sent};
use super::repository::claimed_digest;
use super::retry::{Attempts, Failure, retry};
use super::url::Url;

/// Bytes that are read at once: two such pieces of each upload are in memory.
const PIECE: u64 = 256 << 10;

/// The header with the least bytes of a chunk, but for the last.
const MIN_CHUNK: &str = "oci-chunk-min-length";

/// The most bytes of an answer that are read only to keep its connection.
const MAX_REST: u64 = 16 << 10;

/// How long a registry is given to say where an upload is that nobody goes on with, and how long to drop it: it does
/// that by itself at last.
const CANCEL_TIME: Duration = Duration::from_secs(3);

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It was there.
    Exists,
    /// From another repository of the registry.
    Mounted,
    /// It was sent.
    Sent,
}

/// A blob that is here, and how it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its bytes.
    pub(crate) blob: OpenBlob,
    /// A repository of the same registry that may have it.
    pub(crate) mount: Option<String>,
    /// The most bytes that go in one request; 0 = all.
    pub(crate) chunk: u64,
    /// How many went out; less again where some must go anew.
    pub(crate) sent: Arc<AtomicU64>,
    /// What is under way meanwhile.
    pub(crate) begun: Begun,
}

/// An upload that is neither complete nor cancelled, as its registry has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Arc<watch::Sender<Stage>>);

#[derive(Debug, Default)]
enum Stage {
    /// There is none.
    #[default]
    None,
    /// The registry was asked to begin it: there may be one.
    Asked,
    /// It is there.
    At(Url),
}

impl Begun {
    fn set(&self, place: Option<Url>) -> Option<Url> {
        match self.0.send_replace(place.map_or(Stage::None, Stage::At)) {
            Stage::At(url) => Some(url),
            Stage::None | Stage::Asked => None,
        }
    }

    /// Waits until it is known whether there is one.
    async fn settled(&self) {
        let mut stage = self.0.subscribe();
        let _ = stage.wait_for(|stage| !matches!(stage, Stage::Asked)).await;
    }
}

/// Reads a part of a blob, a piece ahead of who sends it.
struct Pieces {
    file: Arc<File>,
    position: u64,
    end: u64,
    next: Option<JoinHandle<io::Result<Bytes>>>,
    sent: Arc<AtomicU64>,
    failure: Arc<OnceLock<String>>,
}

impl Pieces {
    /// Begins to read the piece at an offset, if there is one.
    fn read(&mut self, at: u64) {
        let length = (self.end - at).min(PIECE);
        let length = usize::try_from(length).expect("a piece fits into memory");
        let file = Arc::clone(&self.file);
        self.next = (length > 0).then(|| {
            spawn_blocking(move || {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, at)?;
                Ok(Bytes::from(bytes))
            })
        });
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let read = ready!(Pin::new(next).poll(cx)).map_err(io::Error::other).flatten();
        match read {
            Ok(bytes) => {
                self.position += bytes.len() as u64;
                let position = self.position;
                self.sent.store(position, Ordering::Relaxed);
                self.read(position);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Err(error) => {
                self.next = None;
                let _ = self.failure.set(error.to_string());
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.position)
    }
}

/// An upload that a registry has begun.
struct Session {
    url: Url,
    /// The least bytes of a chunk.
    min_chunk: u64,
    /// How many bytes the registry has.
    offset: u64,
    /// Whether it may have more or less: something was sent that was not answered.
    is_doubtful: bool,
}

/// The answer to what may begin an upload, and where that is.
struct Posted {
    answer: Answer,
    url: Option<Url>,
}

/// One blob on its way.
struct Upload<'a> {
    what: String,
    digest: &'a Digest,
    source: &'a Source,
    mount: Option<String>,
    session: Option<Session>,
    is_chunked: bool,
    /// Whether the other way, in chunks or whole, was tried because the registry refused one.
    has_switched: bool,
    /// Whether an answer to the last request may have been lost: then it may be complete.
    may_be_there: bool,
    /// The most bytes that the registry has had.
    best: u64,
    /// What went wrong when the blob was read.
    failure: Arc<OnceLock<String>>,
}

impl Upload<'_> {
    fn size(&self) -> u64 {
        self.source.blob.size
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("an upload was begun")
    }

    /// Turns a refusal of one way into a try of the other one, once.
    fn switch(&mut self, refusal: Failure) -> Failure {
        if std::mem::replace(&mut self.has_switched, true) {
            return refusal;
        }
        self.is_chunked = !self.is_chunked;
        self.session = None;
        Failure::from(refusal.error.as_class(Class::Unavailable))
    }

    /// Goes on there.
    fn goes_on(&mut self, session: Session) {
        self.source.begun.set(Some(session.url.clone()));
        self.session = Some(session);
    }

    /// The upload is not known any more: it is begun anew.
    fn lost(&mut self) -> Failure {
        self.session = None;
        self.source.begun.set(None);
        let what = &self.what;
        Failure::from(Error::unavailable(format!(
            "{what}: the registry lost the upload; try again"
        )))
    }

    fn out_of_step(&self) -> Failure {
        let what = &self.what;
        Failure::from(Error::unavailable(format!(
            "{what}: the registry has other bytes of the upload than it said; try again"
        )))
    }
}

/// A status that says that the upload would have to go in another way.
const OTHER_WAY: [StatusCode; 4] = [
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::LENGTH_REQUIRED,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::NOT_IMPLEMENTED,
];

impl Repository {
    /// A request about something at a checked path of this repository, for a push.
    ///
    /// # Errors
    /// `FailedPrecondition`: nobody may be pushed to.
    pub(super) fn ask<'a>(&'a self, what: &'a str, path: &str) -> Result<Ask<'a>> {
        let path = format!("/v2/{}/{path}", self.reference.repository());
        Ok(Ask::get(what, self.pushed_to()?, &path))
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// As [`Repository::resolve`], but for `NotFound`.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let what = self.name("blob", digest);
        self.has(self.ask(&what, &format!("blobs/{digest}"))?).await
    }

    /// Whether there is what is asked for.
    pub(super) async fn has(&self, ask: Ask<'_>) -> Result<bool> {
        let ask = Ask { method: Method::HEAD, ..ask };
        let head = || async {
            finish(send(&self.pool, &ask).await?).await;
            Ok(())
        };
        match retry(self.config(), head).await {
            Ok(()) => Ok(true),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings a blob into the repository, unless it is there.
    ///
    /// # Errors
    /// - `PermissionDenied`: the registry does not let us.
    /// - `Unavailable`: it cannot be reached, breaks off, or is in trouble, after all attempts without progress.
    /// - `Corrupt`: it took other bytes than were sent, or the blob cannot be read here.
    /// - `FailedPrecondition`: what answers is no registry, or does not take it.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the registry does not have it. Of what was sent so far [`Repository::cancel_upload`]
    /// rids it.
    pub(crate) async fn push_blob(&self, digest: &Digest, source: &Source) -> Result<Pushed> {
        match self.has_blob(digest).await? {
            true => Ok(Pushed::Exists),
            false => self.upload_blob(digest, source).await,
        }
    }

    /// The same for a blob that the repository does not have.
    pub(crate) async fn upload_blob(&self, digest: &Digest, source: &Source) -> Result<Pushed> {
        let outcome = self.upload(digest, source).await;
        if outcome.is_err() {
            self.cancel_upload(&source.begun).await;
        }
        outcome
    }

    /// Has the registry drop an upload that nobody goes on with ("Canceling an Upload" of docker's API). It would do so
    /// by itself in a while: that it does not now, or does not let us, is no error.
    pub(crate) async fn cancel_upload(&self, begun: &Begun) {
        let Some(url) = begun.set(None) else { return };
        let cancel = async {
            let what = "cancel an upload";
            let good = &[StatusCode::NO_CONTENT, StatusCode::ACCEPTED, StatusCode::OK];
            let ask =
                Ask { method: Method::DELETE, url, good, ..self.ask(what, "blobs/uploads/")? };
            finish(send(&self.pool, &ask).await?).await;
            Ok::<_, Failure>(())
        };
        match timeout(CANCEL_TIME, cancel).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => debug!(error = %failure.error, "an upload is not cancelled"),
            Err(_) => debug!("an upload is not cancelled in time"),
        }
    }

    /// Drops a push, and has its upload cancelled. If the registry is just beginning one, the push goes on until it has
    /// said where, as it could not be cancelled otherwise.
    pub(crate) async fn abandon<T>(
        &self,
        mut push: Pin<Box<impl Future<Output = T>>>,
        begun: &Begun,
    ) {
        let settled = async {
            tokio::select! {
                biased;
                () = begun.settled() => {}
                _ = &mut push => {}
            }
        };
        if timeout(CANCEL_TIME, settled).await.is_err() {
            debug!("the registry has not said in time whether it has begun an upload");
        }
        drop(push);
        self.cancel_upload(begun).await;
    }

    /// Has a blob mounted from another repository of the registry; answers whether it was.
    ///
    /// # Errors
    /// As [`Repository::push_blob`]. That the registry does not do it is none.
    pub(crate) async fn mount_blob(
        &self,
        digest: &Digest,
        from: &str,
        begun: &Begun,
    ) -> Result<bool> {
        let what = self.name("blob", digest);
        let mount = || self.try_mount(&what, digest, from, begun);
        let Some(Posted { answer, .. }) = retry(self.config(), mount).await? else {
            return Ok(false);
        };
        let is_mounted = answer.head.status == StatusCode::CREATED;
        let checked = check_digest(&what, &answer.head.headers, digest);
        finish(answer).await;
        // In its place an upload was begun.
        self.cancel_upload(begun).await;
        if is_mounted { checked.map(|()| true) } else { Ok(false) }
    }

    /// Asks for a mount: it is done, or an upload is begun. `None`: the registry does not do that, or not from there.
    async fn try_mount(
        &self,
        what: &str,
        digest: &Digest,
        from: &str,
        begun: &Begun,
    ) -> Result<Option<Posted>, Failure> {
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        match self.post(what, &path, &[StatusCode::CREATED, StatusCode::ACCEPTED], begun).await {
            Ok(posted) => Ok(Some(posted)),
            Err(Failure { error, .. }) if error.class() != Class::Unavailable => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Asks the registry for something that may begin an upload, and notes whether it does.
    async fn post(
        &self,
        what: &str,
        path: &str,
        good: &'static [StatusCode],
        begun: &Begun,
    ) -> Result<Posted, Failure> {
        let ask = Ask { method: Method::POST, good, ..self.ask(what, path)? };
        begun.0.send_replace(Stage::Asked);
        let post = async {
            let answer = send(&self.pool, &ask).await?;
            let url = match answer.head.status {
                StatusCode::CREATED => None,
                _ => place(what, &ask, &answer)?,
            };
            Ok(Posted { answer, url })
        };
        let posted = post.await;
        begun.set(posted.as_ref().ok().and_then(|posted| posted.url.clone()));
        posted
    }

    async fn upload(&self, digest: &Digest, source: &Source) -> Result<Pushed> {
        let mut upload = Upload {
            what: self.name("blob", digest),
            digest,
            source,
            mount: source.mount.clone(),
            session: None,
            is_chunked: source.chunk > 0 && source.blob.size > source.chunk,
            has_switched: false,
            may_be_there: false,
            best: 0,
            failure: Arc::default(),
        };
        let mut attempts = Attempts::new(self.config());
        loop {
            let before = upload.best;
            let failure = match self.attempt(&mut upload).await {
                Ok(pushed) => return Ok(pushed),
                Err(failure) => failure,
            };
            if let Some(why) = upload.failure.get() {
                return Err(Error::corrupt(format!("{}: it cannot be read: {why}", upload.what)));
            }
            if upload.best > before {
                attempts.progressed();
            }
            attempts.wait_after(failure).await?;
        }
    }

    async fn attempt(&self, upload: &mut Upload<'_>) -> Result<Pushed, Failure> {
        if upload.session.as_ref().is_some_and(|session| session.is_doubtful) {
            self.look(upload).await?;
        }
        if upload.session.is_none() {
            if upload.may_be_there && self.has_blob(upload.digest).await? {
                return Ok(Pushed::Sent);
            }
            if self.begin(upload).await? == Pushed::Mounted {
                return Ok(Pushed::Mounted);
            }
        }
        // What was begun whole and broke goes on in chunks.
        upload.is_chunked |= upload.session().offset > 0;
        while upload.is_chunked && upload.session().offset < upload.size() {
            self.send_chunk(upload).await?;
        }
        self.close(upload).await?;
        Ok(Pushed::Sent)
    }

    /// Begins an upload, or has the blob mounted.
    async fn begin(&self, upload: &mut Upload<'_>) -> Result<Pushed, Failure> {
        // What was begun before in a way that the registry does not take.
        self.cancel_upload(&upload.source.begun).await;
        let (what, digest, begun) = (&upload.what, upload.digest, &upload.source.begun);
        let mounted = match upload.mount.take() {
            Some(from) => self.try_mount(what, digest, &from, begun).await?,
            None => None,
        };
        let Posted { answer, url } = match mounted {
            Some(posted) => posted,
            None => self.post(what, "blobs/uploads/", &[StatusCode::ACCEPTED], begun).await?,
        };
        if answer.head.status == StatusCode::CREATED {
            check_digest(what, &answer.head.headers, digest)?;
            finish(answer).await;
            return Ok(Pushed::Mounted);
        }
        let url = url.ok_or_else(|| {
            Error::precondition(format!(
                "{what}: the registry begins an upload without saying where; it is set up wrong"
            ))
        })?;
        let min_chunk = number(&answer.head.headers, MIN_CHUNK).unwrap_or(0);
        upload.goes_on(Session { url, min_chunk, offset: 0, is_doubtful: false });
        finish(answer).await;
        Ok(Pushed::Sent)
    }

    /// Asks how much of an upload the registry has. If it does not know, there is no session any more.
    async fn look(&self, upload: &mut Upload<'_>) -> Result<(), Failure> {
        let size = upload.size();
        let session = upload.session.take().expect("an upload was begun");
        let ask = Ask {
            url: session.url.clone(),
            good: &[StatusCode::NO_CONTENT, StatusCode::ACCEPTED, StatusCode::OK],
            ..self.ask(&upload.what, "blobs/uploads/")?
        };
        let answer = match send(&self.pool, &ask).await {
            Ok(answer) => answer,
            Err(failure) if failure.error.class() == Class::Unavailable => {
                upload.session = Some(session);
                return Err(failure);
            }
            Err(failure) if failure.error.class() == Class::NotFound => {
                upload.source.begun.set(None);
                return Ok(());
            }
            // It cannot tell.
            Err(_) => return Ok(()),
        };
        let has = taken(&answer.head.headers).filter(|has| *has <= size);
        let to = place(&upload.what, &ask, &answer)?;
        finish(answer).await;
        let Some(offset) = has else { return Ok(()) };
        let url = to.unwrap_or(session.url);
        upload.best = upload.best.max(offset);
        upload.source.sent.store(offset, Ordering::Relaxed);
        upload.goes_on(Session { url, offset, is_doubtful: false, ..session });
        Ok(())
    }

    async fn send_chunk(&self, upload: &mut Upload<'_>) -> Result<(), Failure> {
        let (size, chunk) = (upload.size(), upload.source.chunk);
        let session = upload.session();
        let start = session.offset;
        let end = match chunk.max(session.min_chunk) {
            0 => size,
            length => size.min(start.saturating_add(length)),
        };
        session.is_doubtful = true;
        let url = session.url.clone();
        let body = upload.source.body(start, end, &upload.failure);
        let ask = Ask {
            method: Method::PATCH,
            url,
            headers: vec![octets(), value(header::CONTENT_RANGE, &format!("{start}-{}", end - 1))],
            body: Some(&body),
            good: &[
                StatusCode::ACCEPTED,
                StatusCode::CREATED,
                StatusCode::NO_CONTENT,
                StatusCode::NOT_FOUND,
                StatusCode::RANGE_NOT_SATISFIABLE,
            ],
            ..self.ask(&upload.what, "blobs/uploads/")?
        };
        let sent = send(&self.pool, &ask).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(failure) if failure.error.class() == Class::FailedPrecondition => {
                return Err(upload.switch(failure));
            }
            Err(failure) => return Err(failure),
        };
        let to = place(&upload.what, &ask, &answer)?;
        let status = answer.head.status;
        let has = taken(&answer.head.headers).unwrap_or(end);
        finish(answer).await;
        match status {
            StatusCode::NOT_FOUND => return Err(upload.lost()),
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(upload.out_of_step()),
            _ if has <= start || has > end => return Err(upload.out_of_step()),
            _ => {}
        }
        upload.best = upload.best.max(has);
        let session = upload.session.take().expect("an upload was begun");
        let url = to.unwrap_or(session.url);
        upload.goes_on(Session { url, offset: has, is_doubtful: false, ..session });
        Ok(())
    }

    /// Says that the upload is complete; with all of its bytes, if it goes whole.
    async fn close(&self, upload: &mut Upload<'_>) -> Result<(), Failure> {
        let (size, digest) = (upload.size(), upload.digest);
        let session = upload.session();
        session.is_doubtful = true;
        let (mut url, start) = (session.url.clone(), session.offset);
        let mark = if url.path.query().is_some() { '&' } else { '?' };
        let path = format!("{}{mark}digest={digest}", url.path);
        url.path = path.parse().map_err(|_| {
            let what = &upload.what;
            Error::precondition(format!("{what}: the upload has no place that fits into a URL"))
        })?;
        upload.may_be_there = true;
        let body = upload.source.body(start, size, &upload.failure);
        let ask = Ask {
            method: Method::PUT,
            url,
            headers: vec![octets()],
            body: (start < size).then_some(&body),
            good: &[
                StatusCode::CREATED,
                StatusCode::NO_CONTENT,
                StatusCode::OK,
                StatusCode::NOT_FOUND,
                StatusCode::RANGE_NOT_SATISFIABLE,
                OTHER_WAY[0],
                OTHER_WAY[1],
                OTHER_WAY[2],
                OTHER_WAY[3],
            ],
            ..self.ask(&upload.what, "blobs/uploads/")?
        };
        let answer = send(&self.pool, &ask).await?;
        let status = answer.head.status;
        let checked = check_digest(&upload.what, &answer.head.headers, digest);
        finish(answer).await;
        match status {
            StatusCode::NOT_FOUND => Err(upload.lost()),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(upload.out_of_step()),
            other if OTHER_WAY.contains(&other) => {
                let what = &upload.what;
                let refusal = format!("{what}: the registry does not take it ({other})");
                Err(upload.switch(Failure::from(Error::precondition(refusal))))
            }
            _ => {
                upload.source.begun.set(None);
                Ok(checked?)
            }
        }
    }
}

impl Source {
    /// Makes bodies of the bytes from `start` to `end`.
    fn body(
        &self,
        start: u64,
        end: u64,
        failure: &Arc<OnceLock<String>>,
    ) -> impl Fn() -> Sent + Send + Sync + use<> {
        let (file, sent) = (Arc::clone(&self.blob.file), Arc::clone(&self.sent));
        let failure = Arc::clone(failure);
        move || {
            sent.store(start, Ordering::Relaxed);
            let mut pieces = Pieces {
                file: Arc::clone(&file),
                position: start,
                end,
                next: None,
                sent: Arc::clone(&sent),
                failure: Arc::clone(&failure),
            };
            pieces.read(start);
            pieces.boxed_unsync()
        }
    }
}

/// Reads what is left of an answer, so that its connection is kept; how that goes is of no interest.
pub(super) async fn finish(answer: Answer) {
    let _ = answer.body.read(MAX_REST).await;
}

/// Refuses the registry's word for another digest.
pub(super) fn check_digest(what: &str, headers: &HeaderMap, want: &Digest) -> Result<()> {
    match claimed_digest(headers) {
        // A registry may hash with another algorithm than we do.
        Some(said) if said.algorithm() == want.algorithm() && said != *want => {
            Err(Error::corrupt(format!(
                "{what}: the registry took it for {said}; push it again, and check what is between here and there"
            )))
        }
        _ => Ok(()),
    }
}

/// Where an upload goes on, if the answer says so.
fn place(what: &str, ask: &Ask<'_>, answer: &Answer) -> Result<Option<Url>> {
    let Some(location) = answer.head.headers.get(header::LOCATION) else { return Ok(None) };
    ask.url.follow(Some(location)).map(Some).map_err(|error| error.at(what))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// How many bytes of an upload a registry has: `Range: 0-LAST`. It says `0-0` for none, too.
fn taken(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

fn octets() -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
}

pub(super) fn value(name: HeaderName, value: &str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_str(value).expect("checked words are a header value"))
}
