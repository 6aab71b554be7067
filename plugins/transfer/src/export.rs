//! Images into an archive: an OCI image layout in a tar, with the `manifest.json` that `docker load` reads.
//!
//! The same images give the same bytes: entries are sorted, and have no times and no owners.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use capstan_sdk::contract::content::{Open, Use};
use capstan_sdk::contract::images::Get;
use capstan_sdk::contract::transfer::{Export, Item, ItemState, ProgressSender};
use capstan_sdk::contract::{Content, Images};
use capstan_sdk::oci::media::Kind;
use capstan_sdk::oci::{Document, choose};
use capstan_sdk::{
    Class, Descriptor, Digest, Error, Link, Namespace, Platform, Reference, Result, blocking,
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::fetch::item_name;
use crate::import::{FULL_NAME, REF_NAME};
use crate::pull::MAX_DEPTH;

/// What exports work with.
pub(crate) struct Exporter {
    pub(crate) images: Link<Images>,
    pub(crate) content: Link<Content>,
    pub(crate) max_document_bytes: u64,
    pub(crate) namespace: Namespace,
    /// `None`: every platform whose content is there.
    pub(crate) platform: Option<Platform>,
}

/// What goes into an archive.
#[derive(Default)]
struct Contents {
    /// Everything but the documents of the archive itself.
    blobs: BTreeMap<Digest, Descriptor>,
    /// Of `index.json`.
    targets: Vec<Value>,
    /// Of `manifest.json`, by the manifest's digest.
    saved: Vec<(Digest, Saved)>,
}

struct Saved {
    config: Digest,
    layers: Vec<Digest>,
    tags: Vec<String>,
}

/// One image for one platform.
struct Manifest {
    digest: Digest,
    platform: Option<Platform>,
    config: Digest,
    layers: Vec<Digest>,
}

impl Exporter {
    /// Writes the archive.
    pub(crate) async fn export(self, export: Export) -> Result<()> {
        let mut contents = Contents::default();
        if export.names.is_empty() {
            return Err(Error::invalid("which images? name at least one"));
        }
        for name in &export.names {
            self.add(&mut contents, name)
                .await
                .map_err(|error| error.at(format_args!("export {name}")))?;
        }
        let (content, namespace) = (self.content.clone(), self.namespace.clone());
        let progress = export.progress;
        progress.send_replace(contents.blobs.values().map(waiting).collect());
        let runtime = Handle::current();
        blocking::run("write an archive", move || {
            let open = |digest: &Digest| {
                let open = Open { namespace: namespace.clone(), digest: digest.clone() };
                runtime.block_on(content.send(open))
            };
            contents.write(export.archive.0, |index, blob| {
                let opened = open(&blob.digest)?;
                if opened.size != blob.size {
                    return Err(Error::corrupt(format!(
                        "blob {} has {} bytes, its image says {}",
                        blob.digest, opened.size, blob.size
                    )));
                }
                let (reader, progress) = (opened.reader(), progress.clone());
                Ok(Told { reader, progress, index, offset: 0, total: blob.size })
            })
        })
        .await
    }

    async fn add(&self, contents: &mut Contents, name: &str) -> Result<()> {
        let get = Get { namespace: self.namespace.clone(), name: name.into() };
        let image = self.images.send(get).await?;
        let mut manifests = Vec::new();
        if let Some(digest) = self.collect(contents, &image.target, &mut manifests, 0).await? {
            return Err(Error::not_found(format!(
                "blob {digest} is not here; pull the image again, for all the platforms that are to be exported"
            )));
        }
        let mut annotations = json!({ FULL_NAME: image.name });
        let reference = Reference::parse(&image.name).ok();
        if let Some(tag) = reference.as_ref().and_then(Reference::tag) {
            annotations[REF_NAME] = json!(tag);
        }
        contents.targets.push(json!({
            "mediaType": image.target.media_type,
            "digest": image.target.digest.as_str(),
            "size": image.target.size,
            "annotations": annotations,
        }));
        // Docker knows one image behind a name: the one for this machine, or the only one.
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        let is_wanted = |manifest: &&Manifest| manifest.platform.as_ref() == Some(&wanted);
        let manifest = manifests.iter().find(is_wanted).or_else(|| manifests.first());
        if let Some(manifest) = manifest {
            let has_tag = reference.is_some_and(|reference| reference.tag().is_some());
            contents.save(manifest, has_tag.then(|| image.name.clone()));
        }
        Ok(())
    }

    /// Adds what stands behind a descriptor; answers the first blob that is missing.
    async fn collect(
        &self,
        contents: &mut Contents,
        target: &Descriptor,
        manifests: &mut Vec<Manifest>,
        depth: usize,
    ) -> Result<Option<Digest>> {
        if depth > MAX_DEPTH {
            return Err(Error::corrupt(format!("more than {MAX_DEPTH} indexes deep")));
        }
        let Some(bytes) = self.document(target).await? else {
            return Ok(Some(target.digest.clone()));
        };
        match Document::parse(&target.media_type, &bytes)? {
            Document::Index(list) => {
                let chosen: Vec<&Descriptor> = match &self.platform {
                    Some(platform) => choose(&list, platform).into_iter().collect(),
                    None => list.iter().collect(),
                };
                let (mut missing, mut is_any_whole) = (None, list.is_empty());
                for child in chosen {
                    // What is there in part is left out as a whole.
                    let mut part = Contents::default();
                    match Box::pin(self.collect(&mut part, child, manifests, depth + 1)).await? {
                        None => {
                            is_any_whole = true;
                            contents.blobs.extend(part.blobs);
                        }
                        Some(digest) => missing = missing.or(Some(digest)),
                    }
                }
                if !is_any_whole {
                    let none = || Error::not_found("it has nothing for that platform");
                    return missing.map(Some).ok_or_else(none);
                }
            }
            Document::Manifest { config, layers, .. } => {
                for part in layers.iter().chain([&config]) {
                    if !self.has(part).await? {
                        return Ok(Some(part.digest.clone()));
                    }
                    contents.blobs.insert(part.digest.clone(), part.clone());
                }
                let is_layer =
                    |part: &Descriptor| matches!(Kind::of(&part.media_type), Ok(Kind::Layer(_)));
                if layers.iter().all(is_layer) {
                    manifests.push(Manifest {
                        digest: target.digest.clone(),
                        platform: target.platform.clone(),
                        config: config.digest.clone(),
                        layers: layers.into_iter().map(|layer| layer.digest).collect(),
                    });
                }
            }
        }
        contents.blobs.insert(target.digest.clone(), target.clone());
        Ok(None)
    }

    async fn has(&self, part: &Descriptor) -> Result<bool> {
        let found = Use { namespace: self.namespace.clone(), digest: part.digest.clone() };
        match self.content.send(found).await {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn document(&self, target: &Descriptor) -> Result<Option<Vec<u8>>> {
        if !self.has(target).await? {
            return Ok(None);
        }
        let open = Open { namespace: self.namespace.clone(), digest: target.digest.clone() };
        let (blob, limit) = (self.content.send(open).await?, self.max_document_bytes);
        blocking::run("read a document", move || blob.read_all(limit)).await.map(Some)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl Contents {
    fn save(&mut self, manifest: &Manifest, tag: Option<String>) {
        if let Some((_, saved)) = self.saved.iter_mut().find(|(of, _)| *of == manifest.digest) {
            saved.tags.extend(tag);
            return;
        }
        let saved = Saved {
            config: manifest.config.clone(),
            layers: manifest.layers.clone(),
            tags: tag.into_iter().collect(),
        };
        self.saved.push((manifest.digest.clone(), saved));
    }

    fn documents(&self) -> Vec<(&'static str, Vec<u8>)> {
        let saved: Vec<Value> = self
            .saved
            .iter()
            .map(|(_, saved)| {
                json!({
                    "Config": blob_path(&saved.config),
                    "RepoTags": saved.tags,
                    "Layers": saved.layers.iter().map(blob_path).collect::<Vec<_>>(),
                })
            })
            .collect();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": capstan_sdk::oci::media::OCI_INDEX,
            "manifests": self.targets,
        });
        let mut documents = vec![
            ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()),
            ("index.json", index.to_string().into_bytes()),
        ];
        if !saved.is_empty() {
            documents.push(("manifest.json", Value::Array(saved).to_string().into_bytes()));
        }
        documents
    }

    /// Documents first, so that a reader knows early what is to come. `open` gets the blobs with their numbers.
    fn write<R: Read>(
        &self,
        to: Box<dyn Write + Send>,
        open: impl Fn(usize, &Descriptor) -> Result<R>,
    ) -> Result<()> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::BrokenPipe => Error::aborted("the export was cancelled"),
            _ => Error::io("write an archive", error),
        };
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(256 << 10, to));
        for (name, bytes) in self.documents() {
            let mut header = header(tar::EntryType::Regular, 0o444, bytes.len() as u64);
            tar.append_data(&mut header, name, bytes.as_slice()).map_err(fail)?;
        }
        let mut dirs = vec!["blobs/".to_owned()];
        for digest in self.blobs.keys() {
            let dir = format!("blobs/{}/", digest.algorithm().name());
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        for dir in dirs {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            tar.append_data(&mut header, dir, io::empty()).map_err(fail)?;
        }
        for (index, blob) in self.blobs.values().enumerate() {
            let mut header = header(tar::EntryType::Regular, 0o444, blob.size);
            let reader = open(index, blob)?;
            tar.append_data(&mut header, blob_path(&blob.digest), reader).map_err(fail)?;
        }
        let mut out = tar.into_inner().map_err(fail)?;
        out.flush().map_err(fail)
    }
}

fn waiting(blob: &Descriptor) -> Item {
    Item { name: item_name(blob), state: ItemState::Waiting, offset: 0, total: blob.size }
}

/// A blob that is read, of which it is told how far it is.
struct Told<R> {
    reader: R,
    progress: ProgressSender,
    /// Its number.
    index: usize,
    offset: u64,
    total: u64,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.offset += got as u64;
        let (offset, is_done) = (self.offset, self.offset == self.total);
        let state = if is_done { ItemState::Done } else { ItemState::Uploading };
        self.progress.send_modify(|items| {
            let item = &mut items[self.index];
            (item.offset, item.state) = (offset, state);
        });
        Ok(got)
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}
