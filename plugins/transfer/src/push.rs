//! A push: what an image has goes to a registry, blobs first, then documents from the bottom, its name last.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use capstan_sdk::contract::content::{Open, OpenBlob, Use};
use capstan_sdk::contract::images::Get;
use capstan_sdk::contract::transfer::{
    Item, ItemState, LABEL_SOURCE, ProgressSender, Push, Repack,
};
use capstan_sdk::contract::{Content, Images};
use capstan_sdk::oci::{ImageConfig, choose};
use capstan_sdk::{
    Class, Descriptor, Digest, Error, Labels, Link, Namespace, Platform, Reference, Result,
    blocking, failpoint,
};
use futures::future::join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::Config;
use crate::convert::{Packing, Packings};
use crate::copy::Origin;
use crate::fetch::Fetch;
use crate::flight::{Flight, Flights};
use crate::pull::MAX_DEPTH;
use crate::registry::{Begun, Pushed, Registry, Repository, Source, hash};
use crate::tree::{Document, Part, Role};
use crate::{progress, refetch};

/// The most bytes of documents of one push, all of which are in memory.
pub(crate) const MAX_DOCUMENTS_BYTES: u64 = 64 << 20;

/// What an upload shows of itself.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    sent: Arc<AtomicU64>,
    how: Cell<Option<Pushed>>,
    begun: Begun,
    /// How it comes here first, if it does.
    pub(crate) fetch: RefCell<Option<Rc<Fetch>>>,
    /// Whether it has.
    pub(crate) was_fetched: Cell<bool>,
}

/// Blobs on their way: by namespace, repository, and digest.
pub(crate) type Uploads = Flights<(Namespace, String, Digest), Upload>;

/// What pushes work with.
#[derive(Clone)]
pub(crate) struct Pusher {
    pub(crate) images: Link<Images>,
    pub(crate) content: Link<Content>,
    pub(crate) registry: Registry,
    pub(crate) config: Config,
    pub(crate) uploads: Uploads,
    pub(crate) packings: Packings,
    /// Held by whoever changes the list of what refers to something.
    pub(crate) referring: Rc<Mutex<()>>,
}

impl Pusher {
    /// Whether nothing is under way, and nothing cleans up.
    pub(crate) fn is_idle(&self) -> bool {
        self.uploads.is_idle() && self.packings.is_idle()
    }

    /// Sends an image that is here.
    pub(crate) async fn push(self, push: Push) -> Result<Descriptor> {
        let reference = Reference::parse(&push.reference)?;
        let repository = self.registry.repository(&reference, &push.access)?;
        let job = Job::new(self, push.namespace.clone(), repository, push.concurrency, None);
        let outcome = job.told(&push.progress, Box::pin(job.push(&reference, &push))).await;
        let target = outcome.map_err(|error| error.at(format!("push {reference}")))?;
        info!(image = push.source, to = %reference, digest = %target.digest, "pushed");
        Ok(target)
    }

    /// The labels of a blob that is here; from now on it was used, so that it stays for as long as the caller holds.
    pub(crate) async fn labels(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<Option<Labels>> {
        let found = Use { namespace: namespace.clone(), digest: digest.clone() };
        match self.content.send(found).await {
            Ok(info) => Ok(Some(info.labels)),
            Err(error) if error.class() == Class::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a blob.
    pub(crate) async fn blob(&self, namespace: &Namespace, at: &Descriptor) -> Result<OpenBlob> {
        let Descriptor { digest, size, .. } = at;
        let open = Open { namespace: namespace.clone(), digest: digest.clone() };
        let blob = self.content.send(open).await?;
        match blob.size == *size {
            true => Ok(blob),
            false => Err(Error::corrupt(format!(
                "blob {digest} has {} bytes, its manifest says {size}",
                blob.size
            ))),
        }
    }

    /// Reads a small blob, and verifies it.
    pub(crate) async fn read(&self, namespace: &Namespace, at: &Descriptor) -> Result<Bytes> {
        let blob = self.blob(namespace, at).await?;
        let (limit, digest) = (self.config.max_manifest_bytes, at.digest.clone());
        blocking::run("read a document", move || {
            let bytes = blob.read_all(limit).map_err(|error| error.at(&digest))?;
            match hash(digest.algorithm(), &bytes) == digest {
                true => Ok(Bytes::from(bytes)),
                false => Err(damaged(&digest)),
            }
        })
        .await
    }

    /// Reads a document.
    pub(crate) async fn open(&self, namespace: &Namespace, at: &Descriptor) -> Result<Document> {
        Document::parse(at.clone(), self.read(namespace, at).await?)
    }

    /// Sends a blob that is here, or, if it is to be had from `origin`, needs not be.
    pub(crate) async fn send(
        &self,
        namespace: &Namespace,
        at: &Descriptor,
        to: &Repository,
        upload: &Upload,
        origin: Option<&Origin>,
    ) -> Result<Pushed> {
        let digest = &at.digest;
        let found = Use { namespace: namespace.clone(), digest: digest.clone() };
        let mut known = Labels::new();
        if let Some(origin) = origin {
            known.insert(format!("{LABEL_SOURCE}.origin"), origin.repository.source());
        }
        let mut is_lacking = false;
        match (self.content.send(found).await, origin) {
            (Ok(info), _) => known.extend(info.labels),
            (Err(error), Some(origin)) if error.class() == Class::NotFound => {
                if to.has_blob(digest).await? {
                    return Ok(Pushed::Exists);
                }
                if let Some(from) = mount(&known, &to.source())
                    && to.mount_blob(digest, &from, &upload.begun).await?
                {
                    return Ok(Pushed::Mounted);
                }
                origin.fetch(namespace, at, upload).await?;
                (is_lacking, known) = (true, Labels::new());
            }
            (Err(error), _) => return Err(error),
        }
        let source = Source {
            blob: self.blob(namespace, at).await?,
            mount: mount(&known, &to.source()),
            chunk: self.config.push_chunk_bytes,
            sent: Arc::clone(&upload.sent),
            begun: upload.begun.clone(),
        };
        let pushed = match is_lacking {
            true => to.upload_blob(digest, &source).await,
            false => to.push_blob(digest, &source).await,
        };
        match pushed {
            Err(error) if error.class() == Class::FailedPrecondition => {
                match refetch::is_whole(source.blob, at.digest.clone()).await? {
                    true => Err(error),
                    false => Err(damaged(&at.digest)),
                }
            }
            pushed => pushed,
        }
    }

    /// Stores a document.
    pub(crate) async fn put(
        &self,
        document: &Document,
        to: &Repository,
        tag: Option<&str>,
    ) -> Result<()> {
        let Document { descriptor, bytes, subject, .. } = document;
        // Lists of what refers to something are read, changed, and written.
        let _alone = match subject {
            Some(_) => Some(self.referring.lock().await),
            None => None,
        };
        to.put_document(tag, descriptor, bytes, subject.as_ref()).await
    }
}

fn damaged(digest: &Digest) -> Error {
    Error::corrupt(format!(
        "{digest}: its bytes are damaged; capstan system heal fetches them again"
    ))
}

/// One push under way.
pub(crate) struct Job {
    pub(crate) pusher: Pusher,
    pub(crate) namespace: Namespace,
    repository: Repository,
    pub(crate) at_once: usize,
    pub(crate) board: Board,
    /// Where what is not here comes from.
    pub(crate) origin: Option<Rc<Origin>>,
    pub(crate) hold: RefCell<Hold>,
}

/// All that a push waits for, or has waited for.
#[derive(Default)]
pub(crate) struct Hold {
    uploads: Vec<Rc<Flight<Upload>>>,
    pub(crate) packings: Vec<Rc<Flight<Packing>>>,
}

impl Hold {
    /// Leaves all of them, and waits until those that nobody else wants have cleaned up, here and at the registry.
    async fn leave(self) {
        let uploads = join_all(self.uploads.into_iter().map(Flight::leave));
        let packings = join_all(self.packings.into_iter().map(Flight::leave));
        futures::join!(uploads, packings);
    }
}

impl Job {
    /// `concurrency`: 0 = as configured.
    pub(crate) fn new(
        pusher: Pusher,
        namespace: Namespace,
        repository: Repository,
        concurrency: u32,
        origin: Option<Rc<Origin>>,
    ) -> Self {
        let at_once = if concurrency == 0 { pusher.config.push_concurrency } else { concurrency };
        let at_once = usize::try_from(at_once).unwrap_or(1).max(1);
        let (board, hold) = (Board::default(), RefCell::default());
        Self { pusher, namespace, repository, at_once, board, origin, hold }
    }

    /// Tells how far `work` is, until it is done or nobody wants it any more.
    pub(crate) async fn told(
        &self,
        progress: &ProgressSender,
        work: impl Future<Output = Result<Descriptor>>,
    ) -> Result<Descriptor> {
        let work = async {
            let outcome = work.await;
            self.hold.take().leave().await;
            outcome
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = progress.closed() => Err(cancelled()),
            never = progress::tell(progress, || self.board.items()) => never,
        };
        if outcome.is_ok() {
            progress.send_replace(self.board.items());
        }
        outcome
    }

    async fn push(&self, reference: &Reference, push: &Push) -> Result<Descriptor> {
        let mut root = self.source(&push.source).await?;
        if let Some(platform) = &push.platform {
            root = self.narrow(root, platform).await?;
        }
        let mut documents = self.gather(&root, push.platform.is_some()).await?;
        if push.repack == Repack::Zstd {
            documents = self.convert(documents).await?;
        }
        self.deliver(reference, documents, &HashMap::new()).await
    }

    /// Sends documents, of which the last one gets the name and others may have tags, and the blobs that they need.
    pub(crate) async fn deliver(
        &self,
        reference: &Reference,
        documents: Vec<Document>,
        tags: &HashMap<Digest, Vec<String>>,
    ) -> Result<Descriptor> {
        let last = documents.last().expect("the root is there");
        let root = last.descriptor.clone();
        if let Some(digest) = reference.digest().filter(|digest| **digest != root.digest) {
            return Err(Error::invalid(format!(
                "what is to be pushed has the digest {}, not {digest}; leave the digest out of the name",
                root.digest
            )));
        }
        let mut blobs = BTreeMap::new();
        for part in documents.iter().flat_map(|document| &document.parts) {
            if self.is_pushed(part) {
                blobs.entry(part.descriptor.digest.clone()).or_insert(part);
            }
        }
        self.send(blobs.values().map(|part| self.blob(part)).collect()).await?;
        let top = documents.iter().map(|document| document.height).max().unwrap_or(0);
        for height in 0..=top {
            let level = documents.iter().filter(|document| document.height == height);
            let level = level.filter(|document| document.descriptor.digest != root.digest);
            let send = level.flat_map(|document| {
                let tags = tags.get(&document.descriptor.digest).map_or(&[][..], Vec::as_slice);
                let by_digest = tags.is_empty().then_some(None);
                let names = by_digest.into_iter().chain(tags.iter().map(|tag| Some(tag.as_str())));
                names.map(move |name| self.document(document, name))
            });
            self.send(send.collect()).await?;
        }
        failpoint::at("push:unnamed");
        self.document(last, reference.tag()).await?;
        let kept = documents.iter().map(|document| &document.descriptor.digest);
        self.note_sources(kept.chain(blobs.keys())).await;
        Ok(root)
    }

    /// Does so many at once as are allowed, until one fails.
    pub(crate) async fn send<T>(
        &self,
        all: Vec<impl Future<Output = Result<T>>>,
    ) -> Result<Vec<T>> {
        let numbered = all.into_iter().enumerate();
        let numbered =
            numbered.map(|(number, one)| async move { one.await.map(|one| (number, one)) });
        let all = stream::iter(numbered).buffer_unordered(self.at_once);
        let mut all: Vec<(usize, T)> = all.try_collect().await?;
        all.sort_unstable_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, one)| one).collect())
    }

    /// Whether a part is a blob that the registry gets.
    fn is_pushed(&self, part: &Part) -> bool {
        match part.role {
            Role::Layer { is_foreign } => !is_foreign || self.pusher.config.push_foreign_layers,
            role => !role.is_document(),
        }
    }

    /// What a name here means: an image, or with `name@digest` a document below it.
    async fn source(&self, source: &str) -> Result<Descriptor> {
        let get =
            |name: String| self.pusher.images.send(Get { namespace: self.namespace.clone(), name });
        let missing = match get(source.to_owned()).await {
            Ok(image) => return Ok(image.target),
            Err(error) if error.class() == Class::NotFound => error,
            Err(error) => return Err(error),
        };
        let Some((name, digest)) = source.rsplit_once('@') else { return Err(missing) };
        let Ok(digest) = Digest::parse(digest) else { return Err(missing) };
        // `name@digest` has no tag to be completed, so `name` may be without one.
        let name = Reference::parse(name).map_or(name.to_owned(), |full| full.to_string());
        let image = get(name.clone()).await?;
        let mut below = vec![(image.target, 0)];
        while let Some((descriptor, depth)) = below.pop() {
            if descriptor.digest == digest {
                return Ok(descriptor);
            }
            if depth > MAX_DEPTH
                || self.pusher.labels(&self.namespace, &descriptor.digest).await?.is_none()
            {
                continue;
            }
            for part in self.pusher.open(&self.namespace, &descriptor).await?.parts {
                if part.role.is_document() {
                    below.push((part.descriptor, depth + 1));
                } else if part.descriptor.digest == digest {
                    return Err(Error::invalid(format!(
                        "{digest} is a blob of image {name}, no manifest; \
                         capstan content push-object sends blobs"
                    )));
                }
            }
        }
        Err(Error::not_found(format!("image {name} has no manifest {digest}")))
    }

    /// The manifest for a platform.
    pub(crate) async fn narrow(&self, root: Descriptor, platform: &Platform) -> Result<Descriptor> {
        let mut target = root;
        for _ in 0..=MAX_DEPTH {
            let document = self.open(&target).await?.ok_or_else(|| {
                Error::precondition(format!(
                    "its manifest {} for {platform} is not here; \
                     pull the image with --platform {platform} first",
                    target.digest
                ))
            })?;
            if document.role == Role::Manifest {
                self.check_platform(&document, platform).await?;
                return Ok(target);
            }
            let list: Vec<Descriptor> =
                document.parts.into_iter().map(|part| part.descriptor).collect();
            target = choose(&list, platform).cloned().ok_or_else(|| {
                let have: BTreeSet<String> = list
                    .iter()
                    .filter_map(|entry| Some(entry.platform.as_ref()?.to_string()))
                    .collect();
                let have: Vec<String> = have.into_iter().collect();
                Error::not_found(format!(
                    "it has no manifest for {platform}, only for {}; choose with --platform",
                    have.join(", ")
                ))
            })?;
        }
        Err(Error::corrupt(format!("more than {MAX_DEPTH} indexes deep")))
    }

    /// Refuses an image for another platform; what says nothing of platforms is for all.
    async fn check_platform(&self, manifest: &Document, platform: &Platform) -> Result<()> {
        let own = match (&manifest.descriptor.platform, self.image_config(manifest).await?) {
            (Some(platform), _) => platform.clone(),
            (None, Some(config)) => config.platform,
            (None, None) => return Ok(()),
        };
        let own = Descriptor { platform: Some(own), ..manifest.descriptor.clone() };
        match choose(std::slice::from_ref(&own), platform) {
            Some(_) => Ok(()),
            None => Err(Error::not_found(format!(
                "it is for {}, not for {platform}",
                own.platform.expect("just set")
            ))),
        }
    }

    /// The configuration of an image; `None` for what is no image, or has none here.
    pub(crate) async fn image_config(&self, manifest: &Document) -> Result<Option<ImageConfig>> {
        use capstan_sdk::oci::media::{DOCKER_CONFIG, OCI_CONFIG};
        let config = manifest.parts.iter().find(|part| part.role == Role::Config);
        let Some(config) = config.map(|part| &part.descriptor) else { return Ok(None) };
        let is_image = matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG);
        if !is_image {
            return Ok(None);
        }
        if self.pusher.labels(&self.namespace, &config.digest).await?.is_none() {
            let Some(origin) = &self.origin else { return Ok(None) };
            origin.fetch(&self.namespace, config, &Upload::default()).await?;
        }
        ImageConfig::parse(&self.pusher.read(&self.namespace, config).await?).map(Some)
    }

    /// Reads a document that is here, or is to be had; `None`: it is neither.
    pub(crate) async fn open(&self, at: &Descriptor) -> Result<Option<Document>> {
        if self.pusher.labels(&self.namespace, &at.digest).await?.is_some() {
            return self.pusher.open(&self.namespace, at).await.map(Some);
        }
        match &self.origin {
            Some(origin) => Document::parse(at.clone(), origin.document(at).await?).map(Some),
            None => Ok(None),
        }
    }

    /// All documents of what is pushed, those below before those above, the root last. All that they need is here.
    pub(crate) async fn gather(&self, root: &Descriptor, is_chosen: bool) -> Result<Vec<Document>> {
        let mut walk = Walk::of(self, Vec::new());
        walk.visit(root, 0).await?;
        let Some((missing, of)) = walk.missing else { return Ok(walk.documents) };
        let for_platform = |of: &Descriptor| match &of.platform {
            Some(platform) => platform.to_string(),
            None => of.digest.to_string(),
        };
        let is_one = Role::of(&root.media_type)? == Role::Manifest;
        Err(match (is_one, is_chosen) {
            (true, false) => {
                Error::not_found(format!("its {missing} is not here; pull the image again"))
            }
            (true, true) => Error::precondition(format!(
                "for {} its {missing} is not here; pull the image with --platform first",
                for_platform(root)
            )),
            (false, _) => Error::precondition(format!(
                "{} of its manifests are not here whole ({}: {missing}); push one that is, with --platform, \
                 or pull the image for all platforms first",
                walk.lacking,
                for_platform(&of)
            )),
        })
    }

    /// Sends one blob, or waits for whoever does.
    async fn blob(&self, part: &Part) -> Result<()> {
        let shown = self.board.add(part);
        loop {
            let (flight, is_ours) = self.upload(part);
            self.hold.borrow_mut().uploads.push(Rc::clone(&flight));
            shown.watch(&flight.state);
            match flight.wait().await {
                // It went wrong for somebody else, who may have had other rights.
                Err(_) if !is_ours => {}
                outcome => return outcome,
            }
        }
    }

    /// Begins to send a blob, or joins whoever does; answers whether it was begun.
    fn upload(&self, part: &Part) -> (Rc<Flight<Upload>>, bool) {
        let mut is_ours = false;
        let digest = part.descriptor.digest.clone();
        let key = (self.namespace.clone(), self.repository.source(), digest);
        let flight = self.pusher.uploads.join(&key, |state, abandoned| {
            is_ours = true;
            let (pusher, repository) = (self.pusher.clone(), self.repository.clone());
            let (namespace, at) = (self.namespace.clone(), part.descriptor.clone());
            let origin = self.origin.clone();
            async move {
                let work = pusher.send(&namespace, &at, &repository, &state, origin.as_deref());
                let mut work = Box::pin(work);
                let done = tokio::select! {
                    biased;
                    _ = abandoned => None,
                    done = &mut work => Some(done),
                };
                if let Some(done) = done {
                    state.how.set(Some(done?));
                    return Ok(());
                }
                repository.abandon(work, &state.begun).await;
                if let Some(fetch) = state.fetch.take() {
                    fetch.leave().await;
                }
                Err(cancelled())
            }
        });
        (flight, is_ours)
    }

    /// Stores one document; under a tag always, as that may mean another one now.
    async fn document(&self, document: &Document, tag: Option<&str>) -> Result<()> {
        let shown = self.board.add(&document.part());
        let digest = &document.descriptor.digest;
        // What refers to something must stand in the list of it too.
        let may_be_there = tag.is_none() && document.subject.is_none();
        if may_be_there && self.repository.has_document(digest).await? {
            shown.state.set(ItemState::Exists);
            return Ok(());
        }
        shown.state.set(ItemState::Uploading);
        self.pusher.put(document, &self.repository, tag).await?;
        shown.state.set(ItemState::Done);
        Ok(())
    }

    /// Notes at what was pushed where it can be had from now on. The push is done, whatever comes of that.
    async fn note_sources<'d>(&self, pushed: impl Iterator<Item = &'d Digest>) {
        let (content, source) = (&self.pusher.content, self.repository.source());
        for digest in pushed {
            match refetch::note(content, &self.namespace, digest, &source).await {
                Err(error) if error.class() != Class::NotFound => {
                    warn!(%digest, %error, "it could not be noted where it was pushed to");
                }
                // What was packed anew for the push alone is not stored.
                _ => {}
            }
        }
    }
}

fn cancelled() -> Error {
    Error::aborted("it was cancelled")
}

/// Another repository of the registry of `to` that has a blob, by the blob's labels.
fn mount(labels: &Labels, to: &str) -> Option<String> {
    let (scheme, place) = to.split_once("://")?;
    let (host, own) = place.split_once('/')?;
    let registry = format!("{scheme}://{host}/");
    let sources = labels.iter().filter(|(key, _)| refetch::is_source(key));
    let mut known = sources.filter_map(|(_, source)| source.strip_prefix(&registry));
    let known = known.find(|repository| *repository != own)?;
    // A label is anybody's word: what is no repository does not get into a URL.
    let reference = Reference::parse(&format!("{host}/{known}")).ok()?;
    (reference.repository() == known).then(|| known.to_owned())
}

/// A walk over documents.
pub(crate) struct Walk<'j> {
    job: &'j Job,
    pub(crate) documents: Vec<Document>,
    bytes: u64,
    /// What is not here first, and the document that needs it.
    missing: Option<(String, Descriptor)>,
    /// How many documents need what is not here.
    lacking: usize,
}

impl<'j> Walk<'j> {
    /// One that knows some documents.
    pub(crate) fn of(job: &'j Job, documents: Vec<Document>) -> Self {
        let bytes = documents.iter().map(|document| document.bytes.len() as u64).sum();
        Self { job, documents, bytes, missing: None, lacking: 0 }
    }

    /// Adds what stands below a document, then the document; answers its height.
    pub(crate) async fn visit(&mut self, at: &Descriptor, depth: usize) -> Result<usize> {
        let known = self.documents.iter().find(|document| document.descriptor.digest == at.digest);
        if let Some(known) = known {
            return Ok(known.height);
        }
        if depth > MAX_DEPTH {
            return Err(Error::corrupt(format!("more than {MAX_DEPTH} indexes deep")));
        }
        let Some(mut document) = self.job.open(at).await? else {
            self.miss(format!("manifest {}", at.digest), at);
            return Ok(0);
        };
        self.bytes += document.bytes.len() as u64;
        if self.bytes > MAX_DOCUMENTS_BYTES {
            return Err(Error::exhausted(format!(
                "its manifests are more than {MAX_DOCUMENTS_BYTES} bytes; push its parts one by one"
            )));
        }
        if let Some(origin) = &self.job.origin {
            origin.expect(self.job, &document).await?;
        }
        for part in &document.parts {
            let Part { role, descriptor } = part;
            if role.is_document() {
                let below = Box::pin(self.visit(descriptor, depth + 1)).await?;
                document.height = document.height.max(below + 1);
            } else if self.job.origin.is_none()
                && self.job.is_pushed(part)
                && self.job.pusher.labels(&self.job.namespace, &descriptor.digest).await?.is_none()
            {
                self.miss(format!("blob {}", descriptor.digest), at);
                break;
            }
        }
        let height = document.height;
        self.documents.push(document);
        Ok(height)
    }

    fn miss(&mut self, what: String, of: &Descriptor) {
        self.lacking += 1;
        self.missing.get_or_insert((what, of.clone()));
    }
}

/// What is shown of one descriptor.
pub(crate) struct Shown {
    name: String,
    total: u64,
    pub(crate) state: Cell<ItemState>,
    packing: RefCell<Option<Rc<Packing>>>,
    upload: RefCell<Option<Rc<Upload>>>,
}

impl Shown {
    fn watch(&self, upload: &Rc<Upload>) {
        self.upload.replace(Some(Rc::clone(upload)));
    }

    /// Shows how far a layer is packed.
    pub(crate) fn watch_packing(&self, packing: &Rc<Packing>) {
        self.state.set(ItemState::Converting);
        self.packing.replace(Some(Rc::clone(packing)));
    }

    fn item(&self) -> Item {
        let mut state = self.state.get();
        let mut offset = self.packing.borrow().as_ref().map_or(0, |packing| packing.read());
        if let Some(upload) = &*self.upload.borrow() {
            offset = upload.sent.load(Ordering::Relaxed);
            state = match upload.how.get() {
                Some(Pushed::Exists) => ItemState::Exists,
                Some(Pushed::Mounted) => ItemState::Mounted,
                Some(Pushed::Sent) => ItemState::Done,
                None if offset > 0 || upload.was_fetched.get() => ItemState::Uploading,
                None => match &*upload.fetch.borrow() {
                    Some(fetch) => {
                        offset = fetch.state.offset().unwrap_or(0);
                        ItemState::Downloading
                    }
                    None => ItemState::Waiting,
                },
            };
        }
        if matches!(state, ItemState::Exists | ItemState::Mounted | ItemState::Done) {
            offset = self.total;
        }
        Item { name: self.name.clone(), state, offset, total: self.total }
    }
}

/// All items of a push, as far as they are known.
#[derive(Default)]
pub(crate) struct Board(RefCell<Vec<Rc<Shown>>>);

impl Board {
    /// Shows one more thing, which waits.
    pub(crate) fn add(&self, part: &Part) -> Rc<Shown> {
        let shown = Rc::new(Shown {
            name: part.name(),
            total: part.descriptor.size,
            state: Cell::new(ItemState::Waiting),
            packing: RefCell::default(),
            upload: RefCell::default(),
        });
        self.0.borrow_mut().push(Rc::clone(&shown));
        shown
    }

    fn items(&self) -> Vec<Item> {
        self.0.borrow().iter().map(|shown| shown.item()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_mounted_from_the_same_registry_only() {
        let check = |sources: &[&str], want: Option<&str>| {
            let label = |(number, source): (usize, &&str)| {
                (format!("{LABEL_SOURCE}.{number}"), (*source).to_owned())
            };
            let labels: Labels = sources.iter().enumerate().map(label).collect();
            let got = mount(&labels, "http://r.example:5000/a/app");
            assert_eq!(got.as_deref(), want, "{sources:?}");
        };
        check(&["http://r.example:5000/b/other"], Some("b/other"));
        check(&["http://r.example:5000/a/app"], None);
        check(&["http://r.example:5000/a/app", "http://r.example:5000/z"], Some("z"));
        check(&["https://r.example:5000/b"], None);
        check(&["http://r.example/b"], None);
        check(&["http://r.example:50001/b"], None);
        check(&["http://r.example:5000/b?x=y&digest=z"], None);
        check(&["http://r.example:5000/b:tag"], None);
        check(&["http://r.example:5000/"], None);
        check(&["nonsense"], None);
        check(&[], None);
    }
}
