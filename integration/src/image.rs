//! Images made by hand, right or wrong.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http::ask;

/// The digest of bytes, as it is written.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A layer under construction.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layer")
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    fn add(
        mut self,
        kind: tar::EntryType,
        name: &str,
        mode: u32,
        link: &str,
        bytes: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_700_000_000);
        // Names go in as they are: `tar` itself would refuse those that a test is about.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        let field = &mut header.as_old_mut().linkname;
        field[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.tar.append(&header, bytes).expect("write to memory");
        self
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, name: &str) -> Self {
        self.add(tar::EntryType::Directory, name, 0o755, "", b"")
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, bytes: &[u8]) -> Self {
        self.add(tar::EntryType::Regular, name, mode, "", bytes)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.add(tar::EntryType::Symlink, name, 0o777, target, b"")
    }

    /// A tree with busybox in it, all applets linked, and users: the smallest thing that is a system.
    #[must_use]
    pub fn busybox(self) -> Self {
        let busybox = crate::find("busybox");
        let bytes = std::fs::read(&busybox).expect("read busybox");
        let mut layer = self;
        for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"] {
            layer = layer.dir(dir);
        }
        layer = layer
            .file("bin/busybox", 0o755, &bytes)
            .file(
                "etc/passwd",
                0o644,
                b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
            )
            .file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
        let list = std::process::Command::new(busybox).arg("--list").output().expect("run busybox");
        for applet in
            String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox")
        {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        layer
    }

    /// The tar.
    pub fn into_tar(self) -> Vec<u8> {
        self.tar.into_inner().expect("write to memory")
    }
}

/// An image, an index of some, or an artifact: blobs by digest, and the digest of the document that stands for it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest to bytes: documents, configuration and layers.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Which of them is the manifest, or the index.
    pub manifest: String,
    /// The layers' digests, from the bottom; of an artifact its blobs'.
    pub layers: Vec<String>,
}

/// The media types of an image.
struct Kinds {
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

const OCI: Kinds = Kinds {
    manifest: MANIFEST,
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

const DOCKER: Kinds = Kinds {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

impl Image {
    /// An image of layers that are gzipped.
    pub fn new(layers: Vec<Layer>) -> Self {
        Self::of_layers(layers, architecture(), &OCI)
    }

    /// The same, of another architecture, maybe with a variant (`arm/v7`): its files are what they are.
    pub fn of_architecture(layers: Vec<Layer>, architecture: &str) -> Self {
        Self::of_layers(layers, architecture, &OCI)
    }

    /// The same as docker writes it (schema 2).
    pub fn docker(layers: Vec<Layer>) -> Self {
        Self::of_layers(layers, architecture(), &DOCKER)
    }

    fn of_layers(layers: Vec<Layer>, architecture: &str, kinds: &Kinds) -> Self {
        let tars: Vec<Vec<u8>> = layers.into_iter().map(Layer::into_tar).collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
        let blobs = tars.iter().map(|tar| gzip(tar)).collect();
        Self::of_kinds(blobs, &diff_ids, architecture, kinds)
    }

    /// An image of layer blobs as they are, which need not be what they seem.
    pub fn of_blobs(layers: Vec<Vec<u8>>, diff_ids: &[String]) -> Self {
        Self::of_kinds(layers, diff_ids, architecture(), &OCI)
    }

    fn of_kinds(
        layers: Vec<Vec<u8>>,
        diff_ids: &[String],
        architecture: &str,
        kinds: &Kinds,
    ) -> Self {
        let mut config = platform(architecture);
        config["config"] = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] });
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let mut image = Self::empty();
        let descriptors = image.put_layers(kinds.layer, layers);
        let config = image.put(kinds.config, bytes(&config));
        image.name(&json!({
            "schemaVersion": 2,
            "mediaType": kinds.manifest,
            "config": config,
            "layers": descriptors,
        }));
        image
    }

    /// The same image, whose top layer its registry must not pass on: it is at a URL, which is made of its digest, and is
    /// not among the blobs.
    #[must_use]
    pub fn foreign(mut self, url: impl FnOnce(&str) -> String) -> Self {
        let mut manifest = self.document(&self.manifest);
        self.blobs.remove(&self.manifest);
        let layer = self.layers.last().expect("it has layers");
        let top = &mut manifest["layers"][self.layers.len() - 1];
        top["mediaType"] = FOREIGN_LAYER.into();
        top["urls"] = json!([url(layer)]);
        self.blobs.remove(layer);
        self.name(&manifest);
        self
    }

    /// The same image with these fields of its configuration (OCI image-spec, config.md) as well: `{"User": "web"}`.
    #[must_use]
    pub fn configured(mut self, fields: &Value) -> Self {
        let (mut manifest, old) = (self.document(&self.manifest), self.config());
        let mut config = self.document(&old);
        for (name, value) in fields.as_object().expect("an object of fields") {
            config["config"][name] = value.clone();
        }
        self.blobs.remove(&self.manifest);
        self.blobs.remove(&old);
        let kind = manifest["config"]["mediaType"].as_str().expect("we made it").to_owned();
        manifest["config"] = self.put(&kind, bytes(&config));
        self.name(&manifest);
        self
    }

    /// An index of images, each with its architecture, maybe with a variant (`arm/v7`). The layers are those of the first.
    pub fn index(images: &[(&str, &Self)]) -> Self {
        let mut index = Self::empty();
        let mut manifests = Vec::new();
        for (architecture, image) in images {
            index.blobs.extend(image.blobs.clone());
            let manifest = image.blobs[&image.manifest].clone();
            let mut descriptor = index.put(image.media_type(), manifest);
            descriptor["platform"] = platform(architecture);
            manifests.push(descriptor);
        }
        index.layers = images.first().map(|(_, image)| image.layers.clone()).unwrap_or_default();
        index.name(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }));
        index
    }

    /// Something that is no image, of this type, and perhaps about one.
    pub fn artifact(artifact_type: &str, blobs: Vec<Vec<u8>>, subject: Option<&Self>) -> Self {
        let mut artifact = Self::empty();
        let descriptors = artifact.put_layers("application/octet-stream", blobs);
        let config = artifact.put("application/vnd.oci.empty.v1+json", b"{}".to_vec());
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact_type,
            "config": config,
            "layers": descriptors,
        });
        if let Some(subject) = subject {
            manifest["subject"] = json!({
                "mediaType": subject.media_type(),
                "digest": subject.manifest,
                "size": subject.blobs[&subject.manifest].len(),
            });
        }
        artifact.name(&manifest);
        artifact
    }

    fn empty() -> Self {
        Self { blobs: BTreeMap::new(), manifest: String::new(), layers: Vec::new() }
    }

    fn put_layers(&mut self, media_type: &str, blobs: Vec<Vec<u8>>) -> Vec<Value> {
        let mut descriptors = Vec::new();
        for blob in blobs {
            self.layers.push(digest(&blob));
            descriptors.push(self.put(media_type, blob));
        }
        descriptors
    }

    fn put(&mut self, media_type: &str, blob: Vec<u8>) -> Value {
        let digest = digest(&blob);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": blob.len() });
        self.blobs.insert(digest, blob);
        descriptor
    }

    /// Adds the document that stands for all of it.
    fn name(&mut self, document: &Value) {
        let document = bytes(document);
        self.manifest = digest(&document);
        self.blobs.insert(self.manifest.clone(), document);
    }

    /// What its document says that it is.
    pub fn media_type(&self) -> &'static str {
        media_type_of(&self.blobs[&self.manifest])
    }

    /// The digest of its configuration.
    pub fn config(&self) -> String {
        let document = self.document(&self.manifest);
        document["config"]["digest"].as_str().expect("it is no index").to_owned()
    }

    /// What the snapshots of its layers are called, from the bottom (OCI image-spec, config.md).
    pub fn chain_ids(&self) -> Vec<String> {
        let config = self.document(&self.config());
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("we made it");
        let mut chain_ids: Vec<String> = Vec::new();
        for diff_id in diff_ids.iter().filter_map(Value::as_str) {
            chain_ids.push(match chain_ids.last() {
                None => diff_id.to_owned(),
                Some(parent) => digest(format!("{parent} {diff_id}").as_bytes()),
            });
        }
        chain_ids
    }

    fn document(&self, digest: &str) -> Value {
        serde_json::from_slice(&self.blobs[digest]).expect("we made it")
    }

    /// Puts it into a registry that is open to everybody by plain http, by hand.
    pub fn push_to(&self, address: &str, name: &str, tag: &str) {
        self.push_document(address, name, &self.manifest, tag);
    }

    fn push_document(&self, address: &str, name: &str, digest: &str, tag: &str) {
        let document = self.document(digest);
        let listed = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let name_of = |descriptor: &Value| descriptor["digest"].as_str().map(str::to_owned);
        for child in listed("manifests").iter().filter_map(name_of) {
            self.push_document(address, name, &child, &child);
        }
        let config = document.get("config").cloned();
        for blob in listed("layers").iter().chain(&config).filter_map(name_of) {
            push_blob(address, name, &blob, &self.blobs[&blob]);
        }
        let path = format!("/v2/{name}/manifests/{tag}");
        let kind = media_type_of(&self.blobs[digest]);
        let answer = ask(address, "PUT", &path, &[("Content-Type", kind)], &self.blobs[digest]);
        assert_eq!(answer.status(), 201, "{path}: {}", String::from_utf8_lossy(&answer.body));
    }
}

fn push_blob(address: &str, name: &str, digest: &str, blob: &[u8]) {
    let answer = ask(address, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
    assert_eq!(answer.status(), 202, "begin an upload");
    let location = answer.header("location").expect("it says where to");
    let path = location.split_once(address).map_or(location, |(_, path)| path);
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}digest={digest}");
    let answer = ask(address, "PUT", &path, &[("Content-Type", "application/octet-stream")], blob);
    assert_eq!(answer.status(), 201, "{path}: {}", String::from_utf8_lossy(&answer.body));
}

/// What a document says that it is.
pub(crate) fn media_type_of(document: &[u8]) -> &'static str {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    let said = document["mediaType"].as_str().unwrap_or_default();
    let known = [INDEX, DOCKER.manifest, DOCKER_LIST];
    known.into_iter().find(|known| *known == said).unwrap_or(MANIFEST)
}

const FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media type of an OCI manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value is JSON")
}

/// `amd64`, or `arm/v7`, in its parts.
fn platform(architecture: &str) -> Value {
    match architecture.split_once('/') {
        None => json!({ "os": "linux", "architecture": architecture }),
        Some((architecture, variant)) => {
            json!({ "os": "linux", "architecture": architecture, "variant": variant })
        }
    }
}

/// This machine's, as the image specification names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        // xorshift32: enough for deflate to find nothing.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Bytes as a gzip file.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("write to memory")
}
