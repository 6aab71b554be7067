//! A pull: resolve, fetch, unpack, name.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use capstan_sdk::contract::Images;
use capstan_sdk::contract::access::Access;
use capstan_sdk::contract::images::{
    Image, Manifest, Presence, Put, Resolve, ResolveTarget, Survey,
};
use capstan_sdk::contract::transfer::{
    Item, ItemState, ProgressSender, Pull, Unpack as UnpackImage,
};
use capstan_sdk::oci::{Document, checkpoint_manifest, choose};
use capstan_sdk::{
    Descriptor, Digest, Error, Link, Namespace, Platform, Reference, Result, failpoint,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tracing::info;

use crate::fetch::{Fetch, Fetcher, item_name, labels_of};
use crate::refetch;
use crate::registry::{Registry, Repository};
use crate::unpack::{Layer, Target, Unpack, Unpacker};
use crate::verify::{self, Question, Verifiers};

/// How often progress is told: as often as a person sees.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Indexes in indexes: nobody makes more than two.
pub(crate) const MAX_DEPTH: usize = 4;

/// What pulls work with.
#[derive(Clone)]
pub(crate) struct Puller {
    pub(crate) images: Link<Images>,
    pub(crate) fetcher: Fetcher,
    pub(crate) unpacker: Unpacker,
    pub(crate) verifiers: Verifiers,
}

impl Puller {
    /// Whether nothing is under way, and nothing cleans up.
    pub(crate) fn is_idle(&self) -> bool {
        self.fetcher.is_idle() && self.unpacker.is_idle()
    }

    /// Pulls an image; `target` is where to unpack, if that is wanted.
    pub(crate) async fn pull(
        self,
        registry: Registry,
        pull: Pull,
        target: Option<Target>,
    ) -> Result<(Image, Presence)> {
        let reference = Reference::parse(&pull.reference)?;
        let repository = registry.repository(&reference, &pull.access)?;
        let job = Job {
            puller: self,
            registry,
            access: pull.access,
            namespace: pull.namespace,
            platform: pull.platform,
            repository,
            board: Board::default(),
            stored: RefCell::default(),
            concurrency: usize::try_from(pull.concurrency).unwrap_or(0),
        };
        let work = job.run(&reference, target);
        tokio::pin!(work);
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = pull.progress.closed() => Err(Error::aborted("the pull was cancelled")),
            never = job.board.show(&pull.progress) => never,
        };
        match outcome {
            Ok(image) => {
                pull.progress.send_replace(job.board.items());
                info!(image = image.0.name, digest = %image.0.target.digest, "pulled");
                Ok(image)
            }
            Err(error) => Err(error.at(format!("pull {reference}"))),
        }
    }

    /// Makes the snapshots of an image that is present.
    pub(crate) async fn unpack(
        self,
        unpack: UnpackImage,
        target: Target,
    ) -> Result<Option<Digest>> {
        let UnpackImage { namespace, image, platform, .. } = unpack;
        let (_, manifest) = self.images.send(Resolve { namespace, name: image, platform }).await?;
        self.unpack_manifest(&manifest, &target).await?;
        Ok(manifest.top_chain_id().cloned())
    }

    /// Makes the snapshots of layers that are present.
    pub(crate) async fn unpack_manifest(&self, manifest: &Manifest, target: &Target) -> Result<()> {
        let mut hold = Hold::default();
        for layer in layers(manifest) {
            let parent = hold.unpacks.last().cloned();
            hold.unpacks.push(self.unpacker.unpack(target, &layer, || None, parent));
        }
        let outcome = futures::future::try_join_all(hold.unpacks.iter().map(|u| u.wait())).await;
        hold.leave(outcome.is_err()).await;
        outcome.map(drop)
    }
}

/// The layers of an image with their places, base first.
fn layers(manifest: &Manifest) -> Vec<Layer> {
    let mut parent = None;
    let parts = manifest.layers.iter().zip(&manifest.diff_ids).zip(&manifest.chain_ids);
    parts
        .map(|((descriptor, diff_id), chain_id)| Layer {
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            chain_id: chain_id.clone(),
            parent: parent.replace(chain_id.clone()),
        })
        .collect()
}

/// One pull under way.
struct Job {
    puller: Puller,
    registry: Registry,
    access: Access,
    namespace: Namespace,
    platform: Platform,
    repository: Repository,
    board: Board,
    concurrency: usize,
    /// What was stored or found besides the manifest's own parts.
    stored: RefCell<Vec<Digest>>,
}

impl Job {
    async fn run(
        &self,
        reference: &Reference,
        target: Option<Target>,
    ) -> Result<(Image, Presence)> {
        let images = &self.puller.images;
        let root = self.documents(reference).await?;
        let manifest = images
            .send(ResolveTarget {
                namespace: self.namespace.clone(),
                target: root.clone(),
                platform: self.platform.clone(),
            })
            .await?;
        self.layers(&manifest, target).await?;
        self.note_sources(&manifest).await?;
        let namespace = self.namespace.clone();
        let put = Put { namespace: namespace.clone(), name: reference.to_string(), target: root };
        failpoint::at("pull:unpacked");
        let image = images.send(put).await?;
        failpoint::at("pull:named");
        let survey = Survey { namespace, target: image.target.clone() };
        let presence = images.send(survey).await?;
        Ok((image, presence))
    }

    /// Notes at each blob where it can be had again. Also from now on all of them were used.
    async fn note_sources(&self, manifest: &Manifest) -> Result<()> {
        let stored = self.stored.take();
        let parts = manifest.layers.iter().chain([&manifest.config]).map(|part| &part.digest);
        let content = &self.puller.fetcher.content;
        let source = self.repository.source();
        let notes = parts
            .chain(&stored)
            .map(|digest| refetch::note(content, &self.namespace, digest, &source));
        futures::future::try_join_all(notes).await.map(drop)
    }

    /// Fetches what describes the image: index, manifest, configuration. Answers the top one.
    async fn documents(&self, reference: &Reference) -> Result<Descriptor> {
        let resolved = self.repository.resolve().await?;
        let root = resolved.descriptor;
        self.verify(reference, &root, &resolved.bytes).await?;
        let (mut descriptor, mut bytes) = (root.clone(), resolved.bytes);
        for _ in 0..MAX_DEPTH {
            // Read before it is stored: what is no document never gets into the store.
            let document = Document::parse(&descriptor.media_type, &bytes)?;
            let checkpoint = checkpoint_manifest(&bytes);
            self.store(&descriptor, bytes).await?;
            match document {
                Document::Manifest { config, .. } => {
                    self.fetch_part(&config).await?;
                    return Ok(root);
                }
                Document::Index(list) => {
                    if let Some(checkpoint) = checkpoint {
                        self.checkpoint(&checkpoint).await?;
                    }
                    let chosen = choose(&list, &self.platform).ok_or_else(|| {
                        let have: Vec<String> = list
                            .iter()
                            .filter_map(|d| Some(d.platform.as_ref()?.to_string()))
                            .collect();
                        Error::not_found(format!(
                            "it has no manifest for {}, only for {}; choose with --platform",
                            self.platform,
                            have.join(", ")
                        ))
                    })?;
                    descriptor = chosen.clone();
                    bytes = self.repository.manifest(&descriptor).await?;
                }
            }
        }
        Err(Error::corrupt(format!("more than {MAX_DEPTH} indexes deep")))
    }

    /// Asks whether it may have its name, before anything of it is stored.
    async fn verify(&self, name: &Reference, target: &Descriptor, document: &[u8]) -> Result<()> {
        let (namespace, text) = (&self.namespace, name.to_string());
        let question = Question { namespace, name: &text, target, document };
        let evidence =
            async || verify::in_registry(&self.registry, &self.access, name, &target.digest).await;
        self.puller.verifiers.check(&question, evidence).await
    }

    /// Fetches what a checkpoint has besides its image.
    async fn checkpoint(&self, manifest: &Descriptor) -> Result<()> {
        let bytes = self.repository.manifest(manifest).await?;
        let Document::Manifest { config, layers } = Document::parse(&manifest.media_type, &bytes)?
        else {
            return Err(Error::corrupt(format!("checkpoint {}: it is an index", manifest.digest)));
        };
        self.store(manifest, bytes).await?;
        for part in layers.iter().chain([&config]) {
            self.fetch_part(part).await?;
        }
        Ok(())
    }

    async fn store(&self, descriptor: &Descriptor, bytes: bytes::Bytes) -> Result<()> {
        let name = item_name(descriptor);
        let fetcher = &self.puller.fetcher;
        let state = match fetcher.has(&self.namespace, &descriptor.digest).await? {
            true => ItemState::Exists,
            false => {
                let labels = labels_of(&self.repository);
                fetcher.store(&self.namespace, descriptor, bytes, &labels).await?;
                ItemState::Done
            }
        };
        self.stored.borrow_mut().push(descriptor.digest.clone());
        let (offset, total) = (descriptor.size, descriptor.size);
        self.board.add(Watched::Fixed(Item { name, state, offset, total }));
        Ok(())
    }

    /// Fetches one blob that is not unpacked.
    async fn fetch_part(&self, part: &Descriptor) -> Result<()> {
        let hold = RefCell::new(Hold::default());
        let watched = self.board.watch(part);
        let outcome = self.fetch(part, &watched, &hold).await;
        hold.into_inner().leave(outcome.is_err()).await;
        outcome
    }

    /// Fetches and unpacks all layers. After an error everything that was begun is undone.
    async fn layers(&self, manifest: &Manifest, target: Option<Target>) -> Result<()> {
        let hold = Rc::new(RefCell::new(Hold::default()));
        let mut jobs = Vec::new();
        for layer in layers(manifest) {
            let watched = self.board.watch(&layer.descriptor);
            let unpack = target.as_ref().map(|target| {
                let fetch = self.fetch_later(&layer.descriptor, &watched, &hold);
                let parent = hold.borrow().unpacks.last().cloned();
                let unpack = self.puller.unpacker.unpack(target, &layer, fetch, parent);
                watched.borrow_mut().unpack = Some(Rc::clone(&unpack));
                hold.borrow_mut().unpacks.push(Rc::clone(&unpack));
                unpack
            });
            jobs.push((layer.descriptor, watched, unpack));
        }
        let limit = if self.concurrency == 0 { jobs.len().max(1) } else { self.concurrency };
        let outcome = stream::iter(jobs)
            .map(|(descriptor, watched, unpack)| {
                let hold = Rc::clone(&hold);
                async move {
                    if let Some(unpack) = unpack {
                        unpack.wait().await?;
                    }
                    self.fetch(&descriptor, &watched, &hold).await
                }
            })
            .buffer_unordered(limit)
            .try_collect::<Vec<()>>()
            .await;
        self.board.release();
        let hold = hold.take();
        hold.leave(outcome.is_err()).await;
        outcome.map(drop)
    }

    /// What an unpack calls when it is its turn: begins to fetch, unless the blob is there.
    fn fetch_later(
        &self,
        descriptor: &Descriptor,
        watched: &Rc<RefCell<LayerItem>>,
        hold: &Rc<RefCell<Hold>>,
    ) -> impl FnOnce() -> Option<Rc<Fetch>> + 'static {
        let (fetcher, namespace) = (self.puller.fetcher.clone(), self.namespace.clone());
        let (descriptor, repository) = (descriptor.clone(), self.repository.clone());
        let (watched, hold) = (Rc::clone(watched), Rc::downgrade(hold));
        move || {
            let fetch = fetcher.fetch(&namespace, &descriptor, &repository);
            watched.borrow_mut().fetch = Some(Rc::clone(&fetch));
            if let Some(hold) = hold.upgrade() {
                hold.borrow_mut().fetches.push(Rc::clone(&fetch));
            }
            Some(fetch)
        }
    }

    /// Fetches a blob, unless it is there.
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        watched: &RefCell<LayerItem>,
        hold: &RefCell<Hold>,
    ) -> Result<()> {
        let begun = watched.borrow().fetch.clone();
        let fetch = match begun {
            Some(fetch) => fetch,
            None => {
                let fetcher = &self.puller.fetcher;
                if fetcher.has(&self.namespace, &descriptor.digest).await? {
                    watched.borrow_mut().was_there = true;
                    return Ok(());
                }
                let fetch = fetcher.fetch(&self.namespace, descriptor, &self.repository);
                watched.borrow_mut().fetch = Some(Rc::clone(&fetch));
                hold.borrow_mut().fetches.push(Rc::clone(&fetch));
                fetch
            }
        };
        fetch.wait().await?;
        watched.borrow_mut().is_fetched = true;
        Ok(())
    }
}

/// The flights that a pull takes part in.
#[derive(Default)]
struct Hold {
    fetches: Vec<Rc<Fetch>>,
    /// Base first.
    unpacks: Vec<Rc<Unpack>>,
}

impl Hold {
    /// Leaves all of them and waits until those that nobody else wants have cleaned up: the top layer
    /// first, because each holds its parent.
    async fn leave(self, has_failed: bool) {
        for fetch in &self.fetches {
            fetch.state.is_to_be_dropped.set(has_failed);
        }
        for unpack in self.unpacks.into_iter().rev() {
            unpack.leave().await;
        }
        for fetch in self.fetches {
            fetch.leave().await;
        }
    }
}

/// What is shown of a layer, or of a configuration.
struct LayerItem {
    name: String,
    total: u64,
    fetch: Option<Rc<Fetch>>,
    unpack: Option<Rc<Unpack>>,
    was_there: bool,
    is_fetched: bool,
    /// What was last seen, for when the flights are let go.
    last: Option<Item>,
}

impl LayerItem {
    fn item(&self) -> Item {
        if let Some(last) = &self.last {
            return last.clone();
        }
        let offset = match &self.fetch {
            Some(fetch) if fetch.state.was_there.get() => None,
            Some(fetch) => Some(fetch.state.offset().unwrap_or(0)),
            None => None,
        };
        let is_fetched = self.is_fetched || offset == Some(self.total);
        let state = match (&self.fetch, &self.unpack) {
            _ if self.was_there => ItemState::Exists,
            (Some(fetch), _) if fetch.state.was_there.get() && self.is_fetched => ItemState::Exists,
            _ if self.is_fetched => ItemState::Done,
            (_, Some(unpack)) if unpack.state.has_begun.get() && is_fetched => {
                ItemState::Extracting
            }
            (Some(_), _) => ItemState::Downloading,
            (None, _) => ItemState::Waiting,
        };
        let offset = match state {
            ItemState::Exists | ItemState::Done => self.total,
            _ => offset.unwrap_or(0),
        };
        Item { name: self.name.clone(), state, offset, total: self.total }
    }
}

enum Watched {
    Fixed(Item),
    Layer(Rc<RefCell<LayerItem>>),
}

/// All items of a pull, as far as they are known.
#[derive(Default)]
struct Board(RefCell<Vec<Watched>>);

impl Board {
    fn add(&self, watched: Watched) {
        self.0.borrow_mut().push(watched);
    }

    fn watch(&self, descriptor: &Descriptor) -> Rc<RefCell<LayerItem>> {
        let item = Rc::new(RefCell::new(LayerItem {
            name: item_name(descriptor),
            total: descriptor.size,
            fetch: None,
            unpack: None,
            was_there: false,
            is_fetched: false,
            last: None,
        }));
        self.add(Watched::Layer(Rc::clone(&item)));
        item
    }

    /// Lets go of all flights, and keeps what they last showed.
    fn release(&self) {
        for watched in self.0.borrow().iter() {
            if let Watched::Layer(layer) = watched {
                let mut layer = layer.borrow_mut();
                layer.last = Some(layer.item());
                layer.fetch = None;
                layer.unpack = None;
            }
        }
    }

    fn items(&self) -> Vec<Item> {
        let item = |watched: &Watched| match watched {
            Watched::Fixed(item) => item.clone(),
            Watched::Layer(layer) => layer.borrow().item(),
        };
        self.0.borrow().iter().map(item).collect()
    }

    /// Tells progress for ever.
    async fn show<T>(&self, progress: &ProgressSender) -> T {
        loop {
            let items = self.items();
            progress.send_if_modified(|shown| {
                let has_changed = *shown != items;
                *shown = items;
                has_changed
            });
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
    }
}
