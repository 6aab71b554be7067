//! Images from an archive: blobs in, documents checked, layers unpacked, and names last.

use std::collections::BTreeSet;

use bytes::Bytes;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::{Open, Use};
use capstan_sdk::contract::images::{Get, Leave, Put, ResolveTarget};
use capstan_sdk::contract::transfer::{Import, Imported, Names, ProgressSender};
use capstan_sdk::contract::verifier::Evidence;
use capstan_sdk::oci::media::{
    Compression, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER,
    OCI_MANIFEST,
};
use capstan_sdk::oci::{Document, ImageConfig};
use capstan_sdk::{
    Class, Descriptor, Digest, Error, Labels, Link, Namespace, Platform, Reference, Result,
    blocking,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing::info;

use crate::archive::{Found, Intake, Stored};
use crate::pull::{MAX_DEPTH, Puller};
use crate::registry::hash;
use crate::unpack::Target;
use crate::verify::{self, Findings};

/// The full name of an image in an index, in containerd's words.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";

/// Its name in the index (OCI image-spec, annotations.md): mostly a tag.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What an entry is, in cosign's words.
const KIND: &str = "kind";

/// An image of an archive.
#[derive(Clone, Debug)]
struct Candidate {
    target: Descriptor,
    /// What the archive calls it.
    names: Vec<String>,
    /// Whether it is none, but signatures or the like that came along with one.
    is_about_an_image: bool,
}

#[derive(Deserialize)]
struct RawIndex {
    manifests: Vec<RawEntry>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
}

/// `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A manifest of Docker, or of OCI where Docker's types have no name for a layer; with its keys in the order in which containerd writes them: so both give it one digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest {
    schema_version: u32,
    media_type: &'static str,
    config: NewDescriptor,
    layers: Vec<NewDescriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewDescriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// What imports work with.
pub(crate) struct Importer {
    pub(crate) puller: Puller,
    pub(crate) content: Link<Content>,
    pub(crate) max_document_bytes: u64,
}

impl Importer {
    /// Imports; `target` is where to unpack, if that is wanted.
    pub(crate) async fn import(
        self,
        import: Import,
        target: Option<Target>,
    ) -> Result<Vec<Imported>> {
        let Import { namespace, archive, names, platform, progress, .. } = import;
        let cancelled = progress.clone();
        let job = Job { importer: self, namespace, platform };
        tokio::select! {
            outcome = job.run(archive.0, names, progress, target) => {
                outcome.map_err(|error| error.at("import"))
            }
            () = cancelled.closed() => Err(Error::aborted("the import was cancelled")),
        }
    }
}

struct Job {
    importer: Importer,
    namespace: Namespace,
    platform: Platform,
}

impl Job {
    async fn run(
        &self,
        archive: Box<dyn std::io::Read + Send>,
        names: Names,
        progress: ProgressSender,
        target: Option<Target>,
    ) -> Result<Vec<Imported>> {
        let intake = Intake {
            runtime: Handle::current(),
            content: self.importer.content.clone(),
            namespace: self.namespace.clone(),
            max_document_bytes: self.importer.max_document_bytes,
            progress,
        };
        let found = blocking::run("read an archive", move || intake.read(archive)).await?;
        let candidates = match (&found.index, &found.manifest) {
            (Some(index), _) => of_index(index)?,
            (None, Some(manifest)) => self.of_saved(&found, manifest).await?,
            (None, None) => {
                return Err(Error::invalid(
                    "it is no archive of images: it has neither index.json (an OCI layout) nor manifest.json \
                     (docker save)",
                ));
            }
        };
        let (beside, candidates): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|candidate| candidate.is_about_an_image);
        for candidate in &candidates {
            self.check(&candidate.target, 0).await?;
        }
        let is_all = !matches!(names, Names::Only(_));
        let mut chosen = self.choose(&candidates, names).await?;
        let mut evidence = Vec::new();
        for (name, image) in &mut chosen {
            match self.verify(&candidates, &beside, name, image).await {
                // A signature has nobody's signature itself: where that must be it comes without a name.
                Err(error)
                    if is_all
                        && error.class() == Class::PermissionDenied
                        && is_of_signatures(&candidates, name) =>
                {
                    info!(%error, "signatures of an image get no name of their own");
                    name.clear();
                    evidence.push(Vec::new());
                }
                outcome => evidence.push(outcome.map_err(|error| error.at(&name))?),
            }
        }
        if let Some(target) = &target {
            for (_, image) in &chosen {
                self.unpack(image, target).await?;
            }
        }
        let mut imported = Vec::new();
        for ((name, image), evidence) in chosen.into_iter().zip(evidence) {
            if !name.is_empty() {
                let put = Put {
                    namespace: self.namespace.clone(),
                    name: name.clone(),
                    target: image.clone(),
                    leave: Leave::Granted(evidence),
                };
                self.importer.puller.images.send(put).await?;
                info!(image = name, digest = %image.digest, "imported");
            }
            imported.push(Imported { name, target: image });
        }
        Ok(imported)
    }

    /// The images of a `docker save`, each with the manifest that it lacks.
    async fn of_saved(&self, found: &Found, manifest: &[u8]) -> Result<Vec<Candidate>> {
        let saved: Vec<SavedImage> = serde_json::from_slice(manifest)
            .map_err(|error| Error::invalid(format!("manifest.json of the archive: {error}")))?;
        let mut candidates = Vec::new();
        for image in saved {
            let part = |name: &str| {
                found.file(name).ok_or_else(|| {
                    let shown: String = name.chars().take(200).collect();
                    Error::corrupt(format!(
                        "the archive lacks {shown:?}, which its manifest.json names"
                    ))
                })
            };
            let layers: Vec<&Stored> =
                image.layers.iter().map(|name| part(name)).collect::<Result<_>>()?;
            let types = Types::of(&layers);
            let manifest = NewManifest {
                schema_version: 2,
                media_type: types.manifest,
                config: describe(types.config.into(), part(&image.config)?),
                layers: layers.iter().map(|file| describe(types.layer(file), file)).collect(),
            };
            let bytes = serde_json::to_vec(&manifest)
                .map_err(|error| Error::internal(format!("write a manifest: {error}")))?;
            let target = Descriptor {
                media_type: types.manifest.into(),
                digest: hash(capstan_sdk::Algorithm::Sha256, &bytes),
                size: bytes.len() as u64,
                platform: None,
            };
            let fetcher = &self.importer.puller.fetcher;
            let labels = Labels::new();
            fetcher.store(&self.namespace, &target, bytes.into(), labels).wait().await?;
            let names = image.repo_tags.unwrap_or_default();
            let names = names.iter().map(|name| full(name)).collect::<Result<_>>()?;
            candidates.push(Candidate { target, names, is_about_an_image: false });
        }
        Ok(candidates)
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>> {
        Ok(match self.bytes(descriptor).await? {
            Some(bytes) => Some(Document::parse(&descriptor.media_type, &bytes)?),
            None => None,
        })
    }

    /// A small blob that is in the store; `None`: it is not.
    async fn bytes(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>> {
        if !self.has(descriptor).await? {
            return Ok(None);
        }
        let digest = descriptor.digest.clone();
        let open = Open { namespace: self.namespace.clone(), digest };
        let blob = self.importer.content.send(open).await?;
        let limit = self.importer.max_document_bytes;
        blocking::run("read a document", move || blob.read_all(limit)).await.map(Some)
    }

    /// Whether a blob is there, with the size that it is said to have.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let Descriptor { digest, size, .. } = descriptor;
        let found = Use { namespace: self.namespace.clone(), digest: digest.clone() };
        match self.importer.content.send(found).await {
            Ok(info) if info.size == *size => Ok(true),
            Ok(info) => Err(Error::corrupt(format!(
                "blob {digest} has {} bytes, a document of the archive says {size}",
                info.size
            ))),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether all that stands behind a descriptor is there. Of an index some image must be whole; others may be
    /// missing as a whole, as they are where only one platform was exported.
    async fn check(&self, target: &Descriptor, depth: usize) -> Result<()> {
        match Box::pin(self.lacks(target, depth)).await? {
            None => Ok(()),
            Some(digest) => Err(Error::corrupt(format!(
                "the archive lacks the blob {digest}, which its image {} needs",
                target.digest
            ))),
        }
    }

    async fn lacks(&self, target: &Descriptor, depth: usize) -> Result<Option<Digest>> {
        if depth > MAX_DEPTH {
            return Err(Error::corrupt(format!("more than {MAX_DEPTH} indexes deep")));
        }
        match self.document(target).await? {
            None => Ok(Some(target.digest.clone())),
            Some(Document::Index(list)) => {
                let mut missing = None;
                let mut has_any = list.is_empty();
                for child in &list {
                    match Box::pin(self.lacks(child, depth + 1)).await? {
                        None => has_any = true,
                        Some(digest) => missing = missing.or(Some(digest)),
                    }
                }
                Ok(if has_any { None } else { missing })
            }
            Some(Document::Manifest { config, layers, .. }) => {
                for part in layers.iter().chain([&config]) {
                    if !self.has(part).await? {
                        return Ok(Some(part.digest.clone()));
                    }
                }
                // Layers must fit what the configuration says of them; a checkpoint's is none of an image.
                if layers
                    .iter()
                    .all(|layer| capstan_sdk::oci::media::Kind::of(&layer.media_type).is_ok())
                    && let Some(bytes) = self.bytes(&config).await?
                {
                    let count = ImageConfig::parse(&bytes)?.diff_ids.len();
                    if count != layers.len() {
                        return Err(Error::corrupt(format!(
                            "manifest {} has {} layers, its configuration {count}",
                            target.digest,
                            layers.len()
                        )));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The images that are wanted, with their names.
    async fn choose(
        &self,
        candidates: &[Candidate],
        names: Names,
    ) -> Result<Vec<(String, Descriptor)>> {
        let named = candidates.iter().flat_map(|candidate| {
            candidate.names.iter().map(|name| (name.clone(), candidate.target.clone()))
        });
        let named: Vec<(String, Descriptor)> = named.collect();
        let unnamed = candidates.iter().filter(|candidate| candidate.names.is_empty());
        let unnamed = unnamed.map(|candidate| (String::new(), candidate.target.clone()));
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = named.iter().find(|(name, _)| !seen.insert(name.as_str())) {
            return Err(Error::invalid(format!("the archive has two images with the name {name}")));
        }
        let Names::Only(wanted) = names else {
            if names == Names::Fresh {
                for (name, target) in &named {
                    self.is_free(name, target).await?;
                }
            }
            return Ok(named.into_iter().chain(unnamed).collect());
        };
        if wanted.is_empty() {
            let all = candidates.iter().map(|candidate| (String::new(), candidate.target.clone()));
            return Ok(all.collect());
        }
        if let ([wanted], [only]) = (wanted.as_slice(), candidates)
            && only.names.is_empty()
        {
            return Ok(vec![(full(wanted)?, only.target.clone())]);
        }
        let pick = |wanted: &String| {
            let wanted = full(wanted)?;
            named.iter().find(|(name, _)| *name == wanted).cloned().ok_or_else(|| {
                let have: Vec<&str> =
                    named.iter().map(|(name, _)| name.as_str()).take(20).collect();
                Error::not_found(format!(
                    "the archive has no image with the name {wanted}; it has {}",
                    if have.is_empty() { "none with a name".into() } else { have.join(", ") }
                ))
            })
        };
        wanted.iter().map(pick).collect()
    }

    /// Whether a name means nothing else here.
    async fn is_free(&self, name: &str, target: &Descriptor) -> Result<()> {
        let get = Get { namespace: self.namespace.clone(), name: name.into() };
        match self.importer.puller.images.send(get).await {
            Err(error) if error.class() == Class::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(image) if image.target.digest == target.digest => Ok(()),
            Ok(image) => Err(Error::already_exists(format!(
                "{name} is another image here ({}); take it with --name {name}, or everything with --all",
                image.target.digest
            ))),
        }
    }

    /// Asks whether an image may have its name; answers the evidence for which it may. Signatures may come along in the
    /// archive: as cosign names them, as `cosign save` puts them `beside` the image, or as what refers to the image.
    async fn verify(
        &self,
        candidates: &[Candidate],
        beside: &[Candidate],
        name: &str,
        image: &Descriptor,
    ) -> Result<Vec<Evidence>> {
        if name.is_empty() {
            return Ok(Vec::new());
        }
        let lacks = || Error::internal(format!("{} is not here any more", image.digest));
        let document = self.bytes(image).await?.ok_or_else(lacks)?;
        let question = verify::question(&self.namespace, name.into(), image, &document);
        let evidence = async || {
            let mut findings = Findings::default();
            let tag = verify::cosign_tag(&Reference::parse(name)?, &image.digest);
            let tag = tag.map(|tag| tag.to_string()).unwrap_or_default();
            for other in candidates.iter().chain(beside) {
                let is_named = other.is_about_an_image || other.names.contains(&tag);
                if !is_named && !other.names.is_empty() {
                    continue;
                }
                let Some(manifest) = self.bytes(&other.target).await? else { continue };
                let kind = match is_named {
                    true => String::new(),
                    false => match verify::artifact_type_of(&manifest, &image.digest) {
                        Some(kind) => kind,
                        None => continue,
                    },
                };
                let read = async |blob: &Descriptor| {
                    let bytes = self.bytes(blob).await?;
                    bytes.map(Bytes::from).ok_or_else(|| {
                        Error::corrupt(format!("the archive lacks the signature {}", blob.digest))
                    })
                };
                findings.add(&other.target, &manifest, &kind, read).await?;
            }
            Ok(findings.into_evidence())
        };
        verify::permit(&self.importer.puller.images, question, evidence).await
    }

    async fn unpack(&self, image: &Descriptor, target: &Target) -> Result<()> {
        let resolve = ResolveTarget {
            namespace: self.namespace.clone(),
            target: image.clone(),
            platform: self.platform.clone(),
        };
        match self.importer.puller.images.send(resolve).await {
            Ok(manifest) => self.importer.puller.unpack_manifest(&manifest, target).await,
            // It is for another machine, or no image at all: it can be passed on, and not be run.
            Err(error) if matches!(error.class(), Class::NotFound | Class::FailedPrecondition) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a name is that of the signatures of one of these images.
fn is_of_signatures(candidates: &[Candidate], name: &str) -> bool {
    candidates.iter().any(|signed| {
        let tag =
            |of: &String| verify::cosign_tag(&Reference::parse(of).ok()?, &signed.target.digest);
        signed.names.iter().filter_map(tag).any(|tag| tag.to_string() == name)
    })
}

/// In whose words a manifest is written.
struct Types {
    manifest: &'static str,
    config: &'static str,
}

impl Types {
    /// Docker's, as long as they have a word for every layer: they have none for zstd.
    fn of(layers: &[&Stored]) -> Self {
        match layers.iter().any(|file| file.compression == Compression::Zstd) {
            true => Self { manifest: OCI_MANIFEST, config: OCI_CONFIG },
            false => Self { manifest: DOCKER_MANIFEST, config: DOCKER_CONFIG },
        }
    }

    fn layer(&self, file: &Stored) -> String {
        let (base, join) = match self.manifest {
            OCI_MANIFEST => (OCI_LAYER, '+'),
            _ => (DOCKER_LAYER, '.'),
        };
        match file.compression {
            Compression::None => base.into(),
            Compression::Gzip => format!("{base}{join}gzip"),
            Compression::Zstd => format!("{base}{join}zstd"),
        }
    }
}

fn describe(media_type: String, file: &Stored) -> NewDescriptor {
    NewDescriptor { media_type, digest: file.digest.to_string(), size: file.size }
}

/// The images of an OCI layout.
fn of_index(bytes: &[u8]) -> Result<Vec<Candidate>> {
    let at = |error: Error| error.at("index.json of the archive");
    let Document::Index(targets) = Document::parse(OCI_INDEX, bytes).map_err(at)? else {
        return Err(Error::invalid("index.json of the archive is no index"));
    };
    let raw: RawIndex = serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(format!("index.json of the archive: {error}")))?;
    let mut candidates: Vec<Candidate> = Vec::new();
    for (target, entry) in targets.into_iter().zip(raw.manifests) {
        let name = match (entry.annotations.get(FULL_NAME), entry.annotations.get(REF_NAME)) {
            (Some(name), _) => Some(full(name)?),
            // A tag alone is no name of an image: it does not say of which.
            (None, Some(name)) if name.contains(['/', ':', '@']) => Some(full(name)?),
            (None, _) => None,
        };
        let kind = entry.annotations.get(KIND);
        let is_about_an_image = kind.is_some_and(|kind| verify::is_about_an_image(kind));
        let is_same = |other: &&mut Candidate| {
            other.target.digest == target.digest && other.is_about_an_image == is_about_an_image
        };
        // An image with several names stands there several times.
        match candidates.iter_mut().find(is_same) {
            Some(candidate) => candidate.names.extend(name),
            None => {
                let names = name.into_iter().collect();
                candidates.push(Candidate { target, names, is_about_an_image });
            }
        }
    }
    Ok(candidates)
}

fn full(name: &str) -> Result<String> {
    Ok(Reference::parse_familiar(name)?.to_string())
}
