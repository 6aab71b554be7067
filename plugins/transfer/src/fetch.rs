//! Fetching blobs: each is on its way once, whoever wants it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Read as _;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::{Abort, Follow, Ingest, Open, OpenIngest, Use};
use capstan_sdk::contract::differ::LayerStream;
use capstan_sdk::contract::transfer::LABEL_SOURCE;
use capstan_sdk::oci::MAX_DOCUMENT;
use capstan_sdk::oci::media::Kind;
use capstan_sdk::{Class, Descriptor, Digest, Error, Labels, Link, Namespace, Result, blocking};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::flight::{Abandoned, Flight, Flights};
use crate::registry::{Repository, hash};

/// How long an ingest that has another writer is waited for, at first and at most: the ladder of
/// containerd's fetcher.
const FIRST_WAIT: Duration = Duration::from_millis(16);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Up to this many bytes, a blob is one of which four times as many are fetched at the same time: what it takes is mostly the
/// way to the registry and back.
const SMALL: u64 = 1 << 20;

/// How many small ones one that is not is worth.
const LARGE_WEIGHT: u32 = 4;

/// What a fetch shows of itself.
#[derive(Debug)]
pub(crate) struct FetchState {
    /// Set when bytes begin to come; never, if the blob was there already.
    follow: watch::Sender<Option<Follow>>,
    /// Whether the blob was there before.
    pub(crate) was_there: Cell<bool>,
    /// Whether it goes on from what an earlier fetch left.
    has_resumed: Cell<bool>,
    /// Whether it began anew, because what an earlier fetch had left was damaged: who read along must read again.
    pub(crate) is_anew: Cell<bool>,
}

impl Default for FetchState {
    fn default() -> Self {
        Self {
            follow: watch::Sender::new(None),
            was_there: Cell::new(false),
            has_resumed: Cell::new(false),
            is_anew: Cell::new(false),
        }
    }
}

impl FetchState {
    /// Bytes so far; `None` before the first one.
    pub(crate) fn offset(&self) -> Option<u64> {
        self.follow.borrow().as_ref().map(Follow::offset)
    }
}

type FetchKey = (Namespace, Digest);

/// A blob that somebody fetches.
pub(crate) type Fetch = Flight<FetchState>;

/// A document that somebody stores.
pub(crate) type Store = Flight<()>;

/// Brings blobs into the content store.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) content: Link<Content>,
    /// [`LARGE_WEIGHT`] for each download at the same time, over all pulls.
    permits: Rc<Semaphore>,
    flights: Flights<FetchKey, FetchState>,
    stores: Flights<FetchKey, ()>,
    offers: Offers,
}

/// Where blobs are to be had, by those who want them.
#[derive(Clone, Default)]
struct Offers(Rc<RefCell<HashMap<FetchKey, Vec<Rc<Repository>>>>>);

/// A place where a blob is to be had, for as long as this lives.
pub(crate) struct Offer {
    offers: Offers,
    key: FetchKey,
    place: Rc<Repository>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut offers = self.offers.0.borrow_mut();
        if let Some(places) = offers.get_mut(&self.key) {
            places.retain(|place| !Rc::ptr_eq(place, &self.place));
            if places.is_empty() {
                offers.remove(&self.key);
            }
        }
    }
}

impl Offers {
    /// A place that was not tried, and may do better than those that were.
    fn next(&self, key: &FetchKey, tried: &[Repository], error: &Error) -> Option<Repository> {
        let is_new = |place: &&Rc<Repository>| match error.class() {
            // Others may be let in there.
            Class::PermissionDenied => tried.iter().all(|tried| !tried.is_same(place)),
            _ => tried.iter().all(|tried| tried.source() != place.source()),
        };
        let is_of_place = matches!(
            error.class(),
            Class::PermissionDenied
                | Class::Unavailable
                | Class::NotFound
                | Class::FailedPrecondition
                | Class::Corrupt
        );
        let offers = self.0.borrow();
        offers.get(key).filter(|_| is_of_place)?.iter().find(is_new).map(|place| (**place).clone())
    }
}

/// The name of a descriptor in progress and of its ingest: `layer-sha256:...`.
pub(crate) fn item_name(descriptor: &Descriptor) -> String {
    let kind = match Kind::of(&descriptor.media_type) {
        Ok(Kind::Manifest) => "manifest",
        Ok(Kind::Index) => "index",
        Ok(Kind::Config) => "config",
        Ok(Kind::Layer(_)) => "layer",
        Err(_) => "unknown",
    };
    format!("{kind}-{}", descriptor.digest)
}

impl Fetcher {
    /// Whether nothing is under way, and nothing cleans up.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_idle() && self.stores.is_idle()
    }

    pub(crate) fn new(content: Link<Content>, concurrency: usize) -> Self {
        Self {
            content,
            permits: Rc::new(Semaphore::new(concurrency * LARGE_WEIGHT as usize)),
            flights: Flights::default(),
            stores: Flights::default(),
            offers: Offers::default(),
        }
    }

    /// Whether a blob is there. If it is, it was used now, so it stays for as long as the caller holds.
    pub(crate) async fn has(&self, namespace: &Namespace, digest: &Digest) -> Result<bool> {
        let found = Use { namespace: namespace.clone(), digest: digest.clone() };
        match self.content.send(found).await {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches a blob, or joins whoever does.
    pub(crate) fn fetch(
        &self,
        namespace: &Namespace,
        descriptor: &Descriptor,
        from: &Repository,
    ) -> Rc<Fetch> {
        let key = (namespace.clone(), descriptor.digest.clone());
        self.flights.join(&key, |state, abandoned| {
            let work = Work {
                content: self.content.clone(),
                permits: Rc::clone(&self.permits),
                namespace: namespace.clone(),
                descriptor: descriptor.clone(),
                from: from.clone(),
                offers: self.offers.clone(),
            };
            work.run(state, abandoned)
        })
    }

    /// Tells those who fetch a blob where else it is to be had, should they fail.
    pub(crate) fn offer(
        &self,
        namespace: &Namespace,
        descriptor: &Descriptor,
        place: &Repository,
    ) -> Offer {
        let key = (namespace.clone(), descriptor.digest.clone());
        let place = Rc::new(place.clone());
        let offers = self.offers.clone();
        offers.0.borrow_mut().entry(key.clone()).or_default().push(Rc::clone(&place));
        Offer { offers, key, place }
    }

    /// Begins to store a small document whose bytes are here already. It ends by itself, and soon: who leaves it waits for it.
    pub(crate) fn store(
        &self,
        namespace: &Namespace,
        descriptor: &Descriptor,
        bytes: Bytes,
        labels: Labels,
    ) -> Rc<Store> {
        let key = (namespace.clone(), descriptor.digest.clone());
        let (content, descriptor) = (self.content.clone(), descriptor.clone());
        self.stores.join(&key.clone(), move |_, _| async move {
            let (namespace, digest) = key;
            let Some(ingest) = open(&content, &namespace, &descriptor, &labels).await? else {
                return Ok(());
            };
            let skip = usize::try_from(ingest.info.offset).unwrap_or(usize::MAX).min(bytes.len());
            let rest = bytes.slice(skip..);
            if !rest.is_empty() {
                ingest.write(rest).await?;
            }
            ingest.commit(Some(digest), descriptor.size).await.map(drop)
        })
    }

    /// A stream of a blob's bytes: of those that still come, if a fetch is under way.
    pub(crate) async fn stream(
        &self,
        namespace: &Namespace,
        descriptor: &Descriptor,
        fetch: Option<&Fetch>,
    ) -> Result<LayerStream> {
        if let Some(fetch) = fetch {
            let mut follow = fetch.state.follow.subscribe();
            tokio::select! {
                biased;
                Ok(follow) = follow.wait_for(Option::is_some) => {
                    let follow = follow.as_ref().expect("it was waited for");
                    return Ok(LayerStream(Box::new(follow.tail())));
                }
                landed = fetch.wait() => landed?,
            }
        }
        let open = Open { namespace: namespace.clone(), digest: descriptor.digest.clone() };
        let blob = self.content.send(open).await?;
        Ok(LayerStream(Box::new(blob.reader())))
    }

    /// All bytes of a small blob, verified. They are here before the blob is stored, if a fetch is under way.
    ///
    /// # Errors
    /// `ResourceExhausted`: it is larger than any document. `Corrupt`: these bytes are not it. Those of reading.
    pub(crate) async fn bytes(
        &self,
        namespace: &Namespace,
        descriptor: &Descriptor,
        fetch: Option<&Fetch>,
    ) -> Result<Vec<u8>> {
        let (size, digest) = (descriptor.size, &descriptor.digest);
        if size > MAX_DOCUMENT {
            return Err(Error::exhausted(format!(
                "{digest} is a document of {size} bytes; those of images have {MAX_DOCUMENT} at most"
            )));
        }
        let stream = self.stream(namespace, descriptor, fetch).await?;
        let descriptor = descriptor.clone();
        blocking::run("read a document", move || read_verified(stream, &descriptor)).await
    }
}

/// Reads what a small blob must be, and verifies it.
fn read_verified(stream: LayerStream, want: &Descriptor) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = stream.0.take(want.size).read_to_end(&mut bytes);
    read.map_err(|error| {
        error.downcast().unwrap_or_else(|error| Error::io(format!("read {}", want.digest), error))
    })?;
    let got = hash(want.digest.algorithm(), &bytes);
    match got == want.digest {
        true => Ok(bytes),
        false => Err(Error::corrupt(format!("{got} in place of {}", want.digest))),
    }
}

/// The labels of what a repository gave.
pub(crate) fn labels_of(from: &Repository) -> Labels {
    Labels::from([(LABEL_SOURCE.to_owned(), from.source())])
}

/// As [`open`], for bytes that can only be had from their beginning.
pub(crate) async fn open_anew(
    content: &Link<Content>,
    namespace: &Namespace,
    descriptor: &Descriptor,
) -> Result<Option<Ingest>> {
    loop {
        match open(content, namespace, descriptor, &Labels::new()).await? {
            Some(ingest) if ingest.info.offset > 0 => ingest.abort().await?,
            opened => return Ok(opened),
        }
    }
}

/// The writer of a descriptor's ingest; `None` if the blob is there.
async fn open(
    content: &Link<Content>,
    namespace: &Namespace,
    descriptor: &Descriptor,
    labels: &Labels,
) -> Result<Option<Ingest>> {
    let mut wait = FIRST_WAIT;
    loop {
        let message = OpenIngest {
            expected: Some(descriptor.digest.clone()),
            total: descriptor.size,
            labels: labels.clone(),
            ..OpenIngest::new(namespace, item_name(descriptor))
        };
        match content.send(message).await {
            Ok(ingest) => return Ok(Some(ingest)),
            Err(error) => match error.class() {
                Class::AlreadyExists => return Ok(None),
                // Somebody else brings the same blob, by another way than through us.
                Class::Unavailable if wait <= LONGEST_WAIT => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                // Left by something that wanted other bytes under this name.
                Class::FailedPrecondition => abandon(content, namespace, descriptor).await?,
                _ => return Err(error),
            },
        }
    }
}

async fn abandon(
    content: &Link<Content>,
    namespace: &Namespace,
    descriptor: &Descriptor,
) -> Result<()> {
    let abort = Abort { namespace: namespace.clone(), reference: item_name(descriptor) };
    match content.send(abort).await {
        Err(error) if error.class() != Class::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether what has come before an error is good for the next try. Not kept: wrong bytes, and what fills a disk that is full.
fn can_go_on(error: &Error) -> bool {
    matches!(error.class(), Class::Unavailable | Class::Aborted | Class::PermissionDenied)
}

fn cancelled() -> Error {
    Error::aborted("the pull was cancelled")
}

/// The fetch of one blob.
struct Work {
    content: Link<Content>,
    permits: Rc<Semaphore>,
    namespace: Namespace,
    descriptor: Descriptor,
    from: Repository,
    offers: Offers,
}

impl Work {
    async fn run(mut self, state: Rc<FetchState>, mut abandoned: Abandoned) -> Result<()> {
        let (mut tried, mut is_first) = (Vec::new(), true);
        loop {
            match self.attempt(&state, &mut abandoned, &mut tried).await {
                // What an earlier fetch had left was not what it seemed, as after a power cut. It is gone now.
                Err(error)
                    if error.class() == Class::Corrupt && state.has_resumed.get() && is_first =>
                {
                    is_first = false;
                    warn!(blob = %self.descriptor.digest, %error, "fetched from its beginning");
                }
                // What the places gave so far was not it.
                Err(error) if error.class() == Class::Corrupt && self.moves_on(&error, &tried) => {}
                outcome => return outcome,
            }
            state.has_resumed.set(false);
            state.is_anew.set(true);
        }
    }

    /// Whether there is another place to try; it is the next one then.
    fn moves_on(&mut self, error: &Error, tried: &[Repository]) -> bool {
        let key = (self.namespace.clone(), self.descriptor.digest.clone());
        let Some(next) = self.offers.next(&key, tried, error) else { return false };
        let (blob, next_place) = (&self.descriptor.digest, next.source());
        warn!(%blob, %error, next = next_place, "fetched from another place");
        self.from = next;
        true
    }

    async fn attempt(
        &mut self,
        state: &FetchState,
        abandoned: &mut Abandoned,
        tried: &mut Vec<Repository>,
    ) -> Result<()> {
        // Only for the way of the bytes: the next one begins while these are synced.
        let permits = Rc::clone(&self.permits);
        let weight = if self.descriptor.size <= SMALL { 1 } else { LARGE_WEIGHT };
        let permit = tokio::select! {
            biased;
            _ = &mut *abandoned => return Err(cancelled()),
            permit = permits.acquire_many(weight) => permit.expect("never closed"),
        };
        let labels = labels_of(&self.from);
        let Some(ingest) = open(&self.content, &self.namespace, &self.descriptor, &labels).await?
        else {
            state.was_there.set(true);
            return Ok(());
        };
        state.has_resumed.set(ingest.info.offset > 0);
        state.follow.send_replace(Some(ingest.follow()));
        loop {
            tried.push(self.from.clone());
            let sink = async |bytes: Bytes| ingest.write(bytes).await;
            let download = self.from.download(&self.descriptor, ingest.offset(), sink);
            let outcome = tokio::select! {
                biased;
                outcome = download => outcome,
                _ = &mut *abandoned => return Err(cancelled()),
            };
            let error = match outcome {
                Ok(()) => {
                    drop(permit);
                    let digest = self.descriptor.digest.clone();
                    return ingest.commit(Some(digest), self.descriptor.size).await.map(drop);
                }
                Err(error) => error,
            };
            // Bytes that are wrong are not gone on from: the caller begins anew.
            if error.class() != Class::Corrupt && self.moves_on(&error, tried) {
                continue;
            }
            if !can_go_on(&error) {
                self.drop_ingest(ingest).await;
            }
            return Err(error);
        }
    }

    async fn drop_ingest(&self, ingest: Ingest) {
        let name = ingest.info.reference.clone();
        if ingest.abort().await.is_ok() {
            return;
        }
        // The store ended the ingest by itself, after an error of its own.
        if let Err(error) = abandon(&self.content, &self.namespace, &self.descriptor).await {
            warn!(ingest = name, %error, "an ingest could not be dropped");
        }
    }
}
