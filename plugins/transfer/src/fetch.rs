//! Fetching blobs: each is on its way once, whoever wants it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::{Abort, Follow, Ingest, Open, OpenIngest, Use};
use capstan_sdk::contract::differ::LayerStream;
use capstan_sdk::contract::transfer::LABEL_SOURCE;
use capstan_sdk::oci::media::Kind;
use capstan_sdk::{Class, Descriptor, Digest, Error, Labels, Link, Namespace, Result};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::flight::{Abandoned, Flight, Flights};
use crate::registry::Repository;

/// How long an ingest that has another writer is waited for, at first and at most: the ladder of
/// containerd's fetcher.
const FIRST_WAIT: Duration = Duration::from_millis(16);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

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

/// Brings blobs into the content store.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) content: Link<Content>,
    /// Downloads at the same time, over all pulls.
    permits: Rc<Semaphore>,
    flights: Flights<FetchKey, FetchState>,
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
        self.flights.is_idle()
    }

    pub(crate) fn new(content: Link<Content>, concurrency: usize) -> Self {
        Self { content, permits: Rc::new(Semaphore::new(concurrency)), flights: Flights::default() }
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
            };
            work.run(state, abandoned)
        })
    }

    /// Stores a small document whose bytes are here already.
    pub(crate) async fn store(
        &self,
        namespace: &Namespace,
        descriptor: &Descriptor,
        bytes: Bytes,
        labels: &Labels,
    ) -> Result<()> {
        let Some(ingest) = open(&self.content, namespace, descriptor, labels).await? else {
            return Ok(());
        };
        let skip = usize::try_from(ingest.info.offset).unwrap_or(usize::MAX).min(bytes.len());
        let rest = bytes.slice(skip..);
        if !rest.is_empty() {
            ingest.write(rest).await?;
        }
        ingest.commit(Some(descriptor.digest.clone()), descriptor.size).await.map(drop)
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
}

impl Work {
    async fn run(self, state: Rc<FetchState>, mut abandoned: Abandoned) -> Result<()> {
        let _permit = tokio::select! {
            biased;
            _ = &mut abandoned => return Err(cancelled()),
            permit = self.permits.acquire() => permit.expect("never closed"),
        };
        match self.attempt(&state, &mut abandoned).await {
            // What an earlier fetch had left was not what it seemed, as after a power cut. It is gone now.
            Err(error) if error.class() == Class::Corrupt && state.has_resumed.get() => {
                warn!(blob = %self.descriptor.digest, %error, "fetched from its beginning");
                state.has_resumed.set(false);
                state.is_anew.set(true);
                self.attempt(&state, &mut abandoned).await
            }
            outcome => outcome,
        }
    }

    async fn attempt(&self, state: &FetchState, abandoned: &mut Abandoned) -> Result<()> {
        let labels = labels_of(&self.from);
        let Some(ingest) = open(&self.content, &self.namespace, &self.descriptor, &labels).await?
        else {
            state.was_there.set(true);
            return Ok(());
        };
        state.has_resumed.set(ingest.info.offset > 0);
        state.follow.send_replace(Some(ingest.follow()));
        let start = ingest.info.offset;
        let download = self
            .from
            .download(&self.descriptor, start, async |bytes: Bytes| ingest.write(bytes).await);
        let outcome = tokio::select! {
            biased;
            outcome = download => Some(outcome),
            _ = abandoned => None,
        };
        match outcome {
            Some(Ok(())) => {
                let digest = self.descriptor.digest.clone();
                ingest.commit(Some(digest), self.descriptor.size).await.map(drop)
            }
            Some(Err(error)) => {
                if !can_go_on(&error) {
                    self.drop_ingest(ingest).await;
                }
                Err(error)
            }
            None => Err(cancelled()),
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
