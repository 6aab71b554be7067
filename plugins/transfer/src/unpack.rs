//! Unpacking: each chain of layers is unpacked once, whoever wants it.
//!
//! Where the snapshotter can put a layer on its parent at commit, all layers unpack at the same time,
//! each while its bytes still come; what a layer takes from its parents is settled when they are
//! there, committed or not, and those that are settled at the same time are committed at once. Else layer
//! follows layer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use capstan_sdk::contract::differ::{Applied, Apply, LayerStream, Pending, Settle, Whiteouts};
use capstan_sdk::contract::snapshotter::{
    Abilities, Ask, Commit, LABEL_OWNER, LABEL_SCRATCH, Prepare, Remove, Stack, StackLayer, Use,
    View,
};
use capstan_sdk::contract::{Differ, Snapshotter};
use capstan_sdk::{
    Class, Descriptor, Digest, Error, Labels, Link, Mount, Namespace, Result, random,
};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::{info, warn};

use crate::commits::Commits;
use crate::fetch::{Fetch, Fetcher};
use crate::flight::{Abandoned, Flight, Flights};

/// Of a snapshot that was made of a layer: the digest of that blob.
pub(crate) const LABEL_LAYER: &str = "capstan/layer";

/// The owner of snapshots that are only there while a layer is unpacked.
pub(crate) const OWNER: &str = "unpack";

/// What an unpack shows of itself.
#[derive(Debug, Default)]
pub(crate) struct UnpackState {
    /// Whether it has begun to write files.
    pub(crate) has_begun: Cell<bool>,
    /// Whether the chain was there before.
    pub(crate) was_there: Cell<bool>,
    /// Set when nothing is left to do but the commit: the layer, and those below it that were not committed by then.
    settled: watch::Sender<Option<Rc<Settled>>>,
}

/// A layer that waits for its commit, on what is below it.
#[derive(Debug)]
struct Settled {
    layer: StackLayer,
    below: Option<Rc<Settled>>,
}

impl Settled {
    /// Topmost first.
    fn layers(self: &Rc<Self>) -> Vec<StackLayer> {
        let below = |settled: &Rc<Self>| settled.below.clone();
        std::iter::successors(Some(Rc::clone(self)), below)
            .map(|settled| settled.layer.clone())
            .collect()
    }
}

/// A chain that somebody unpacks.
pub(crate) type Unpack = Flight<UnpackState>;

type UnpackKey = (Namespace, String, Digest);

/// A layer with its place in the image.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    /// The snapshot that it becomes.
    pub(crate) chain_id: Digest,
    /// The snapshot that it stands on.
    pub(crate) parent: Option<Digest>,
}

/// Makes snapshots of layers.
#[derive(Clone)]
pub(crate) struct Unpacker {
    pub(crate) fetcher: Fetcher,
    pub(crate) differ: Link<Differ>,
    /// Layers that are fetched and unpacked at the same time.
    pub(crate) permits: Rc<Semaphore>,
    flights: Flights<UnpackKey, UnpackState>,
    commits: Commits,
}

/// A snapshotter, with its name for the table of flights.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) namespace: Namespace,
    pub(crate) snapshotter: Link<Snapshotter>,
    pub(crate) id: String,
}

impl Target {
    /// Whether a chain is there. If it is, it was used now, so it stays for as long as the caller holds.
    pub(crate) async fn has(&self, chain_id: &Digest) -> Result<bool> {
        let key = chain_id.to_string();
        match self.snapshotter.send(Use { namespace: self.namespace.clone(), key }).await {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let message = Prepare {
            namespace: self.namespace.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: owned(),
        };
        self.snapshotter.send(message).await
    }

    pub(crate) async fn remove(&self, key: &str) {
        let message = Remove { namespace: self.namespace.clone(), key: key.into() };
        if let Err(error) = self.snapshotter.send(message).await
            && error.class() != Class::NotFound
        {
            warn!(key, %error, "a snapshot of an unpack could not be removed; the next start does it");
        }
    }
}

pub(crate) fn owned() -> Labels {
    BTreeMap::from([
        (LABEL_OWNER.to_owned(), OWNER.to_owned()),
        (LABEL_SCRATCH.to_owned(), "true".to_owned()),
    ])
}

/// A key that no other unpack has, in this run of the daemon or another.
fn fresh_key(purpose: &str, chain_id: &Digest) -> Result<String> {
    Ok(format!("{purpose}-{}-{chain_id}", random::hex::<8>()?))
}

impl Unpacker {
    /// Whether nothing is under way, and nothing cleans up.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_idle()
    }

    pub(crate) fn new(fetcher: Fetcher, differ: Link<Differ>, concurrency: usize) -> Self {
        let permits = Rc::new(Semaphore::new(concurrency));
        let (flights, commits) = (Flights::default(), Commits::default());
        Self { fetcher, differ, permits, flights, commits }
    }

    /// Unpacks a layer, or joins whoever does. `fetch` brings its bytes; without one they are in the
    /// store. `parent` is the unpack of the layers below; without one they are there.
    pub(crate) fn unpack(
        &self,
        target: &Target,
        layer: &Layer,
        fetch: impl FnOnce() -> Option<Rc<Fetch>> + 'static,
        parent: Option<Rc<Unpack>>,
    ) -> Rc<Unpack> {
        let key = (target.namespace.clone(), target.id.clone(), layer.chain_id.clone());
        self.flights.join(&key, |state, abandoned| {
            let work = Work {
                unpacker: self.clone(),
                target: target.clone(),
                layer: layer.clone(),
                parent,
                cancel: Cancel::new(),
            };
            work.run(state, abandoned, fetch)
        })
    }
}

/// The unpack of one layer.
struct Work {
    unpacker: Unpacker,
    target: Target,
    layer: Layer,
    parent: Option<Rc<Unpack>>,
    cancel: Cancel,
}

/// How often a layer is unpacked before its pull fails, if plugins break off while they do it.
const ATTEMPTS: u32 = 3;

impl Work {
    async fn run(
        self,
        state: Rc<UnpackState>,
        abandoned: Abandoned,
        fetch: impl FnOnce() -> Option<Rc<Fetch>>,
    ) -> Result<()> {
        if self.target.has(&self.layer.chain_id).await? {
            state.was_there.set(true);
            return Ok(());
        }
        // Begun at most once, when its turn comes.
        let (mut begin, begun) = (Some(fetch), RefCell::new(None::<Rc<Fetch>>));
        let mut fetch = || {
            if let Some(begin) = begin.take() {
                begun.replace(begin());
            }
            begun.borrow().as_deref().map(Fetch::watched)
        };
        let was_damaged =
            || begun.borrow().as_ref().is_some_and(|fetch| fetch.state.is_anew.take());
        let work = async {
            let mut attempt = 1;
            loop {
                let abilities = self.target.snapshotter.send(Ask).await?;
                let outcome = match abilities {
                    Abilities { can_chain: true, .. } => self.in_a_chain(&state, &mut fetch).await,
                    Abilities { can_rebase: true, .. } => {
                        self.beside_its_parent(&state, &mut fetch).await
                    }
                    _ => self.on_its_parent(&state, &mut fetch).await,
                };
                // Who stands on it waits for the next attempt.
                state.settled.send_replace(None);
                match outcome {
                    // It read along with a fetch that found what it had resumed damaged.
                    Err(_) if was_damaged() => {}
                    // A plugin broke off. What it had begun is gone, and the next instance does it anew.
                    Err(error) if error.class() == Class::Unavailable && attempt < ATTEMPTS => {
                        info!(layer = %self.layer.descriptor.digest, %error, "unpacked once more");
                        attempt += 1;
                    }
                    outcome => return outcome,
                }
            }
        };
        tokio::pin!(work);
        let outcome = tokio::select! {
            biased;
            outcome = &mut work => outcome,
            _ = abandoned => {
                // Not dropped: a thread may be writing, and what it writes must be removed after it.
                self.cancel.set();
                // That thread may also be waiting for bytes, and nobody may want these any more.
                begun.take();
                work.await
            }
        };
        outcome.map_err(|error| error.at(format!("layer {}", self.layer.descriptor.digest)))
    }

    async fn parent_is_there(&self) -> Result<()> {
        match &self.parent {
            Some(parent) => self.cancel.or(parent.wait()).await,
            None => Ok(()),
        }
    }

    fn parent_key(&self) -> String {
        self.layer.parent.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// The layer apart, in overlay form; `None`: it has no such form, and what there was is removed. Its blob may still
    /// be on its way then.
    async fn apart(
        &self,
        state: &UnpackState,
        fetch: &mut impl FnMut() -> Option<Rc<Fetch>>,
    ) -> Result<Option<(Draft, Applied)>> {
        // Before its turn: the records of all layers of an image are made at once, and share one commit.
        let draft = Draft::new(&self.target, &self.layer, "").await?;
        let (draft, permit) = draft.keep_if(self.permit().await).await?;
        let fetch = fetch();
        state.has_begun.set(true);
        let applied = self.apply(&draft, fetch.as_deref(), Whiteouts::Overlay).await;
        drop(permit);
        let applied = self.verified(applied, fetch.as_deref()).await;
        match draft.keep_if(applied).await {
            Err(error) if error.class() == Class::FailedPrecondition => {
                info!(layer = %self.layer.descriptor.digest, %error, "unpacked on its parent");
                Ok(None)
            }
            kept => kept.map(Some),
        }
    }

    /// The layer apart, and put on its parent when that is committed.
    async fn beside_its_parent(
        &self,
        state: &UnpackState,
        fetch: &mut impl FnMut() -> Option<Rc<Fetch>>,
    ) -> Result<()> {
        let Some((draft, applied)) = self.apart(state, fetch).await? else {
            return self.on_its_parent(state, fetch).await;
        };
        let settled = async {
            self.parent_is_there().await?;
            self.settle_on_view(&draft, &applied.pending).await
        };
        let settled = settled.await;
        match draft.keep_if_settled(settled).await? {
            Some((draft, ())) => draft.commit(Some(self.parent_key())).await,
            None => self.on_its_parent(state, &mut || None).await,
        }
    }

    /// The layer apart, and committed together with its parents if they are not yet.
    async fn in_a_chain(
        &self,
        state: &UnpackState,
        fetch: &mut impl FnMut() -> Option<Rc<Fetch>>,
    ) -> Result<()> {
        let Some((draft, applied)) = self.apart(state, fetch).await? else {
            return self.on_its_parent(state, fetch).await;
        };
        let settled = async {
            let below = self.parent_is_settled().await?;
            self.settle_on_stack(&draft, &applied.pending, below.as_ref()).await?;
            Ok(below)
        };
        let settled = settled.await;
        let Some((draft, below)) = draft.keep_if_settled(settled).await? else {
            return self.on_its_parent(state, &mut || None).await;
        };
        let layer = StackLayer { key: draft.key.clone(), name: draft.chain_id.to_string() };
        // Queued before anybody is told: so what stands on it comes behind it.
        let committed = draft.commit_with(&self.unpacker.commits, self.parent_key());
        state.settled.send_replace(Some(Rc::new(Settled { layer, below })));
        committed.await
    }

    /// Waits until the trees of the layers below are as they will be. What is below; `None`: nothing.
    async fn parent_is_settled(&self) -> Result<Option<Rc<Settled>>> {
        let committed = || {
            self.layer.parent.as_ref().map(|parent| {
                let name = parent.to_string();
                let layer = StackLayer { key: name.clone(), name };
                Rc::new(Settled { layer, below: None })
            })
        };
        let Some(parent) = &self.parent else { return Ok(committed()) };
        let mut settled = parent.state.settled.subscribe();
        self.cancel
            .or(async {
                tokio::select! {
                    biased;
                    outcome = parent.wait() => outcome.map(|()| committed()),
                    Ok(settled) = settled.wait_for(Option::is_some) => Ok(settled.clone()),
                }
            })
            .await
    }

    /// The layer applied to a copy of its parent.
    async fn on_its_parent(
        &self,
        state: &UnpackState,
        fetch: &mut impl FnMut() -> Option<Rc<Fetch>>,
    ) -> Result<()> {
        let fetch = fetch();
        self.parent_is_there().await?;
        let permit = self.permit().await?;
        let draft = Draft::new(&self.target, &self.layer, &self.parent_key()).await?;
        state.has_begun.set(true);
        let applied = self.apply(&draft, fetch.as_deref(), Whiteouts::Remove).await;
        drop(permit);
        let applied = self.verified(applied, fetch.as_deref()).await;
        let (draft, _) = draft.keep_if(applied).await?;
        draft.commit(None).await
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        let permit = async { Ok(self.unpacker.permits.acquire().await.expect("never closed")) };
        self.cancel.or(permit).await
    }

    async fn apply(
        &self,
        draft: &Draft,
        fetch: Option<&Fetch>,
        whiteouts: Whiteouts,
    ) -> Result<Applied> {
        let layer = &self.layer;
        let namespace = &self.target.namespace;
        let stream = self.unpacker.fetcher.stream(namespace, &layer.descriptor, fetch);
        let stream = self.cancel.or(stream).await?;
        let apply = Apply {
            layer: self.cancel.watch(stream),
            media_type: layer.descriptor.media_type.clone(),
            mounts: draft.mounts.clone(),
            whiteouts,
        };
        self.unpacker.differ.send(apply).await
    }

    /// Checks that the layer is what the configuration says. Its bytes are what they should be if they could be read to their
    /// end; that they are stored is for the pull to wait for, which names nothing before.
    async fn verified(&self, applied: Result<Applied>, fetch: Option<&Fetch>) -> Result<Applied> {
        if let Some(fetch) = fetch
            && applied.as_ref().is_err_and(is_about_bytes)
        {
            // Bytes that are not what they should be make no archive: the fetch knows better.
            self.cancel.or(fetch.wait()).await?;
        }
        let applied = applied?;
        if applied.diff_id != self.layer.diff_id {
            return Err(Error::corrupt(format!(
                "it unpacks to {}, the image's configuration says {}",
                applied.diff_id, self.layer.diff_id
            )));
        }
        Ok(applied)
    }

    /// Takes from the layers below what the layer is owed.
    async fn settle_on_stack(
        &self,
        draft: &Draft,
        pending: &Pending,
        below: Option<&Rc<Settled>>,
    ) -> Result<()> {
        let Some(below) = below.filter(|_| !pending.is_empty()) else { return on_nothing(pending) };
        let (namespace, layers) = (self.target.namespace.clone(), below.layers());
        let parent = self.target.snapshotter.send(Stack { namespace, layers }).await;
        let parent = parent.map_err(is_begun_anew)?;
        let settle = Settle { layer: draft.mounts.clone(), parent, pending: pending.clone() };
        self.unpacker.differ.send(settle).await
    }

    /// As [`Self::settle_on_stack`], where the parent is committed.
    async fn settle_on_view(&self, draft: &Draft, pending: &Pending) -> Result<()> {
        let parent = self.layer.parent.as_ref().filter(|_| !pending.is_empty());
        let Some(parent) = parent else { return on_nothing(pending) };
        let key = fresh_key("settle", &self.layer.chain_id)?;
        let view = View {
            namespace: self.target.namespace.clone(),
            key: key.clone(),
            parent: parent.to_string(),
            labels: owned(),
        };
        let parent = self.target.snapshotter.send(view).await?;
        let settle = Settle { layer: draft.mounts.clone(), parent, pending: pending.clone() };
        let outcome = self.unpacker.differ.send(settle).await;
        self.target.remove(&key).await;
        outcome
    }
}

/// A layer below that was there, and is not any more: a plugin broke off, and it is unpacked once more. So is what
/// stands on it.
fn is_begun_anew(error: Error) -> Error {
    match error.class() {
        Class::NotFound => error.as_class(Class::Unavailable),
        _ => error,
    }
}

/// Of a layer that is owed nothing, or stands on nothing: directories keep their defaults then, links are wrong.
fn on_nothing(pending: &Pending) -> Result<()> {
    match pending.links.first() {
        None => Ok(()),
        Some((link, target)) => Err(Error::corrupt(format!(
            "hard link {} to {}, which no layer has",
            link.display(),
            target.display()
        ))),
    }
}

/// Whether an apply may have failed because of the bytes that it was given.
fn is_about_bytes(error: &Error) -> bool {
    matches!(error.class(), Class::Corrupt | Class::Aborted)
}

/// Ends waits and streams of a piece of work that nobody wants any more.
#[derive(Clone, Debug)]
struct Cancel(watch::Sender<bool>);

impl Cancel {
    fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    fn set(&self) {
        self.0.send_replace(true);
    }

    fn error() -> Error {
        Error::aborted("the pull was cancelled")
    }

    /// Waits for `wait`, or for the cancellation.
    async fn or<T>(&self, wait: impl Future<Output = Result<T>>) -> Result<T> {
        let mut cancelled = self.0.subscribe();
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|&is_set| is_set) => Err(Self::error()),
            outcome = wait => outcome,
        }
    }

    /// A stream that ends with the cancellation.
    fn watch(&self, stream: LayerStream) -> LayerStream {
        LayerStream(Box::new(Watched { stream: stream.0, cancelled: self.0.subscribe() }))
    }
}

struct Watched {
    stream: Box<dyn Read + Send>,
    cancelled: watch::Receiver<bool>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if *self.cancelled.borrow() {
            return Err(io::Error::other(Cancel::error()));
        }
        self.stream.read(buffer)
    }
}

/// A snapshot that is being filled. Dropped before it is done (in a panic), it is removed too.
struct Draft {
    target: Target,
    chain_id: Digest,
    /// The blob.
    layer: Digest,
    key: String,
    mounts: Vec<Mount>,
    is_done: bool,
}

impl Draft {
    async fn new(target: &Target, layer: &Layer, parent: &str) -> Result<Self> {
        let key = fresh_key("extract", &layer.chain_id)?;
        let mounts = target.prepare(&key, parent).await?;
        let (target, chain_id) = (target.clone(), layer.chain_id.clone());
        let layer = layer.descriptor.digest.clone();
        Ok(Self { target, chain_id, layer, key, mounts, is_done: false })
    }

    /// Goes on with it if a step worked, else removes it.
    async fn keep_if<T>(self, outcome: Result<T>) -> Result<(Self, T)> {
        match outcome {
            Ok(value) => Ok((self, value)),
            Err(error) => {
                self.discard().await;
                Err(error)
            }
        }
    }

    /// As [`Self::keep_if`]; `None`, and it is removed: its layer can only be applied on its parents.
    async fn keep_if_settled<T>(self, settled: Result<T>) -> Result<Option<(Self, T)>> {
        match settled {
            Err(error) if error.class() == Class::FailedPrecondition => {
                info!(layer = %self.layer, %error, "unpacked again, on its parent");
                self.discard().await;
                Ok(None)
            }
            settled => self.keep_if(settled).await.map(Some),
        }
    }

    async fn discard(mut self) {
        self.is_done = true;
        self.target.remove(&self.key).await;
    }

    fn as_commit(&self, rebase: Option<String>) -> Commit {
        Commit {
            namespace: self.target.namespace.clone(),
            name: self.chain_id.to_string(),
            key: self.key.clone(),
            rebase: rebase.filter(|parent| !parent.is_empty()),
            labels: Labels::from([(LABEL_LAYER.to_owned(), self.layer.to_string())]),
        }
    }

    /// Makes it the chain's snapshot.
    async fn commit(self, rebase: Option<String>) -> Result<()> {
        let committed = self.target.snapshotter.send(self.as_commit(rebase)).await;
        self.end(committed).await
    }

    /// As [`Self::commit`], with those of others. It is queued when this returns.
    fn commit_with(
        self,
        commits: &Commits,
        parent: String,
    ) -> impl Future<Output = Result<()>> + use<> {
        let committed = commits.queue(&self.target, self.as_commit(Some(parent)));
        async move { self.end(committed.await.map_err(is_begun_anew)).await }
    }

    /// After a commit. That somebody else made the snapshot meanwhile is fine.
    async fn end(mut self, committed: Result<()>) -> Result<()> {
        match committed {
            Ok(()) => {
                self.is_done = true;
                Ok(())
            }
            Err(error) => {
                self.discard().await;
                if error.class() == Class::AlreadyExists { Ok(()) } else { Err(error) }
            }
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_done {
            let (target, key) = (self.target.clone(), self.key.clone());
            actix::spawn(async move { target.remove(&key).await });
        }
    }
}
