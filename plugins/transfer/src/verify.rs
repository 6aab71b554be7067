//! Whether an image may get its name: the images plugin asks all verifiers, and the evidence that they want is looked
//! for here.

use bytes::Bytes;
use capstan_sdk::contract::Images;
use capstan_sdk::contract::access::Access;
use capstan_sdk::contract::images::{Permit, Permitted};
use capstan_sdk::contract::transfer::ListReferrers;
use capstan_sdk::contract::verifier::{
    Evidence, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, MAX_EVIDENCE_TOTAL_BYTES,
};
use capstan_sdk::oci::Document;
use capstan_sdk::{Class, Descriptor, Digest, Error, Labels, Link, Namespace, Reference, Result};
use serde::Deserialize;
use tracing::debug;

use crate::referrers;
use crate::registry::{Registry, hash};

/// What signatures are among all that may refer to an image: the types of their manifests begin so.
const SIGNATURES: [&str; 3] = [
    "application/vnd.dev.sigstore.bundle",
    "application/vnd.dev.cosign.artifact.sig",
    "application/vnd.cncf.notary.signature",
];

/// What is asked, but for the evidence. `document` is what `target` describes; verified.
pub(crate) fn question(
    namespace: &Namespace,
    name: String,
    target: &Descriptor,
    document: &[u8],
) -> Permit {
    let (namespace, target, document) = (namespace.clone(), target.clone(), document.to_vec());
    Permit { namespace, name, target, document, evidence: None }
}

/// Asks. `look` looks for evidence, only if somebody wants it; what it found is the answer.
///
/// # Errors
/// They do not say of which image: those of a [`Permit`], and those of `look`.
pub(crate) async fn permit(
    images: &Link<Images>,
    mut question: Permit,
    look: impl AsyncFnOnce() -> Result<Vec<Evidence>>,
) -> Result<Vec<Evidence>> {
    match images.send(question.clone()).await? {
        Permitted::Granted => Ok(Vec::new()),
        Permitted::WantsEvidence => {
            let evidence = look().await.map_err(|error| error.at("look for signatures"))?;
            question.evidence = Some(evidence.clone());
            images.send(question).await.map(|_| evidence)
        }
    }
}

/// A part of a manifest that may be evidence.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPiece {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<Labels>,
}

#[derive(Deserialize)]
struct RawManifest {
    layers: Vec<RawPiece>,
}

/// Evidence as it is found, up to its limits.
#[derive(Default)]
pub(crate) struct Findings {
    pieces: Vec<Evidence>,
    bytes: u64,
}

impl Findings {
    /// Adds what a manifest of signatures holds. Without `artifact_type` each has that of its own. What is none, or too
    /// large, is left out: it convinces nobody.
    ///
    /// # Errors
    /// Those of `read`, which gives the bytes of a blob.
    pub(crate) async fn add(
        &mut self,
        target: &Descriptor,
        manifest: &[u8],
        artifact_type: &str,
        read: impl AsyncFn(&Descriptor) -> Result<Bytes>,
    ) -> Result<()> {
        let is_manifest =
            matches!(Document::parse(&target.media_type, manifest), Ok(Document::Manifest { .. }));
        let raw = match serde_json::from_slice::<RawManifest>(manifest) {
            Ok(raw) if is_manifest => raw,
            _ => return Ok(()),
        };
        for piece in raw.layers {
            let Ok(digest) = Digest::parse(&piece.digest) else { continue };
            let has_room = self.pieces.len() < MAX_EVIDENCE
                && piece.size <= MAX_EVIDENCE_TOTAL_BYTES.saturating_sub(self.bytes);
            if piece.size > MAX_EVIDENCE_BYTES || !has_room {
                debug!(%digest, size = piece.size, "evidence beyond the limits is left out");
                continue;
            }
            let media_type = piece.media_type;
            let blob = Descriptor {
                media_type: media_type.clone(),
                digest,
                size: piece.size,
                platform: None,
            };
            let payload = read(&blob).await?;
            if hash(blob.digest.algorithm(), &payload) != blob.digest {
                return Err(Error::corrupt(format!(
                    "signature {}: it has other bytes",
                    blob.digest
                )));
            }
            let mut annotations = piece.annotations.unwrap_or_default();
            annotations.remove("");
            self.bytes += piece.size;
            self.pieces.push(Evidence {
                artifact_type: match artifact_type {
                    "" => media_type.clone(),
                    kind => kind.to_owned(),
                },
                media_type,
                payload: payload.to_vec(),
                annotations,
            });
        }
        Ok(())
    }

    pub(crate) fn into_evidence(self) -> Vec<Evidence> {
        self.pieces
    }
}

/// Whether an entry of an archive's index is about an image and none itself, by its annotation `kind`: signatures,
/// attestations and bills of materials, as `cosign save` puts them beside the image (cosign, pkg/oci/layout).
pub(crate) fn is_about_an_image(kind: &str) -> bool {
    let kind = kind.strip_prefix("dev.cosignproject.cosign/");
    kind.is_some_and(|kind| !matches!(kind, "image" | "imageIndex"))
}

/// What a manifest is of, if it is that of signatures and refers to this image.
pub(crate) fn artifact_type_of(manifest: &[u8], image: &Digest) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Referrer {
        #[serde(default)]
        artifact_type: Option<String>,
        config: Config,
        subject: Subject,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        media_type: String,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: String,
    }
    let Referrer { artifact_type, config, subject } = serde_json::from_slice(manifest).ok()?;
    // OCI image-spec, manifest.md: without a type of its own it is that of its configuration.
    let kind = artifact_type.unwrap_or(config.media_type);
    (subject.digest == image.as_str() && is_signature(&kind)).then_some(kind)
}

fn is_signature(artifact_type: &str) -> bool {
    SIGNATURES.iter().any(|signature| artifact_type.starts_with(signature))
}

/// The name under which cosign keeps the signatures of an image; `None`: it would be too long for a tag.
pub(crate) fn cosign_tag(name: &Reference, digest: &Digest) -> Option<Reference> {
    name.with_tag(&cosign_name(digest, "sig")).ok()
}

/// The tag of what cosign keeps of one kind for something in its repository: `sig`, `att` or `sbom`.
pub(crate) fn cosign_name(digest: &Digest, kind: &str) -> String {
    format!("{}-{}.{kind}", digest.algorithm().name(), digest.hex())
}

/// Looks in the image's repository: what has cosign's tag, and what refers to the image.
///
/// # Errors
/// Those of the registry, but that it has none.
pub(crate) async fn in_registry(
    registry: &Registry,
    access: &Access,
    name: &Reference,
    digest: &Digest,
) -> Result<Vec<Evidence>> {
    let mut findings = Findings::default();
    let image = name.with_digest(digest);
    let repository = registry.repository(&image, access)?;
    let read = async |blob: &Descriptor| {
        let mut bytes = Vec::new();
        let sink = async |piece: Bytes| {
            bytes.extend_from_slice(&piece);
            Ok(())
        };
        repository.download(blob, 0, sink).await?;
        Ok(Bytes::from(bytes))
    };
    if let Some(tag) = cosign_tag(name, digest)
        && let Some(found) = there_is(registry.repository(&tag, access)?.resolve().await)?
    {
        findings.add(&found.descriptor, &found.bytes, "", read).await?;
    }
    let list = ListReferrers {
        reference: image.to_string(),
        artifact_type: String::new(),
        access: access.clone(),
    };
    let referrers = there_is(referrers::list(registry.clone(), list).await)?.unwrap_or_default();
    for referrer in referrers {
        let kind = &referrer.artifact_type;
        if is_signature(kind)
            && let Some(bytes) = there_is(repository.manifest(&referrer.manifest).await)?
        {
            findings.add(&referrer.manifest, &bytes, kind, read).await?;
        }
    }
    Ok(findings.into_evidence())
}

/// What a registry gave; `None` if it has none of it, or nothing that could be read.
fn there_is<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.class() {
            Class::NotFound | Class::Unimplemented | Class::Corrupt => {
                debug!(%error, "no signature");
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests;
