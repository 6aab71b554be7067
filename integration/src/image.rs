//! Images made by hand, right or wrong.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

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

/// An image: blobs by digest, and the digest of the manifest.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest to bytes: manifest, configuration and layers.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Which of them is the manifest.
    pub manifest: String,
    /// The layers' digests, from the bottom.
    pub layers: Vec<String>,
}

impl Image {
    /// An image of layers that are gzipped.
    pub fn new(layers: Vec<Layer>) -> Self {
        let tars: Vec<Vec<u8>> = layers.into_iter().map(Layer::into_tar).collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
        Self::of_blobs(tars.iter().map(|tar| gzip(tar)).collect(), &diff_ids)
    }

    /// An image of layer blobs as they are, which need not be what they seem.
    pub fn of_blobs(layers: Vec<Vec<u8>>, diff_ids: &[String]) -> Self {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let mut image =
            Self { blobs: BTreeMap::new(), manifest: String::new(), layers: Vec::new() };
        let mut descriptors = Vec::new();
        for layer in layers {
            let descriptor = image.put("application/vnd.oci.image.layer.v1.tar+gzip", layer);
            image.layers.push(descriptor["digest"].as_str().expect("just made").to_owned());
            descriptors.push(descriptor);
        }
        let config = image.put("application/vnd.oci.image.config.v1+json", bytes(&config));
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": descriptors,
        }));
        image.manifest = digest(&manifest);
        image.blobs.insert(image.manifest.clone(), manifest);
        image
    }

    fn put(&mut self, media_type: &str, blob: Vec<u8>) -> Value {
        let digest = digest(&blob);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": blob.len() });
        self.blobs.insert(digest, blob);
        descriptor
    }
}

/// The media type of an OCI manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value is JSON")
}

/// As the image specification names it.
fn architecture() -> &'static str {
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
