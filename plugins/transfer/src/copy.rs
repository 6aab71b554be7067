//! A copy: a push of what another registry has. What is not here is fetched when it is its turn.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use bytes::Bytes;
use capstan_sdk::contract::transfer::CopyImage;
use capstan_sdk::{Class, Descriptor, Digest, Error, Namespace, Reference, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tracing::info;

use crate::fetch::Fetcher;
use crate::push::{Job, MAX_DOCUMENTS_BYTES, Pusher, Upload, Walk};
use crate::registry::{Repository, Resolved};
use crate::tree::{Document, Role};
use crate::verify::cosign_name;

/// More manifests than any real image has, with all that refers to it; a bound on the work that one can cause.
const MAX_DOCUMENTS: usize = 5000;

impl Pusher {
    /// Copies an image from one registry to another one.
    pub(crate) async fn copy(self, fetcher: Fetcher, copy: CopyImage) -> Result<Descriptor> {
        let (source, target) = (Reference::parse(&copy.source)?, Reference::parse(&copy.target)?);
        let repository = self.registry.repository(&target, &copy.target_access)?;
        let origin = Rc::new(Origin {
            repository: self.registry.repository(&source, &copy.source_access)?,
            fetcher,
            documents: RefCell::default(),
            bytes: Cell::new(0),
        });
        let (namespace, at_once) = (copy.namespace.clone(), copy.concurrency);
        let job = Job::new(self, namespace, repository, at_once, Some(Rc::clone(&origin)));
        let work = Box::pin(job.copy(&origin, &target, &copy));
        let outcome = job.told(&copy.progress, work).await;
        let root = outcome.map_err(|error| error.at(format!("copy {source} to {target}")))?;
        info!(image = %source, to = %target, digest = %root.digest, "copied");
        Ok(root)
    }
}

impl Job {
    async fn copy(
        &self,
        origin: &Origin,
        target: &Reference,
        copy: &CopyImage,
    ) -> Result<Descriptor> {
        let mut root = origin.root().await?;
        if let Some(platform) = &copy.platform {
            root = self.narrow(root, platform).await?;
        }
        let mut documents = self.gather(&root, copy.platform.is_some()).await?;
        let mut tags = HashMap::new();
        if copy.has_referrers {
            (documents, tags) = self.with_referrers(origin, documents).await?;
        }
        self.deliver(target, documents, &tags).await
    }

    /// Adds what refers to the documents, and to that, by its subject or by cosign's tags, which come along; the last one
    /// stays the last.
    async fn with_referrers(
        &self,
        origin: &Origin,
        documents: Vec<Document>,
    ) -> Result<(Vec<Document>, HashMap<Digest, Vec<String>>)> {
        let last = documents.last().map(|root| root.descriptor.digest.clone());
        let mut walk = Walk::of(self, documents);
        let (mut asked, mut tags) = (HashSet::new(), HashMap::new());
        loop {
            let digests = walk.documents.iter().map(|document| document.descriptor.digest.clone());
            let new: Vec<Digest> = digests.filter(|digest| asked.insert(digest.clone())).collect();
            if new.is_empty() {
                break;
            }
            let lists = new.iter().map(|digest| origin.repository.referrers(digest, "")).collect();
            for referrer in self.send(lists).await?.into_iter().flatten() {
                if Role::of(&referrer.manifest.media_type)?.is_document() {
                    walk.visit(&referrer.manifest, 0).await?;
                }
            }
            let found = new.iter().flat_map(cosign_tags).map(|tag| origin.tagged(tag)).collect();
            for (tag, manifest) in self.send(found).await?.into_iter().flatten() {
                walk.visit(&manifest, 0).await?;
                tags.entry(manifest.digest).or_insert_with(Vec::new).push(tag);
            }
        }
        let mut documents = walk.documents;
        let is_last = |document: &Document| Some(&document.descriptor.digest) == last.as_ref();
        let place = documents.iter().position(is_last);
        let root = documents.remove(place.expect("it was there before"));
        documents.push(root);
        Ok((documents, tags))
    }
}

/// The names under which cosign keeps signatures, attestations and lists of parts of something in its repository.
fn cosign_tags(digest: &Digest) -> impl Iterator<Item = String> + '_ {
    ["sig", "att", "sbom"].into_iter().map(|kind| cosign_name(digest, kind))
}

/// Where what is not here comes from.
pub(crate) struct Origin {
    pub(crate) repository: Repository,
    fetcher: Fetcher,
    /// Those that came from there: they are held here, and not stored.
    documents: RefCell<HashMap<Digest, Bytes>>,
    /// How many bytes they have.
    bytes: Cell<u64>,
}

impl Origin {
    /// What the name means there.
    async fn root(&self) -> Result<Descriptor> {
        self.resolve(&self.repository).await
    }

    /// A tag, and what it means there; `None`: there is none.
    async fn tagged(&self, tag: String) -> Result<Option<(String, Descriptor)>> {
        // The name of a sha512 may be too long for a tag.
        let Ok(repository) = self.repository.of_tag(&tag) else { return Ok(None) };
        match self.resolve(&repository).await {
            Ok(descriptor) => Ok(Some((tag, descriptor))),
            Err(error) if error.class() == Class::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn resolve(&self, repository: &Repository) -> Result<Descriptor> {
        let Resolved { descriptor, bytes } = repository.resolve().await?;
        self.count(bytes.len() as u64)?;
        self.documents.borrow_mut().insert(descriptor.digest.clone(), bytes);
        Ok(descriptor)
    }

    /// A document, by its descriptor.
    pub(crate) async fn document(&self, at: &Descriptor) -> Result<Bytes> {
        if let Some(bytes) = self.documents.borrow().get(&at.digest) {
            return Ok(bytes.clone());
        }
        self.count(at.size)?;
        let bytes = self.repository.manifest(at).await?;
        self.documents.borrow_mut().insert(at.digest.clone(), bytes.clone());
        Ok(bytes)
    }

    fn count(&self, size: u64) -> Result<()> {
        self.bytes.set(self.bytes.get().saturating_add(size));
        if self.bytes.get() > MAX_DOCUMENTS_BYTES || self.documents.borrow().len() >= MAX_DOCUMENTS
        {
            return Err(Error::exhausted(format!(
                "its manifests are more than {MAX_DOCUMENTS}, or more than {MAX_DOCUMENTS_BYTES} bytes; \
                 copy its parts one by one"
            )));
        }
        Ok(())
    }

    /// Gets the documents that one lists, some at the same time, as they will be wanted.
    pub(crate) async fn expect(&self, job: &Job, above: &Document) -> Result<()> {
        let listed = above.parts.iter().filter(|part| part.role.is_document());
        let listed: Vec<&Descriptor> = listed.map(|part| &part.descriptor).collect();
        let get = |at| async move { job.open(at).await.map(drop) };
        stream::iter(listed).map(get).buffer_unordered(job.at_once).try_collect().await
    }

    /// Brings a blob here.
    pub(crate) async fn fetch(
        &self,
        namespace: &Namespace,
        blob: &Descriptor,
        upload: &Upload,
    ) -> Result<()> {
        let _offer = self.fetcher.offer(namespace, blob, &self.repository);
        let fetch = self.fetcher.fetch(namespace, blob, &self.repository);
        upload.fetch.replace(Some(Rc::clone(&fetch)));
        let outcome = fetch.wait().await;
        upload.fetch.take();
        upload.was_fetched.set(outcome.is_ok());
        fetch.leave().await;
        outcome
    }
}
