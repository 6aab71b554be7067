//! From a descriptor to what stands behind it: manifest, configuration, layers, sizes.

use std::collections::{BTreeMap, BTreeSet};

use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::{Open, Stat};
use capstan_sdk::contract::images::{Checked, Manifest, Presence};
use capstan_sdk::oci::{Document, ImageConfig, MAX_DOCUMENT, chain_ids, choose};
use capstan_sdk::{Class, Descriptor, Digest, Error, Link, Namespace, Platform, Result, blocking};

/// Indexes in indexes: nobody makes more than two.
const MAX_DEPTH: usize = 4;

/// The content of a namespace.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) content: Link<Content>,
    pub(crate) namespace: Namespace,
}

impl Reader {
    /// A document that is here.
    pub(crate) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = descriptor.digest.clone();
        let open = Open { namespace: self.namespace.clone(), digest: digest.clone() };
        let blob = self.content.send(open).await?;
        if blob.size != descriptor.size {
            return Err(Error::corrupt(format!(
                "{digest} has {} bytes, its descriptor says {}",
                blob.size, descriptor.size
            )));
        }
        blocking::run("read a document", move || blob.read_all(MAX_DOCUMENT)).await
    }

    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let digest = descriptor.digest.clone();
        match self.content.send(Stat { namespace: self.namespace.clone(), digest }).await {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The manifest under `target` for a platform.
    pub(crate) async fn manifest(&self, target: &Descriptor, want: &Platform) -> Result<Manifest> {
        let mut descriptor = target.clone();
        for _ in 0..MAX_DEPTH {
            let bytes = self.document(&descriptor).await?;
            match Document::parse(&descriptor.media_type, &bytes)? {
                Document::Index(list) => {
                    let chosen = choose(&list, want).ok_or_else(|| {
                        let have: Vec<String> = list
                            .iter()
                            .filter_map(|d| Some(d.platform.as_ref()?.to_string()))
                            .collect();
                        Error::not_found(format!(
                            "no manifest for {want}: there are {}; choose one with --platform",
                            have.join(", ")
                        ))
                    })?;
                    descriptor = chosen.clone();
                }
                Document::Manifest { artifact: Some(kind), .. } => {
                    let shown: String = kind.chars().take(100).collect();
                    return Err(Error::precondition(format!(
                        "{} is an artifact of type {shown:?}, not an image: it cannot be unpacked or run; read its \
                         parts with content get",
                        descriptor.digest
                    )));
                }
                Document::Manifest { config, layers, .. } => {
                    let config_json = self.document(&config).await?;
                    return Manifest::read(descriptor, bytes, config, config_json, layers);
                }
            }
        }
        Err(Error::corrupt(format!("{}: more than {MAX_DEPTH} indexes deep", target.digest)))
    }

    /// How many bytes under `target` are present, and for which platforms everything is.
    ///
    /// What is missing or damaged is not counted: this is for show.
    pub(crate) async fn survey(&self, target: &Descriptor) -> Result<Presence> {
        let mut sizes: BTreeMap<Digest, u64> = BTreeMap::new();
        let mut platforms = Vec::new();
        let mut open = vec![(target.clone(), 0)];
        while let Some((descriptor, depth)) = open.pop() {
            if depth > MAX_DEPTH {
                continue;
            }
            let bytes = match self.document(&descriptor).await {
                Ok(bytes) => bytes,
                Err(error) if is_gap(&error) => continue,
                Err(error) => return Err(error),
            };
            sizes.insert(descriptor.digest.clone(), descriptor.size);
            match Document::parse(&descriptor.media_type, &bytes) {
                Err(_) => {}
                Ok(Document::Index(list)) => {
                    // The first child is looked at first.
                    open.extend(list.into_iter().rev().map(|child| (child, depth + 1)));
                }
                Ok(Document::Manifest { config, layers, artifact }) => {
                    let mut is_whole = true;
                    for part in layers.iter().chain([&config]) {
                        if self.has(part).await? {
                            sizes.insert(part.digest.clone(), part.size);
                        } else {
                            is_whole = false;
                        }
                    }
                    if is_whole && artifact.is_none() {
                        platforms.extend(self.platform(&descriptor, &config).await);
                    }
                }
            }
        }
        Ok(Presence { size: sizes.values().sum(), platforms })
    }

    /// All content under `target`, present or not, and the top layers of what can be unpacked.
    pub(crate) async fn closure(&self, target: &Descriptor) -> Result<Closure> {
        let mut closure = Closure::default();
        let mut open = vec![(target.clone(), 0)];
        while let Some((descriptor, depth)) = open.pop() {
            closure.content.insert(descriptor.digest.clone());
            if depth > MAX_DEPTH {
                continue;
            }
            let bytes = match self.document(&descriptor).await {
                Ok(bytes) => bytes,
                Err(error) if is_gap(&error) => continue,
                Err(error) => return Err(error),
            };
            match Document::parse(&descriptor.media_type, &bytes) {
                Err(_) => {}
                Ok(Document::Index(list)) => {
                    open.extend(list.into_iter().map(|child| (child, depth + 1)));
                }
                Ok(Document::Manifest { config, layers, .. }) => {
                    closure.chain_ids.extend(self.chain_id(&config).await?);
                    let parts = layers.into_iter().chain([config]);
                    closure.content.extend(parts.map(|part| part.digest));
                }
            }
        }
        Ok(closure)
    }

    /// Of the top layer. `None`: the configuration is not there, or is none of an image.
    async fn chain_id(&self, config: &Descriptor) -> Result<Option<Digest>> {
        match self.document(config).await {
            Ok(bytes) => Ok(ImageConfig::parse(&bytes)
                .ok()
                .and_then(|config| chain_ids(&config.diff_ids).pop())),
            Err(error) if is_gap(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What of all that `target` needs is not there or not readable.
    ///
    /// What an index names and is not present is of a platform that was not pulled, or not to its end; that no image in
    /// it is whole is a gap. What is damaged is one always.
    pub(crate) async fn check(&self, target: &Descriptor) -> Result<Checked> {
        let mut seen = Seen::default();
        let found = self.look(target.clone(), 0, &mut seen).await?;
        Ok(Checked { size: seen.size, missing: found.gaps })
    }

    /// What a document and all below it lack.
    async fn look(&self, at: Descriptor, depth: usize, seen: &mut Seen) -> Result<Found> {
        let read = match self.document(&at).await {
            Ok(bytes) => Document::parse(&at.media_type, &bytes),
            Err(error) => Err(error),
        };
        let document = match read {
            Ok(document) if depth <= MAX_DEPTH => document,
            Ok(_) => return Ok(Found::gap(at, format!("more than {MAX_DEPTH} indexes deep"))),
            Err(error) if is_gap(&error) => return Ok(Found::gap(at, reason(&error))),
            Err(error) => return Err(error),
        };
        seen.size += at.size;
        let mut found = Found::default();
        match document {
            Document::Index(list) => {
                let mut is_any_here = false;
                for child in &list {
                    if !self.has(child).await? {
                        continue;
                    }
                    is_any_here = true;
                    if seen.documents.insert(child.digest.clone()) {
                        let below = self.look(child.clone(), depth + 1, seen);
                        let below = Box::pin(below).await?;
                        found.gaps.extend(below.gaps);
                        found.has_image |= below.has_image;
                    }
                }
                if found.has_image {
                    found.gaps.retain(|(_, reason)| reason != MISSING);
                }
                if !is_any_here {
                    found.gaps = list.into_iter().map(|child| (child, MISSING.into())).collect();
                }
            }
            Document::Manifest { config, layers, artifact } => {
                for part in [config].into_iter().chain(layers) {
                    let why = match seen.parts.get(&part.digest) {
                        Some(known) => known.clone(),
                        None => {
                            let why = self.lack(&part).await?;
                            seen.size += if why.is_none() { part.size } else { 0 };
                            seen.parts.insert(part.digest.clone(), why.clone());
                            why
                        }
                    };
                    found.gaps.extend(why.map(|why| (part, why)));
                }
                found.has_image = artifact.is_none() && found.gaps.is_empty();
            }
        }
        let mut told = BTreeSet::new();
        found.gaps.retain(|(part, _)| told.insert(part.digest.clone()));
        Ok(found)
    }

    /// Why a blob is not whole.
    async fn lack(&self, part: &Descriptor) -> Result<Option<String>> {
        match self.whole(part).await {
            Ok(()) => Ok(None),
            Err(error) if is_gap(&error) => Ok(Some(reason(&error))),
            Err(error) => Err(error),
        }
    }

    /// Whether a blob can be opened and is as long as its descriptor says.
    async fn whole(&self, part: &Descriptor) -> Result<()> {
        let open = Open { namespace: self.namespace.clone(), digest: part.digest.clone() };
        let blob = self.content.send(open).await?;
        match blob.size == part.size {
            true => Ok(()),
            false => Err(Error::corrupt(format!(
                "it has {} bytes, its descriptor says {}",
                blob.size, part.size
            ))),
        }
    }

    async fn platform(&self, manifest: &Descriptor, config: &Descriptor) -> Option<Platform> {
        if let Some(platform) = &manifest.platform {
            return Some(platform.clone());
        }
        let bytes = self.document(config).await.ok()?;
        Some(ImageConfig::parse(&bytes).ok()?.platform)
    }
}

const MISSING: &str = "missing";

/// What is wrong, for a table.
fn reason(error: &Error) -> String {
    match error.class() {
        Class::NotFound => MISSING.into(),
        _ => error.message().into(),
    }
}

/// What a check has seen.
#[derive(Default)]
struct Seen {
    documents: BTreeSet<Digest>,
    /// Why they are not whole; `None`: they are.
    parts: BTreeMap<Digest, Option<String>>,
    /// Of what is there.
    size: u64,
}

/// What stands below a descriptor.
#[derive(Default)]
struct Found {
    gaps: Vec<(Descriptor, String)>,
    /// Whether there is a whole image.
    has_image: bool,
}

impl Found {
    fn gap(at: Descriptor, why: String) -> Self {
        Self { gaps: vec![(at, why)], has_image: false }
    }
}

/// What an image consists of.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    pub(crate) content: BTreeSet<Digest>,
    pub(crate) chain_ids: Vec<Digest>,
}

/// Whether something is simply not there, or not whole.
fn is_gap(error: &Error) -> bool {
    matches!(error.class(), Class::NotFound | Class::Corrupt | Class::ResourceExhausted)
}
