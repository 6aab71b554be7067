//! Whether an image may get its name: all verifiers are asked, and each may refuse.
//!
//! Invariant: what cannot be asked refuses. A verifier that did not start or gave up, one that the configuration names
//! and that is not there, one that answers with an error, and one that does not answer in time all keep an image from its
//! name.

use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::access::Access;
use capstan_sdk::contract::transfer::ListReferrers;
use capstan_sdk::contract::verifier::{
    Ask, Evidence, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, MAX_EVIDENCE_TOTAL_BYTES, Verdict, Verify,
};
use capstan_sdk::oci::Document;
use capstan_sdk::{
    Call, Carries, Class, Context, Contract as _, Descriptor, Digest, Error, Labels, Link,
    Namespace, PluginState, Reference, Result,
};
use futures::future::try_join_all;
use serde::Deserialize;
use tracing::debug;

use crate::registry::{Registry, hash};
use crate::{Config, referrers};

/// The most characters of a reason that an error repeats.
const MAX_REASON_CHARS: usize = 300;

/// What signatures are among all that may refer to an image: the types of their manifests begin so.
const SIGNATURES: [&str; 3] = [
    "application/vnd.dev.sigstore.bundle",
    "application/vnd.dev.cosign.artifact.sig",
    "application/vnd.cncf.notary.signature",
];

/// Those who are asked.
#[derive(Clone)]
pub(crate) struct Verifiers {
    context: Context,
    /// Ids of those that must be there.
    required: Vec<String>,
    /// How long an answer may take.
    deadline: Duration,
}

/// What is asked, but for the evidence.
pub(crate) struct Question<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) name: &'a str,
    pub(crate) target: &'a Descriptor,
    /// What `target` describes; verified.
    pub(crate) document: &'a [u8],
}

impl Verifiers {
    pub(crate) fn new(context: Context, config: &Config) -> Self {
        let deadline = Duration::from_secs(config.verifier_timeout_seconds);
        Self { context, required: config.verifiers.clone(), deadline }
    }

    /// Asks all of them. `evidence` is looked for only if somebody wants it.
    ///
    /// # Errors
    /// They do not say of which image. `PermissionDenied`: one refuses. `FailedPrecondition`: one should run and does not.
    /// Else the error of the one that could not say anything, `Unavailable` if it took too long, or that of looking for
    /// evidence.
    pub(crate) async fn check(
        &self,
        question: &Question<'_>,
        evidence: impl AsyncFnOnce() -> Result<Vec<Evidence>>,
    ) -> Result<()> {
        let name = question.name;
        let verifiers = self.all()?;
        let wants = verifiers.iter().map(async |(id, verifier)| {
            let ask = Ask { namespace: question.namespace.clone(), name: name.into() };
            self.ask(verifier, ask).await.map_err(|error| silent(id, error))
        });
        let is_wanted = try_join_all(wants).await?.contains(&true);
        let evidence = match is_wanted {
            true => evidence().await.map_err(|error| error.at("look for signatures"))?,
            false => Vec::new(),
        };
        let verdicts = verifiers.iter().map(async |(id, verifier)| {
            let verify = Verify {
                namespace: question.namespace.clone(),
                name: name.into(),
                target: question.target.clone(),
                document: question.document.to_vec(),
                evidence: evidence.clone(),
            };
            match self.ask(verifier, verify).await {
                Ok(Verdict::Accepted) => Ok(()),
                Ok(Verdict::Refused(reason)) => {
                    let reason = one_line(&reason);
                    Err(Error::denied(format!("{id} refuses it: {reason}")))
                }
                Err(error) => Err(silent(id, error)),
            }
        });
        try_join_all(verdicts).await.map(drop)
    }

    /// Sends one question; no answer in time is an error.
    async fn ask<M: Call>(&self, verifier: &Link<Verifier>, question: M) -> Result<M::Reply>
    where
        Verifier: Carries<M>,
    {
        let late = |_| {
            Err(Error::unavailable(format!(
                "no answer within {:?}; restart it, or give it longer by verifier_timeout_seconds in \
                 [plugins.\"transfer.local\"]",
                self.deadline
            )))
        };
        tokio::time::timeout(self.deadline, verifier.send(question)).await.unwrap_or_else(late)
    }

    /// All that there are, by id.
    fn all(&self) -> Result<Vec<(String, Link<Verifier>)>> {
        let mut all = Vec::new();
        for plugin in self.context.kernel()?.plugins() {
            let Some((kind, name)) = plugin.id.split_once('.') else { continue };
            if kind != Verifier::KIND || plugin.state == PluginState::Disabled {
                continue;
            }
            match plugin.state {
                PluginState::Running => {}
                state if state.is_coming() => {}
                state => {
                    let (id, why) = (&plugin.id, one_line(&plugin.last_error));
                    return Err(Error::precondition(format!(
                        "{id} is to be asked about images, and is {} ({why}); correct that and restart it, or turn it \
                         off in the configuration",
                        state.name()
                    )));
                }
            }
            all.push((plugin.id.clone(), self.context.link_named(name)?));
        }
        let is_missing = |id: &&String| !all.iter().any(|(other, _)| other == *id);
        if let Some(id) = self.required.iter().find(is_missing) {
            return Err(Error::precondition(format!(
                "{id} must be asked about images, and is not there; load it, or take it out of verifiers in \
                 [plugins.\"transfer.local\"]"
            )));
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }
}

/// The error of a verifier that says nothing.
fn silent(id: &str, error: Error) -> Error {
    error.at(format_args!("{id} could not be asked, so it is refused"))
}

fn one_line(reason: &str) -> String {
    let is_fine = |c: char| if c.is_control() { ' ' } else { c };
    let reason: String = reason.trim().chars().map(is_fine).take(MAX_REASON_CHARS).collect();
    if reason.is_empty() { "it does not say why".into() } else { reason }
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
    let (host, repository) = (name.host(), name.repository());
    Reference::parse(&format!("{host}/{repository}:{}", cosign_name(digest, "sig"))).ok()
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
    let (host, path) = (name.host(), name.repository());
    let image = Reference::parse(&format!("{host}/{path}@{digest}"))?;
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
