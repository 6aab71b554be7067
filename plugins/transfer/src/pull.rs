//! A pull: resolve, fetch, unpack, name.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use capstan_sdk::contract::Images;
use capstan_sdk::contract::access::Access;
use capstan_sdk::contract::images::{Image, Leave, Manifest, Presence, Put, Resolve, Survey};
use capstan_sdk::contract::transfer::{Item, ItemState, Pull, Unpack as UnpackImage};
use capstan_sdk::contract::verifier::Evidence;
use capstan_sdk::oci::media::Kind;
use capstan_sdk::oci::{Document, checkpoint_manifest, choose};
use capstan_sdk::{
    Descriptor, Digest, Error, Link, Namespace, Platform, Reference, Result, failpoint,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::info;

use crate::fetch::{Fetch, Fetcher, Offer, Store, item_name, labels_of};
use crate::registry::{Registry, Repository, Resolved};
use crate::unpack::{Layer, Target, Unpack, Unpacker};
use crate::{progress, refetch, verify};

/// Indexes in indexes: nobody makes more than two.
pub(crate) const MAX_DEPTH: usize = 4;

/// More manifests than any real image has; a bound on the work that one can cause.
const MAX_DOCUMENTS: usize = 1000;

/// Documents of other platforms that are read at the same time: they are held until their parts are there.
const DOCUMENTS_AT_ONCE: usize = 4;

/// What pulls work with.
#[derive(Clone)]
pub(crate) struct Puller {
    pub(crate) images: Link<Images>,
    pub(crate) fetcher: Fetcher,
    pub(crate) unpacker: Unpacker,
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
            hold: Rc::default(),
            stored: RefCell::default(),
            early: RefCell::default(),
            documents: Cell::new(0),
            is_for_all_platforms: pull.is_for_all_platforms,
            permits: Semaphore::new(match pull.concurrency {
                0 => Semaphore::MAX_PERMITS,
                count => usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS),
            }),
        };
        let work = async {
            let outcome = job.run(&reference, target).await;
            job.leave().await;
            outcome
        };
        tokio::pin!(work);
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = pull.progress.closed() => Err(Error::aborted("the pull was cancelled")),
            never = progress::tell(&pull.progress, || job.board.items()) => never,
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
        hold.leave().await;
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

/// What is to be fetched when the manifest is there.
enum Parts {
    /// An image.
    Image(Box<Found>),
    /// All of these, of what is no image.
    Artifact(Vec<Descriptor>),
}

/// The manifest of an image, not yet stored.
struct Found {
    descriptor: Descriptor,
    bytes: Bytes,
    config: Descriptor,
    layers: Vec<Descriptor>,
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
    hold: Rc<RefCell<Hold>>,
    /// Blobs that this pull fetches at the same time.
    permits: Semaphore,
    is_for_all_platforms: bool,
    /// What was stored or found.
    stored: RefCell<Vec<Digest>>,
    /// Parts that are on their way before the image's configuration is there, which is one of them.
    early: RefCell<BTreeMap<Digest, Rc<Fetch>>>,
    /// How many documents of other platforms were read.
    documents: Cell<usize>,
}

impl Job {
    async fn run(
        &self,
        reference: &Reference,
        target: Option<Target>,
    ) -> Result<(Image, Presence)> {
        let Resolved { descriptor: root, bytes } = self.repository.resolve().await?;
        let evidence = self.verify(reference, &root, &bytes).await?;
        if self.is_for_all_platforms && target.is_none() {
            self.all(&root, Some(bytes), 0).await?;
        } else {
            let mut others = Vec::new();
            let parts = self.documents(&root, bytes, &mut others).await?;
            let others = stream::iter(&others)
                .map(|(child, depth)| self.all(child, None, *depth))
                .buffer_unordered(DOCUMENTS_AT_ONCE)
                .try_collect::<()>();
            futures::future::try_join(self.chosen(parts, target), others).await?;
        }
        self.note_sources().await?;
        let images = &self.puller.images;
        let namespace = self.namespace.clone();
        let (name, leave) = (reference.to_string(), Leave::Granted(evidence));
        let put = Put { namespace: namespace.clone(), name, target: root, leave };
        failpoint::at("pull:unpacked");
        let image = images.send(put).await?;
        failpoint::at("pull:named");
        let survey = Survey { namespace, target: image.target.clone() };
        let presence = images.send(survey).await?;
        Ok((image, presence))
    }

    /// Lets go of all that was begun, and waits until what nobody else wants has cleaned up: after an error everything is
    /// undone.
    async fn leave(&self) {
        self.board.let_go();
        self.early.take();
        self.hold.take().leave().await;
    }

    /// Notes at each blob where it can be had again. Also from now on all of them were used.
    async fn note_sources(&self) -> Result<()> {
        let stored: BTreeSet<Digest> = self.stored.take().into_iter().collect();
        let content = &self.puller.fetcher.content;
        let source = self.repository.source();
        let notes =
            stored.iter().map(|digest| refetch::note(content, &self.namespace, digest, &source));
        futures::future::try_join_all(notes).await.map(drop)
    }

    /// Fetches what is left of what was chosen; an image is unpacked too.
    async fn chosen(&self, parts: Parts, target: Option<Target>) -> Result<()> {
        match parts {
            Parts::Artifact(parts) => self.parts(&parts, &[]).await,
            Parts::Image(found) => self.image(*found, target).await,
        }
    }

    /// Fetches an image, and unpacks it. That begins when the bytes of its configuration are here: these and the manifest
    /// are stored meanwhile.
    async fn image(&self, found: Found, target: Option<Target>) -> Result<()> {
        let Found { descriptor, bytes, config, layers } = found;
        let documents = async {
            let stored = self.store(&descriptor, bytes.clone());
            let fetched = self.fetch_part(&config, &self.repository);
            futures::future::try_join(stored, fetched).await.map(drop)
        };
        let layers = async |fetch: Option<Rc<Fetch>>| {
            let json = self.configuration(&config, fetch).await?;
            let (descriptor, config) = (descriptor.clone(), config.clone());
            let manifest = Manifest::read(descriptor, bytes.to_vec(), config, json, layers)?;
            self.layers(&manifest, target).await
        };
        match self.begun(&config.digest) {
            Some(fetch) => {
                futures::future::try_join(documents, layers(Some(fetch))).await.map(drop)
            }
            None => {
                documents.await?;
                layers(None).await
            }
        }
    }

    /// The bytes of a configuration that is on its way, or there.
    async fn configuration(
        &self,
        config: &Descriptor,
        fetch: Option<Rc<Fetch>>,
    ) -> Result<Vec<u8>> {
        let (fetcher, namespace) = (&self.puller.fetcher, &self.namespace);
        if let Some(fetch) = fetch {
            if let Ok(bytes) = fetcher.bytes(namespace, config, Some(&fetch)).await {
                return Ok(bytes);
            }
            // It broke off, or began anew: the fetch knows which.
            fetch.wait().await?;
        }
        fetcher.bytes(namespace, config, None).await
    }

    /// Fetches all that a descriptor stands for, to be passed on. A document is stored behind what it names: what is
    /// there is whole.
    async fn all(&self, root: &Descriptor, bytes: Option<Bytes>, depth: usize) -> Result<()> {
        // Not all kinds of children have to be known (OCI image-spec, image-index.md).
        if !matches!(Kind::of(&root.media_type), Ok(Kind::Manifest | Kind::Index)) {
            return Ok(());
        }
        let count = self.documents.get() + 1;
        if depth > MAX_DEPTH || count > MAX_DOCUMENTS {
            return Err(Error::corrupt(format!(
                "its index has more than {MAX_DEPTH} indexes in each other, or more than {MAX_DOCUMENTS} manifests; \
                 choose one with --platform"
            )));
        }
        self.documents.set(count);
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => self.repository.manifest(root).await?,
        };
        match Document::parse(&root.media_type, &bytes)? {
            Document::Manifest { config, layers, .. } => {
                let parts: Vec<Descriptor> = [config].into_iter().chain(layers).collect();
                self.parts(&parts, &bytes).await?;
            }
            Document::Index(list) => {
                stream::iter(&list)
                    .map(|child| Box::pin(self.all(child, None, depth + 1)))
                    .buffer_unordered(DOCUMENTS_AT_ONCE)
                    .try_collect::<()>()
                    .await?;
            }
        }
        self.store(root, bytes).await
    }

    /// Fetches what leads to the image of the platform: indexes, and its manifest. `others` gets what there is for other
    /// platforms, and its depth, if that is wanted.
    async fn documents(
        &self,
        root: &Descriptor,
        bytes: Bytes,
        others: &mut Vec<(Descriptor, usize)>,
    ) -> Result<Parts> {
        let (mut descriptor, mut bytes) = (root.clone(), bytes);
        for depth in 0..MAX_DEPTH {
            // Read before it is stored: what is no document never gets into the store.
            let document = Document::parse(&descriptor.media_type, &bytes)?;
            let checkpoint = checkpoint_manifest(&bytes);
            match document {
                Document::Manifest { config, layers, artifact: Some(_) } => {
                    self.store(&descriptor, bytes).await?;
                    let parts = layers.into_iter().chain([config]).collect();
                    return Ok(Parts::Artifact(parts));
                }
                Document::Manifest { config, layers, .. } => {
                    // The configuration first: nothing is unpacked before it is there.
                    self.begin([&config].into_iter().chain(&layers), &bytes);
                    let found = Found { descriptor, bytes, config, layers };
                    return Ok(Parts::Image(Box::new(found)));
                }
                Document::Index(list) => {
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
                    if self.is_for_all_platforms {
                        let is_other = |child: &&Descriptor| child.digest != chosen.digest;
                        let children = list.iter().filter(is_other);
                        others.extend(children.map(|child| (child.clone(), depth + 1)));
                    } else if let Some(checkpoint) = checkpoint {
                        self.checkpoint(&checkpoint).await?;
                    }
                    let stored = self.store(&descriptor, bytes);
                    let next = self.repository.manifest(chosen);
                    ((), bytes) = futures::future::try_join(stored, next).await?;
                    descriptor = chosen.clone();
                }
            }
        }
        Err(Error::corrupt(format!("more than {MAX_DEPTH} indexes deep")))
    }

    /// Begins to fetch the parts of an image: all are wanted, unpacked or not. Who limits how many come at once waits.
    fn begin<'a>(&self, parts: impl Iterator<Item = &'a Descriptor>, manifest: &[u8]) {
        if self.permits.available_permits() < Semaphore::MAX_PERMITS {
            return;
        }
        let (mut early, mut hold) = (self.early.borrow_mut(), self.hold.borrow_mut());
        for part in parts {
            let place = self.place_of(part, manifest);
            early.entry(part.digest.clone()).or_insert_with(|| {
                let fetcher = &self.puller.fetcher;
                hold.offers.push(fetcher.offer(&self.namespace, part, &place));
                let fetch = fetcher.fetch(&self.namespace, part, &place);
                hold.fetches.push(Rc::clone(&fetch));
                fetch
            });
        }
    }

    /// The fetch of a part that was begun early.
    fn begun(&self, part: &Digest) -> Option<Rc<Fetch>> {
        self.early.borrow().get(part).cloned()
    }

    /// Asks whether it may have its name, before anything of it is stored. Answers the evidence for which it may.
    async fn verify(
        &self,
        name: &Reference,
        target: &Descriptor,
        document: &[u8],
    ) -> Result<Vec<Evidence>> {
        let question = verify::question(&self.namespace, name.to_string(), target, document);
        let evidence =
            // On the heap: few pulls want it, and all would carry it.
            async || {
                let digest = &target.digest;
                Box::pin(verify::in_registry(&self.registry, &self.access, name, digest)).await
            };
        verify::permit(&self.puller.images, question, evidence).await
    }

    /// Fetches what a checkpoint has besides its image.
    async fn checkpoint(&self, manifest: &Descriptor) -> Result<()> {
        match Kind::of(&manifest.media_type)? {
            Kind::Manifest => self.all(manifest, None, 1).await,
            _ => Err(Error::corrupt(format!("checkpoint {}: it is no manifest", manifest.digest))),
        }
    }

    /// Fetches blobs that are not unpacked, some at the same time. `manifest` is the document that names them.
    async fn parts(&self, parts: &[Descriptor], manifest: &[u8]) -> Result<()> {
        let fetch =
            |part| async move { self.fetch_part(part, &self.place_of(part, manifest)).await };
        futures::future::try_join_all(parts.iter().map(fetch)).await.map(drop)
    }

    /// Where a part of an image is to be had. A layer that its registry must not pass on may be elsewhere.
    fn place_of(&self, part: &Descriptor, manifest: &[u8]) -> Repository {
        match Kind::of(&part.media_type) {
            Ok(Kind::Layer(layer)) if layer.is_foreign => {
                self.repository.or_elsewhere(urls_of(manifest, &part.digest))
            }
            _ => self.repository.clone(),
        }
    }

    async fn store(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<()> {
        let name = item_name(descriptor);
        let fetcher = &self.puller.fetcher;
        let state = match fetcher.has(&self.namespace, &descriptor.digest).await? {
            true => ItemState::Exists,
            false => {
                let labels = labels_of(&self.repository);
                let stored = fetcher.store(&self.namespace, descriptor, bytes, labels);
                self.hold.borrow_mut().stores.push(Rc::clone(&stored));
                stored.wait().await?;
                ItemState::Done
            }
        };
        self.stored.borrow_mut().push(descriptor.digest.clone());
        let (offset, total) = (descriptor.size, descriptor.size);
        self.board.add(Watched::Fixed(Item { name, state, offset, total }));
        Ok(())
    }

    /// Fetches one blob that is not unpacked.
    async fn fetch_part(&self, part: &Descriptor, place: &Repository) -> Result<()> {
        let watched = self.board.watch(part);
        let _permit = self.permits.acquire().await.expect("it is never closed");
        self.fetch(part, place, &watched).await
    }

    /// Fetches and unpacks all layers.
    async fn layers(&self, manifest: &Manifest, target: Option<Target>) -> Result<()> {
        let layers = layers(manifest);
        let watched: Vec<_> =
            layers.iter().map(|layer| self.board.watch(&layer.descriptor)).collect();
        // One begins after the other, so that each finds the unpack of its parent.
        let begun = stream::iter(layers.iter().zip(&watched)).then(|(layer, watched)| {
            let target = target.as_ref();
            async move {
                let place = self.place_of(&layer.descriptor, &manifest.manifest_json);
                let permit = self.permits.acquire().await.expect("it is never closed");
                let unpack = target.map(|target| self.unpack(target, layer, &place, watched));
                (layer, watched, place, permit, unpack)
            }
        });
        begun
            .map(|(layer, watched, place, permit, unpack)| async move {
                if let Some(unpack) = unpack {
                    unpack.wait().await?;
                }
                let fetched = self.fetch(&layer.descriptor, &place, watched).await;
                drop(permit);
                fetched
            })
            .buffer_unordered(layers.len().max(1))
            .try_collect()
            .await
    }

    /// Begins to unpack a layer, or joins whoever does.
    fn unpack(
        &self,
        target: &Target,
        layer: &Layer,
        place: &Repository,
        watched: &Rc<RefCell<LayerItem>>,
    ) -> Rc<Unpack> {
        let fetch = self.fetch_later(&layer.descriptor, place, watched);
        let mut hold = self.hold.borrow_mut();
        // Whoever fetches it can have it from here too.
        hold.offers.push(self.puller.fetcher.offer(&self.namespace, &layer.descriptor, place));
        let parent = hold.unpacks.last().cloned();
        let unpack = self.puller.unpacker.unpack(target, layer, fetch, parent);
        watched.borrow_mut().unpack = Some(Rc::clone(&unpack));
        hold.unpacks.push(Rc::clone(&unpack));
        unpack
    }

    /// What an unpack calls when it is its turn: begins to fetch, unless the blob is there.
    fn fetch_later(
        &self,
        descriptor: &Descriptor,
        place: &Repository,
        watched: &Rc<RefCell<LayerItem>>,
    ) -> impl FnOnce() -> Option<Rc<Fetch>> + 'static {
        let (fetcher, namespace) = (self.puller.fetcher.clone(), self.namespace.clone());
        let (descriptor, place) = (descriptor.clone(), place.clone());
        let (watched, hold) = (Rc::clone(watched), Rc::downgrade(&self.hold));
        let early = self.begun(&descriptor.digest);
        move || {
            let fetch = early.unwrap_or_else(|| fetcher.fetch(&namespace, &descriptor, &place));
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
        place: &Repository,
        watched: &RefCell<LayerItem>,
    ) -> Result<()> {
        let begun = watched.borrow().fetch.clone();
        let fetch = match begun.or_else(|| self.begun(&descriptor.digest)) {
            Some(fetch) => {
                watched.borrow_mut().fetch = Some(Rc::clone(&fetch));
                fetch
            }
            None => {
                let fetcher = &self.puller.fetcher;
                if fetcher.has(&self.namespace, &descriptor.digest).await? {
                    watched.borrow_mut().was_there = true;
                    self.stored.borrow_mut().push(descriptor.digest.clone());
                    return Ok(());
                }
                let fetch = fetcher.fetch(&self.namespace, descriptor, place);
                watched.borrow_mut().fetch = Some(Rc::clone(&fetch));
                let mut hold = self.hold.borrow_mut();
                hold.offers.push(fetcher.offer(&self.namespace, descriptor, place));
                hold.fetches.push(Rc::clone(&fetch));
                fetch
            }
        };
        fetch.wait().await?;
        watched.borrow_mut().is_fetched = true;
        self.stored.borrow_mut().push(descriptor.digest.clone());
        Ok(())
    }
}

/// The URLs that a manifest gives for a part of it.
fn urls_of(manifest: &[u8], part: &Digest) -> Vec<String> {
    #[derive(Deserialize)]
    struct Raw {
        layers: Vec<Layer>,
    }
    #[derive(Deserialize)]
    struct Layer {
        digest: String,
        #[serde(default)]
        urls: Vec<String>,
    }
    // It was read as a manifest before. Only URLs can be wrong in it: then there are none.
    let raw: Option<Raw> = serde_json::from_slice(manifest).ok();
    let layers = raw.into_iter().flat_map(|raw| raw.layers);
    layers.filter(|layer| layer.digest == part.as_str()).flat_map(|layer| layer.urls).collect()
}

/// The flights that a pull takes part in.
#[derive(Default)]
struct Hold {
    stores: Vec<Rc<Store>>,
    fetches: Vec<Rc<Fetch>>,
    /// Base first.
    unpacks: Vec<Rc<Unpack>>,
    /// What others who fetch the same may use.
    offers: Vec<Offer>,
}

impl Hold {
    /// Leaves all of them and waits until those that nobody else wants have cleaned up: the top layer
    /// first, because each holds its parent. What has come of a blob by then stays for the next pull.
    async fn leave(self) {
        for unpack in self.unpacks.into_iter().rev() {
            unpack.leave().await;
        }
        for fetch in self.fetches {
            fetch.leave().await;
        }
        for store in self.stores {
            store.leave().await;
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
    fn let_go(&mut self) {
        self.last = Some(self.item());
        self.fetch = None;
        self.unpack = None;
    }

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

    /// Lets go of the flights, and keeps what they last showed.
    fn let_go(&self) {
        for watched in &*self.0.borrow() {
            if let Watched::Layer(layer) = watched {
                layer.borrow_mut().let_go();
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
}
