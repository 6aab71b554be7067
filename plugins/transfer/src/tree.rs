//! What stands below a document, as far as it must be known to push it: images, and artifacts of whatever type.

use bytes::Bytes;
use capstan_sdk::oci::media::{DOCKER_INDEX, DOCKER_MANIFEST, Kind, OCI_INDEX, OCI_MANIFEST};
use capstan_sdk::oci::{RawDescriptor, from_object};
use capstan_sdk::{Descriptor, Error, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::registry::Subject;

/// Artifacts of a draft of OCI 1.1, which some registries still have.
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

/// Docker's old manifests, of which no digest covers what they mean.
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// More descriptors than any real document has.
const MAX_PARTS: usize = 1000;

/// What a descriptor points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A document that lists documents.
    Index,
    /// A document that lists blobs.
    Manifest,
    /// A blob that tells how to use others.
    Config,
    /// A layer; `is_foreign`: registries may not have it.
    Layer {
        /// Whether it must not be passed on.
        is_foreign: bool,
    },
    /// Any other blob.
    Blob,
}

impl Role {
    /// What a media type alone says.
    ///
    /// # Errors
    /// `Unimplemented`: Docker's schema 1.
    pub(crate) fn of(media_type: &str) -> Result<Self> {
        match media_type {
            OCI_INDEX | DOCKER_INDEX => Ok(Self::Index),
            OCI_MANIFEST | DOCKER_MANIFEST | OCI_ARTIFACT => Ok(Self::Manifest),
            old if old.starts_with(DOCKER_SCHEMA1) => Err(Error::unimplemented(
                "the image is in Docker's old schema 1, which has no safe digests; \
                 build it again with a current tool",
            )),
            other => match Kind::of(other) {
                Ok(Kind::Layer(layer)) => Ok(Self::Layer { is_foreign: layer.is_foreign }),
                _ => Ok(Self::Blob),
            },
        }
    }

    /// Whether it is a manifest or an index.
    pub(crate) fn is_document(self) -> bool {
        matches!(self, Self::Index | Self::Manifest)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Layer { .. } => "layer",
            Self::Blob => "blob",
        }
    }
}

/// One descriptor of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) role: Role,
    pub(crate) descriptor: Descriptor,
}

impl Part {
    /// Its name in progress: `layer-sha256:...`.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.role.word(), self.descriptor.digest)
    }
}

/// A document that is here.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) role: Role,
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Bytes,
    /// In the document's order; the configuration first.
    pub(crate) parts: Vec<Part>,
    pub(crate) subject: Option<Subject>,
    /// How many documents stand below it, one below the other.
    pub(crate) height: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    blobs: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    artifact_type: Option<String>,
    annotations: Option<Value>,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// `Corrupt`: it is not what its media type says, or could be read as two kinds. `Unimplemented`: Docker's schema 1.
    /// `InvalidArgument`: a media type of something else.
    pub(crate) fn parse(descriptor: Descriptor, bytes: Bytes) -> Result<Self> {
        let Descriptor { media_type, digest, .. } = &descriptor;
        let role = Role::of(media_type)?;
        let bad =
            |why: &str| Error::corrupt(format!("document {digest} of type {media_type}: {why}"));
        if !role.is_document() {
            return Err(Error::invalid(format!("{digest} of type {media_type:?} is no manifest")));
        }
        let raw: Raw = from_object(&bytes).map_err(|error| bad(&error.to_string()))?;
        let is_artifact = media_type == OCI_ARTIFACT;
        if raw.schema_version != Some(2) && !(is_artifact && raw.schema_version.is_none()) {
            return Err(bad("its schemaVersion is not 2"));
        }
        if raw.media_type.as_ref().is_some_and(|own| own != media_type) {
            return Err(bad("it calls itself something else"));
        }
        let has = (raw.manifests.is_some(), raw.config.is_some(), raw.layers.is_some());
        let fits = match role {
            Role::Index => has == (true, false, false) && raw.blobs.is_none(),
            _ if is_artifact => has == (false, false, false),
            _ => has == (false, true, true) && raw.blobs.is_none(),
        };
        if !fits {
            return Err(bad("it lacks what its type has, or has what another type has"));
        }
        let mut parts = Vec::new();
        let mut config_type = String::new();
        if let Some(config) = raw.config {
            let descriptor = config.read().map_err(|error| bad(error.message()))?;
            config_type.clone_from(&descriptor.media_type);
            parts.push(Part { role: Role::Config, descriptor });
        }
        let lists = [raw.manifests, raw.layers, raw.blobs].into_iter().flatten().flatten();
        for part in lists {
            if parts.len() > MAX_PARTS {
                return Err(bad(&format!("it has more than {MAX_PARTS} parts")));
            }
            let descriptor = part.read().map_err(|error| bad(error.message()))?;
            let part = match Role::of(&descriptor.media_type)? {
                named if named.is_document() && role == Role::Manifest => Role::Blob,
                named => named,
            };
            parts.push(Part { role: part, descriptor });
        }
        let subject = match raw.subject {
            Some(subject) => Some(Subject {
                digest: subject.read().map_err(|error| bad(error.message()))?.digest,
                artifact_type: match raw.artifact_type.filter(|named| !named.is_empty()) {
                    Some(named) => named,
                    None => config_type,
                },
                annotations: raw.annotations.unwrap_or_default(),
            }),
            None => None,
        };
        Ok(Self { role, descriptor, bytes, parts, subject, height: 0 })
    }

    /// Itself, as a part of something.
    pub(crate) fn part(&self) -> Part {
        Part { role: self.role, descriptor: self.descriptor.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::oci::media::{OCI_CONFIG, OCI_LAYER};
    use capstan_sdk::{Algorithm, Class};

    fn entry(media_type: &str, digit: char) -> String {
        let hex = digit.to_string().repeat(64);
        format!("{{\"mediaType\":\"{media_type}\",\"digest\":\"sha256:{hex}\",\"size\":3}}")
    }

    fn parse(media_type: &str, json: &str) -> Result<Document> {
        let descriptor = Descriptor {
            media_type: media_type.into(),
            digest: crate::registry::hash(Algorithm::Sha256, json.as_bytes()),
            size: json.len() as u64,
            platform: None,
        };
        Document::parse(descriptor, Bytes::copy_from_slice(json.as_bytes()))
    }

    fn check(media_type: &str, json: &str, want: std::result::Result<&[&str], Class>) {
        let got = parse(media_type, json).map_err(|error| error.class());
        let got = got.map(|document| -> Vec<String> {
            document.parts.iter().map(|part| part.role.word().to_owned()).collect()
        });
        let want = want.map(|roles| roles.iter().map(|role| (*role).to_owned()).collect());
        assert_eq!(got, want, "{json}");
    }

    #[test]
    fn documents_are_read_for_what_stands_below_them() {
        let (config, layer, text) =
            (entry(OCI_CONFIG, '1'), entry(OCI_LAYER, '2'), entry("text/plain", '3'));
        let (child, inner) = (entry(OCI_MANIFEST, '4'), entry(OCI_INDEX, '5'));
        let of = |body: &str| format!("{{\"schemaVersion\":2,{body}}}");
        let manifest = of(&format!("\"config\":{config},\"layers\":[{layer}]"));
        check(OCI_MANIFEST, &manifest, Ok(&["config", "layer"]));
        let artifact = of(&format!("\"config\":{text},\"layers\":[{text},{layer},{child}]"));
        // What a manifest lists are blobs, whatever they are called.
        check(OCI_MANIFEST, &artifact, Ok(&["config", "blob", "layer", "blob"]));
        let index = of(&format!("\"manifests\":[{child},{inner},{text}]"));
        check(OCI_INDEX, &index, Ok(&["manifest", "index", "blob"]));
        let draft = format!("{{\"mediaType\":\"{OCI_ARTIFACT}\",\"blobs\":[{text}]}}");
        check(OCI_ARTIFACT, &draft, Ok(&["blob"]));
        check(OCI_ARTIFACT, "{}", Ok(&[]));

        let corrupt = Err(Class::Corrupt);
        check(OCI_INDEX, &manifest, corrupt);
        check(OCI_MANIFEST, &index, corrupt);
        check(OCI_ARTIFACT, &manifest, corrupt);
        check(OCI_MANIFEST, &draft, corrupt);
        check(OCI_MANIFEST, &of(&format!("\"layers\":[{layer}]")), corrupt);
        let both = format!("\"config\":{config},\"layers\":[],\"manifests\":[]");
        check(OCI_MANIFEST, &of(&both), corrupt);
        check(OCI_INDEX, &of(&both), corrupt);
        check(OCI_MANIFEST, &manifest.replace("n\":2", "n\":1"), corrupt);
        check(OCI_MANIFEST, &format!("[2,null,null,{config},[],null,null,null,null]"), corrupt);
        check(OCI_MANIFEST, "", corrupt);
        let own = of(&format!("\"mediaType\":\"{OCI_INDEX}\",\"config\":{config},\"layers\":[]"));
        check(OCI_MANIFEST, &own, corrupt);
        let twice = of(&format!("\"config\":{config},\"layers\":[],\"layers\":[{layer}]"));
        check(OCI_MANIFEST, &twice, corrupt);
        let many = vec![layer.as_str(); 1001].join(",");
        check(OCI_MANIFEST, &of(&format!("\"config\":{config},\"layers\":[{many}]")), corrupt);
        let old = entry("application/vnd.docker.distribution.manifest.v1+prettyjws", '6');
        check(OCI_INDEX, &of(&format!("\"manifests\":[{old}]")), Err(Class::Unimplemented));
        check("text/plain", &manifest, Err(Class::InvalidArgument));
    }

    #[test]
    fn a_subject_is_told_with_what_refers_to_it() {
        let (config, subject) = (entry("text/x", '1'), entry(OCI_MANIFEST, '2'));
        let check = |more: &str, artifact_type: &str, annotations: Value| {
            let json = format!(
                "{{\"schemaVersion\":2,\"config\":{config},\"layers\":[],\"subject\":{subject}{more}}}"
            );
            let got = parse(OCI_MANIFEST, &json).unwrap().subject.unwrap();
            assert!(got.digest.hex().starts_with('2'));
            assert_eq!((got.artifact_type.as_str(), got.annotations), (artifact_type, annotations));
        };
        check("", "text/x", Value::Null);
        check(",\"artifactType\":\"\"", "text/x", Value::Null);
        let more = ",\"artifactType\":\"text/y\",\"annotations\":{\"a\":\"b\"}";
        check(more, "text/y", serde_json::json!({ "a": "b" }));
    }
}
