//! Images packed anew for a push: layers with zstd, and the documents that name them.
//!
//! What a layer inflates to stays the same, and is checked against the image's diff ids; so does the configuration.
//! The image here is not changed. A layer that was packed anew is kept in the content store, until garbage
//! collection, so that the next push has it.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use capstan_sdk::contract::content::{BlobReader, Ingest, Label, OpenBlob, OpenIngest, Use};
use capstan_sdk::contract::transfer::ItemState;
use capstan_sdk::oci::media::{
    Compression, Kind, OCI_CONFIG, OCI_FOREIGN_LAYER, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};
use capstan_sdk::{
    Algorithm, Class, Descriptor, Digest, Error, Labels, Namespace, Result, blocking, random,
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::flight::{Flight, Flights};
use crate::push::Job;
use crate::registry::{Hash, hash};
use crate::tree::{Document, Part, Role};

/// Bytes that go through at once.
const CHUNK: usize = 256 << 10;

/// The label of a layer with the digest of what it was packed into; the level follows a dot.
const LABEL_ZSTD: &str = "capstan/zstd";

/// Levels of zstd that need no more memory to unpack than every reader has.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// What the packing of a layer shows of itself.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// How far the old bytes are read.
    read: Arc<AtomicU64>,
    /// Digest and size of what came of it.
    made: OnceCell<(Digest, u64)>,
}

impl Packing {
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// Layers that are being packed: by namespace, digest, and what their images say of them.
pub(crate) type Packings = Flights<(Namespace, Digest, Compression, Digest), Packing>;

/// A layer that is to be packed anew.
struct Layer {
    part: Part,
    compression: Compression,
    diff_id: Digest,
}

impl Job {
    /// The same images, with layers packed by zstd.
    ///
    /// # Errors
    /// `InvalidArgument`: there is no image among the documents. `Corrupt`: a layer is not what the image says.
    pub(crate) async fn convert(&self, documents: Vec<Document>) -> Result<Vec<Document>> {
        let mut layers = BTreeMap::new();
        let mut images = Vec::new();
        for document in &documents {
            if let Some(diff_ids) = self.diff_ids(document).await? {
                images.push(document.descriptor.digest.clone());
                let parts = document.parts.iter().filter(|part| part.role != Role::Config);
                for (part, diff_id) in parts.zip(diff_ids) {
                    if let Some(layer) = layer(part, diff_id)? {
                        layers.entry(part.descriptor.digest.clone()).or_insert(layer);
                    }
                }
            }
        }
        if images.is_empty() {
            return Err(Error::invalid(
                "it has no layers of an image that could be packed anew; leave --compression out",
            ));
        }
        let packed = layers.values().map(|layer| self.pack(layer)).collect();
        let packed: BTreeMap<Digest, Descriptor> =
            layers.keys().cloned().zip(self.send(packed).await?).collect();
        let mut renamed = BTreeMap::new();
        let rewrite = |document: Document| {
            let old = document.descriptor.digest.clone();
            let is_image = images.contains(&old);
            let new = match document.role {
                Role::Index => index(&document, &renamed)?,
                _ if is_image => manifest(&document, &packed)?,
                _ => None,
            };
            let Some(new) = new else { return Ok(document) };
            let new = again(&document, new)?;
            renamed.insert(old, new.descriptor.clone());
            Ok(new)
        };
        documents.into_iter().map(rewrite).collect()
    }

    /// The diff ids of an image; `None` for what is none.
    async fn diff_ids(&self, document: &Document) -> Result<Option<Vec<Digest>>> {
        let is_layer = |part: &&Part| matches!(part.role, Role::Layer { .. });
        let count = document.parts.iter().filter(is_layer).count();
        if document.role != Role::Manifest || count == 0 || count + 1 != document.parts.len() {
            return Ok(None);
        }
        let Some(config) = self.image_config(document).await? else { return Ok(None) };
        let (digest, named) = (&document.descriptor.digest, config.diff_ids.len());
        match named == count {
            true => Ok(Some(config.diff_ids)),
            false => Err(Error::corrupt(format!(
                "manifest {digest}: it has {count} layers, its configuration says {named}"
            ))),
        }
    }

    /// Packs a layer anew, unless that was done before.
    async fn pack(&self, layer: &Layer) -> Result<Descriptor> {
        let level = self.pusher.config.zstd_level.clamp(*LEVELS.start(), *LEVELS.end());
        let label = format!("{LABEL_ZSTD}.{level}");
        let content = &self.pusher.content;
        let source = &layer.part.descriptor;
        let of = |(digest, size): (Digest, u64)| Descriptor {
            media_type: format!("{OCI_LAYER}+zstd"),
            digest,
            size,
            platform: None,
        };
        let labels = self.pusher.labels(&self.namespace, &source.digest).await?;
        let known = labels.as_ref().and_then(|labels| Digest::parse(labels.get(&label)?).ok());
        if let Some(digest) = known {
            let found = Use { namespace: self.namespace.clone(), digest };
            match content.send(found).await {
                Ok(info) => return Ok(of((info.digest, info.size))),
                Err(error) if error.class() == Class::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let shown = self.board.add(&layer.part);
        let flight = self.packing(layer, level);
        shown.watch_packing(&flight.state);
        self.hold.borrow_mut().packings.push(Rc::clone(&flight));
        flight.wait().await?;
        let packed = flight.state.made.get().cloned().expect("it is packed");
        shown.state.set(ItemState::Done);
        let message = Label {
            namespace: self.namespace.clone(),
            digest: source.digest.clone(),
            labels: Labels::from([(label, packed.0.to_string())]),
        };
        content.send(message).await?;
        Ok(of(packed))
    }

    /// Begins to pack a layer into the store, or joins whoever does.
    fn packing(&self, layer: &Layer, level: i32) -> Rc<Flight<Packing>> {
        let Layer { part, compression, diff_id } = layer;
        let (compression, diff_id) = (*compression, diff_id.clone());
        let (namespace, source) = (self.namespace.clone(), part.descriptor.clone());
        let key = (namespace.clone(), source.digest.clone(), compression, diff_id.clone());
        let pusher = self.pusher.clone();
        self.pusher.packings.join(&key, move |state, abandoned| async move {
            let blob = pusher.blob(&namespace, &source).await?;
            let open = OpenIngest {
                algorithm: Some(Algorithm::Sha256),
                ..OpenIngest::new(&namespace, format!("zstd-{}", random::hex::<16>()?))
            };
            let wanted = Arc::new(());
            let work = Work {
                blob,
                compression,
                diff_id,
                level,
                ingest: pusher.content.send(open).await?,
                runtime: Handle::current(),
                read: Arc::clone(&state.read),
                wanted: Arc::downgrade(&wanted),
            };
            let mut work = Box::pin(blocking::run("pack a layer anew", move || work.run()));
            let packed = tokio::select! {
                biased;
                packed = &mut work => packed,
                _ = abandoned => {
                    drop(wanted);
                    work.await
                }
            };
            let at = |error: Error| error.at(format_args!("layer {}", source.digest));
            // Nobody else sets it.
            let _ = state.made.set(packed.map_err(at)?);
            Ok(())
        })
    }
}

/// What is to be done with a layer; `None`: nothing.
fn layer(part: &Part, diff_id: Digest) -> Result<Option<Layer>> {
    let Kind::Layer(kind) = Kind::of(&part.descriptor.media_type)? else { return Ok(None) };
    let compression = kind.compression;
    let is_packed = kind.is_foreign || compression == Compression::Zstd;
    Ok((!is_packed).then(|| Layer { part: part.clone(), compression, diff_id }))
}

/// The name that OCI has for a layer type of Docker.
fn oci_layer(media_type: &str) -> Result<String> {
    let Kind::Layer(kind) = Kind::of(media_type)? else { return Ok(media_type.to_owned()) };
    let base = if kind.is_foreign { OCI_FOREIGN_LAYER } else { OCI_LAYER };
    Ok(match kind.compression {
        Compression::None => base.to_owned(),
        Compression::Gzip => format!("{base}+gzip"),
        Compression::Zstd => format!("{base}+zstd"),
    })
}

type Object = serde_json::Map<String, Value>;

fn read(document: &Document) -> Result<Object> {
    let digest = &document.descriptor.digest;
    serde_json::from_slice(&document.bytes)
        .map_err(|error| Error::corrupt(format!("manifest {digest}: {error}")))
}

fn set(object: &mut Object, key: &str, to: impl Into<Value>) {
    object.insert(key.to_owned(), to.into());
}

/// Puts a descriptor in the place of another one; its other words stay.
fn replace(entry: &mut Object, with: &Descriptor) {
    set(entry, "mediaType", with.media_type.as_str());
    set(entry, "digest", with.digest.as_str());
    set(entry, "size", with.size);
}

/// The objects of a list, each with what was read of it.
fn entries<'o>(
    object: &'o mut Object,
    key: &str,
    parts: impl Iterator<Item = &'o Part>,
) -> impl Iterator<Item = (&'o mut Object, &'o Part)> {
    let list = object.get_mut(key).and_then(Value::as_array_mut);
    let pairs = list.into_iter().flatten().zip(parts);
    pairs.filter_map(|(entry, part)| Some((entry.as_object_mut()?, part)))
}

fn annotations(entry: &mut Object) -> Option<&mut Object> {
    entry.get_mut("annotations")?.as_object_mut()
}

/// A manifest with other layers; `None` if it stays as it is.
fn manifest(document: &Document, packed: &BTreeMap<Digest, Descriptor>) -> Result<Option<Object>> {
    let mut changed = read(document)?;
    set(&mut changed, "mediaType", OCI_MANIFEST);
    if let Some(config) = changed.get_mut("config").and_then(Value::as_object_mut) {
        set(config, "mediaType", OCI_CONFIG);
    }
    let parts = document.parts.iter().filter(|part| part.role != Role::Config);
    for (entry, part) in entries(&mut changed, "layers", parts) {
        match packed.get(&part.descriptor.digest) {
            Some(packed) => {
                replace(entry, packed);
                // They tell where in the old bytes what is.
                if let Some(annotations) = annotations(entry) {
                    annotations.retain(|key, _| !key.starts_with("containerd.io/snapshot/stargz/"));
                }
            }
            None => set(entry, "mediaType", oci_layer(&part.descriptor.media_type)?),
        }
    }
    Ok(is_changed(document, &changed)?.then_some(changed))
}

/// An index of documents that have other names now; `None` if none has.
fn index(document: &Document, renamed: &BTreeMap<Digest, Descriptor>) -> Result<Option<Object>> {
    let mut changed = read(document)?;
    for (entry, part) in entries(&mut changed, "manifests", document.parts.iter()) {
        if let Some(new) = renamed.get(&part.descriptor.digest) {
            replace(entry, new);
        }
        // Some say by a digest which other entry they are about.
        for said in annotations(entry).into_iter().flat_map(|all| all.values_mut()) {
            let digest = said.as_str().and_then(|said| Digest::parse(said).ok());
            if let Some(new) = digest.and_then(|digest| renamed.get(&digest)) {
                *said = json!(new.digest.as_str());
            }
        }
    }
    if !is_changed(document, &changed)? {
        return Ok(None);
    }
    set(&mut changed, "mediaType", OCI_INDEX);
    Ok(Some(changed))
}

/// Whether more has changed than that it says what it is.
fn is_changed(document: &Document, changed: &Object) -> Result<bool> {
    let mut before = read(document)?;
    if changed.contains_key("mediaType") {
        set(&mut before, "mediaType", document.descriptor.media_type.as_str());
    }
    Ok(before != *changed)
}

/// The document in the place of another one.
fn again(old: &Document, new: Object) -> Result<Document> {
    let bytes = Bytes::from(Value::Object(new).to_string());
    let descriptor = Descriptor {
        media_type: if old.role == Role::Index { OCI_INDEX } else { OCI_MANIFEST }.to_owned(),
        digest: hash(Algorithm::Sha256, &bytes),
        size: bytes.len() as u64,
        platform: old.descriptor.platform.clone(),
    };
    Ok(Document { height: old.height, ..Document::parse(descriptor, bytes)? })
}

/// What a thread needs to pack one layer.
struct Work {
    blob: OpenBlob,
    compression: Compression,
    diff_id: Digest,
    level: i32,
    ingest: Ingest,
    runtime: Handle,
    /// How far the old bytes are read.
    read: Arc<AtomicU64>,
    /// Gone when nobody waits for it any more.
    wanted: Weak<()>,
}

impl Work {
    /// Packs it into the store; answers digest and size. After an error nothing is left of it there.
    fn run(self) -> Result<(Digest, u64)> {
        let outcome = self.pack();
        let Self { ingest, runtime, .. } = self;
        match outcome {
            Ok(()) => runtime.block_on(ingest.commit(None, 0)),
            Err(error) => {
                // The store may have ended it by itself, after an error of its own.
                let _ = runtime.block_on(ingest.abort());
                Err(error)
            }
        }
    }

    fn pack(&self) -> Result<()> {
        let file = Counted { reader: self.blob.reader(), read: Arc::clone(&self.read) };
        let file = BufReader::with_capacity(CHUNK, file);
        let mut tar: Box<dyn Read> = match self.compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Compression::Zstd => return Err(Error::internal("it is packed with zstd")),
        };
        let failure = Mutex::new(None);
        let sink = Sink { ingest: &self.ingest, runtime: &self.runtime, failure: &failure };
        let wrote = |error: io::Error| {
            let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            failure.unwrap_or_else(|| Error::io("pack it with zstd", error))
        };
        let out = BufWriter::with_capacity(CHUNK, sink);
        let mut out = zstd::Encoder::new(out, self.level).map_err(wrote)?;
        let mut hash = Hash::new(self.diff_id.algorithm());
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.wanted.strong_count() == 0 {
                return Err(Error::aborted("the push was cancelled"));
            }
            let got = match tar.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) => return Err(Error::corrupt(format!("it does not inflate: {error}"))),
            };
            hash.update(&buffer[..got]);
            out.write_all(&buffer[..got]).map_err(wrote)?;
        }
        out.finish().and_then(|mut out| out.flush()).map_err(wrote)?;
        match hash.finish() {
            got if got == self.diff_id => Ok(()),
            got => Err(Error::corrupt(format!(
                "it inflates to {got}, its image says {}; pull the image again",
                self.diff_id
            ))),
        }
    }
}

/// Tells how far a blob is read.
struct Counted {
    reader: BlobReader,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Writes into an ingest, from a thread that may block.
struct Sink<'w> {
    ingest: &'w Ingest,
    runtime: &'w Handle,
    failure: &'w Mutex<Option<Error>>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.runtime.block_on(self.ingest.write(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::oci::media::{DOCKER_CONFIG, DOCKER_INDEX, DOCKER_LAYER, DOCKER_MANIFEST};

    fn digest(text: &str) -> Digest {
        hash(Algorithm::Sha256, text.as_bytes())
    }

    fn entry(media_type: &str, text: &str) -> Value {
        json!({ "mediaType": media_type, "digest": digest(text).as_str(), "size": text.len() })
    }

    fn document(media_type: &str, json: &Value) -> Document {
        let bytes = Bytes::from(json.to_string());
        let descriptor = Descriptor {
            media_type: media_type.into(),
            digest: hash(Algorithm::Sha256, &bytes),
            size: bytes.len() as u64,
            platform: None,
        };
        Document::parse(descriptor, bytes).unwrap()
    }

    fn to(media_type: &str, text: &str) -> Descriptor {
        let size = text.len() as u64;
        Descriptor { media_type: media_type.into(), digest: digest(text), size, platform: None }
    }

    #[test]
    fn manifests_name_what_was_packed_and_keep_the_rest() {
        let zstd = format!("{OCI_LAYER}+zstd");
        let mut gzip = entry(&format!("{DOCKER_LAYER}.gzip"), "old");
        gzip["annotations"] = json!({ "a": "b", "containerd.io/snapshot/stargz/toc.digest": "x" });
        let other = entry(&format!("{DOCKER_LAYER}.zstd"), "other");
        let before = json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": entry(DOCKER_CONFIG, "{}"),
            "layers": [gzip, other], "annotations": { "c": "d" },
        });
        let packed = BTreeMap::from([(digest("old"), to(&zstd, "new one"))]);
        let got = manifest(&document(DOCKER_MANIFEST, &before), &packed).unwrap().unwrap();
        let mut new = entry(&zstd, "new one");
        new["annotations"] = json!({ "a": "b" });
        let want = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(OCI_CONFIG, "{}"),
            "layers": [new, entry(&zstd, "other")], "annotations": { "c": "d" },
        });
        assert_eq!(Value::Object(got), want);
        let stays = json!({
            "schemaVersion": 2, "config": entry(OCI_CONFIG, "{}"), "layers": [entry(&zstd, "x")],
        });
        assert_eq!(manifest(&document(OCI_MANIFEST, &stays), &packed), Ok(None));
    }

    #[test]
    fn an_index_names_what_has_another_name() {
        let mut about = entry(OCI_MANIFEST, "attestation");
        about["annotations"] = json!({ "about": digest("old").as_str(), "else": "old" });
        let mut old = entry(DOCKER_MANIFEST, "old");
        old["platform"] = json!({ "os": "linux", "architecture": "arm64", "os.version": "1" });
        let before = json!({
            "schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": [old, about],
        });
        let renamed = BTreeMap::from([(digest("old"), to(OCI_MANIFEST, "new one"))]);
        let got = index(&document(DOCKER_INDEX, &before), &renamed).unwrap().unwrap();
        let mut new = entry(OCI_MANIFEST, "new one");
        new["platform"] = json!({ "os": "linux", "architecture": "arm64", "os.version": "1" });
        let mut about = entry(OCI_MANIFEST, "attestation");
        about["annotations"] = json!({ "about": digest("new one").as_str(), "else": "old" });
        let want = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [new, about],
        });
        assert_eq!(Value::Object(got), want);
        assert_eq!(index(&document(DOCKER_INDEX, &before), &BTreeMap::new()), Ok(None));
    }

    #[test]
    fn layer_types_of_docker_have_names_of_oci() {
        let check = |docker: &str, oci: &str| assert_eq!(oci_layer(docker).unwrap(), oci);
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        check(DOCKER_LAYER, OCI_LAYER);
        check(&format!("{DOCKER_LAYER}.gzip"), &format!("{OCI_LAYER}+gzip"));
        check(&format!("{OCI_LAYER}+zstd"), &format!("{OCI_LAYER}+zstd"));
        check(foreign, &format!("{OCI_FOREIGN_LAYER}+gzip"));
    }
}
