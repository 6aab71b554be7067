//! The documents of a checkpoint: an index, and a manifest with what is not in the image.

use capstan_sdk::oci::CHECKPOINT;
use capstan_sdk::oci::media::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use capstan_sdk::{Descriptor, Digest, Error, Labels, Platform, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The container, as [`Saved`].
pub(crate) const CONFIG: &str = "application/vnd.capstan.checkpoint.config.v1+json";

/// An uncompressed tar of CRIU's files. The name is containerd's.
pub(crate) const DUMP: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";

/// The name of the image that the container was made of (OCI image-spec, annotations.md).
const BASE_NAME: &str = "org.opencontainers.image.base.name";

/// A container, as far as another machine can make it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    /// Empty = it had a directory of the host, which is `rootfs`.
    pub(crate) image: String,
    pub(crate) runtime: String,
    /// Name without kind; empty with `rootfs`.
    pub(crate) snapshotter: String,
    pub(crate) rootfs: String,
    pub(crate) labels: Labels,
    /// What the writable layer may take; 0 = no limit.
    #[serde(default)]
    pub(crate) storage_bytes: u64,
    /// OCI runtime spec.
    pub(crate) spec: Value,
}

/// What is behind the index of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) config: Descriptor,
    pub(crate) dump: Descriptor,
    /// `None` for a container on a directory of the host.
    pub(crate) layer: Option<Descriptor>,
}

/// Of an index or a manifest, what matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    manifests: Vec<Entry>,
    config: Option<Entry>,
    #[serde(default)]
    layers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    artifact_type: String,
}

impl Entry {
    fn descriptor(self) -> Result<Descriptor> {
        let digest = Digest::parse(&self.digest)
            .map_err(|error| Error::corrupt(format!("checkpoint: {}", error.message())))?;
        Ok(Descriptor { media_type: self.media_type, digest, size: self.size, platform: None })
    }
}

fn entry(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.as_str(),
        "size": descriptor.size,
    })
}

/// The manifest.
pub(crate) fn manifest(parts: &Parts) -> Vec<u8> {
    let layers: Vec<Value> =
        [Some(&parts.dump), parts.layer.as_ref()].into_iter().flatten().map(entry).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": CHECKPOINT,
        "config": entry(&parts.config),
        "layers": layers,
    });
    serde_json::to_vec(&manifest).expect("a JSON value is JSON")
}

/// The index. The image comes first, and fits this machine; the checkpoint fits none, so that whoever
/// looks for an image to run finds the image.
pub(crate) fn index(manifest: &Descriptor, image: Option<(&str, &Descriptor)>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut annotations = json!({});
    if let Some((name, image)) = image {
        let host = Platform::host();
        let mut out = entry(image);
        out["platform"] = json!({ "os": host.os, "architecture": host.architecture });
        if !host.variant.is_empty() {
            out["platform"]["variant"] = host.variant.into();
        }
        entries.push(out);
        annotations[BASE_NAME] = name.into();
    }
    let mut own = entry(manifest);
    own["artifactType"] = CHECKPOINT.into();
    own["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    entries.push(own);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": CHECKPOINT,
        "manifests": entries,
        "annotations": annotations,
    });
    serde_json::to_vec(&index).expect("a JSON value is JSON")
}

fn parse(bytes: &[u8]) -> Result<Document> {
    serde_json::from_slice(bytes).map_err(|error| Error::corrupt(format!("checkpoint: {error}")))
}

/// The manifest and the image of a checkpoint's index; `None` if it is another index, or no index.
///
/// # Errors
/// `Corrupt`: it says that it is a checkpoint, and is none.
pub(crate) fn read_index(bytes: &[u8]) -> Result<Option<(Descriptor, Option<Descriptor>)>> {
    let Ok(document) = parse(bytes) else { return Ok(None) };
    if document.artifact_type != CHECKPOINT {
        return Ok(None);
    }
    let (mut manifest, mut image) = (None, None);
    for entry in document.manifests {
        let place = if entry.artifact_type == CHECKPOINT { &mut manifest } else { &mut image };
        if place.replace(entry.descriptor()?).is_some() {
            return Err(Error::corrupt("checkpoint: two of what there can be one of"));
        }
    }
    let manifest = manifest.ok_or_else(|| Error::corrupt("checkpoint: it has no manifest"))?;
    Ok(Some((manifest, image)))
}

/// What a checkpoint's manifest names.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn read_manifest(bytes: &[u8]) -> Result<Parts> {
    let document = parse(bytes)?;
    let bad = |why: &str| Error::corrupt(format!("checkpoint: {why}"));
    let config = document.config.filter(|config| config.media_type == CONFIG);
    let config = config.ok_or_else(|| bad("its manifest has no container"))?.descriptor()?;
    let (mut dump, mut layer) = (None, None);
    for entry in document.layers {
        let place = match entry.media_type.as_str() {
            DUMP => &mut dump,
            OCI_LAYER => &mut layer,
            other => return Err(bad(&format!("a layer of type {other:?}"))),
        };
        if place.replace(entry.descriptor()?).is_some() {
            return Err(bad("two layers of one type"));
        }
    }
    Ok(Parts { config, dump: dump.ok_or_else(|| bad("it has no dump"))?, layer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use capstan_sdk::oci::{self, choose};

    fn descriptor(media_type: &str, digit: char) -> Descriptor {
        let digest = format!("sha256:{}", digit.to_string().repeat(64));
        Descriptor {
            media_type: media_type.into(),
            digest: Digest::parse(&digest).unwrap(),
            size: 3,
            platform: None,
        }
    }

    /// A limit of the writable layer is that of the restored container too; older checkpoints have none.
    #[test]
    fn a_limit_goes_with_the_container() {
        let old = r#"{"image":"i","runtime":"runc","snapshotter":"overlay","rootfs":"","labels":{},"spec":{}}"#;
        let mut saved: Saved = serde_json::from_str(old).unwrap();
        assert_eq!(saved.storage_bytes, 0);
        saved.storage_bytes = 8 << 20;
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<Saved>(&text).unwrap().storage_bytes, 8 << 20);
    }

    #[test]
    fn what_is_written_is_read_and_is_plain_oci() {
        let layer = Some(descriptor(OCI_LAYER, '3'));
        let parts = Parts { config: descriptor(CONFIG, '1'), dump: descriptor(DUMP, '2'), layer };
        let without_layer = Parts { layer: None, ..parts.clone() };
        for parts in [&parts, &without_layer] {
            let bytes = manifest(parts);
            assert_eq!(&read_manifest(&bytes).unwrap(), parts);
            let Ok(oci::Document::Manifest { layers, .. }) =
                oci::Document::parse(OCI_MANIFEST, &bytes)
            else {
                panic!("no manifest of OCI");
            };
            assert_eq!(layers.len(), 1 + usize::from(parts.layer.is_some()));
        }
        let own = descriptor(OCI_MANIFEST, '4');
        let image = descriptor(OCI_INDEX, '5');
        let bytes = index(&own, Some(("example.org/a:b", &image)));
        assert_eq!(read_index(&bytes).unwrap(), Some((own.clone(), Some(image.clone()))));
        let Ok(oci::Document::Index(list)) = oci::Document::parse(OCI_INDEX, &bytes) else {
            panic!("no index of OCI");
        };
        // Whoever looks for an image to run finds that.
        let chosen = choose(&list, &Platform::host()).unwrap();
        assert_eq!(chosen.digest, image.digest);
        assert_eq!(read_index(&index(&own, None)).unwrap(), Some((own, None)));
    }

    #[test]
    fn what_is_no_checkpoint_is_told_apart_from_a_broken_one() {
        assert_eq!(read_index(b"{}").unwrap(), None);
        assert_eq!(read_index(b"no JSON").unwrap(), None);
        let broken = format!("{{\"artifactType\":\"{CHECKPOINT}\",\"manifests\":[]}}");
        assert_eq!(read_index(broken.as_bytes()).unwrap_err().class(), Class::Corrupt);
        for text in [
            "{}",
            "{\"layers\":[]}",
            &format!("{{\"config\":{}}}", entry(&descriptor(OCI_LAYER, '1'))),
            &format!("{{\"config\":{}}}", entry(&descriptor(CONFIG, '1'))),
            &format!(
                "{{\"config\":{},\"layers\":[{}]}}",
                entry(&descriptor(CONFIG, '1')),
                entry(&descriptor("text/html", '2'))
            ),
        ] {
            assert_eq!(
                read_manifest(text.as_bytes()).unwrap_err().class(),
                Class::Corrupt,
                "{text}"
            );
        }
    }
}
