//! Checkpoints: an index of an image and of what a container was more than that.

use capstan_schema::{Descriptor, Digest};
use serde::Deserialize;

use super::object::from_object;

/// What a checkpoint's index and its manifest say of themselves (OCI image-spec, `artifactType`).
pub const CHECKPOINT: &str = "application/vnd.capstan.checkpoint.v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    artifact_type: String,
    manifests: Vec<Entry>,
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

/// The manifest of a checkpoint, by its index; `None` if the document is no such index.
///
/// It fits no platform, so whoever looks for an image to run finds the image.
pub fn checkpoint_manifest(index: &[u8]) -> Option<Descriptor> {
    let index: Index = from_object(index).ok()?;
    if index.artifact_type != CHECKPOINT {
        return None;
    }
    let entry = index.manifests.into_iter().find(|entry| entry.artifact_type == CHECKPOINT)?;
    let digest = Digest::parse(&entry.digest).ok()?;
    Some(Descriptor { media_type: entry.media_type, digest, size: entry.size, platform: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_index_of_a_checkpoint_has_one() {
        let entry = |kind: &str, digit: char| {
            let hex = digit.to_string().repeat(64);
            format!(
                "{{\"mediaType\":\"m\",\"digest\":\"sha256:{hex}\",\"size\":3,\"artifactType\":\"{kind}\"}}"
            )
        };
        let index = |kind: &str, entries: &[String]| {
            format!("{{\"artifactType\":\"{kind}\",\"manifests\":[{}]}}", entries.join(","))
        };
        let both = [entry("", '1'), entry(CHECKPOINT, '2')];
        let found = checkpoint_manifest(index(CHECKPOINT, &both).as_bytes()).unwrap();
        assert!(found.digest.hex().starts_with('2'));
        for text in ["", "{}", &index("other", &both), &index(CHECKPOINT, &both[..1])] {
            assert_eq!(checkpoint_manifest(text.as_bytes()), None, "{text}");
        }
    }
}
