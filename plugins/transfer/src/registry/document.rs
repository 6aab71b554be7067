//! Manifests and indexes into a registry, and single objects out of it, of whatever type they are.

use bytes::Bytes;
use capstan_sdk::oci::media::OCI_INDEX;
use capstan_sdk::{Algorithm, Class, Descriptor, Digest, Error, Result};
use hyper::header;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::endpoint::Endpoint;
use super::exchange::{Ask, send};
use super::hosts::Capability;
use super::pool::all;
use super::repository::{Resolved, media_type};
use super::retry::{Failure, retry};
use super::upload::{check_digest, finish, value};
use super::{Repository, hash};

/// Documents that we know, before any other.
const ACCEPT_ANY: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*";

/// The header by which a registry says that it keeps track of what refers to what.
const OCI_SUBJECT: &str = "oci-subject";

/// What a document refers to, and what it says of itself there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// What it refers to.
    pub(crate) digest: Digest,
    /// What it is; empty = nothing is said.
    pub(crate) artifact_type: String,
    /// Its annotations: an object.
    pub(crate) annotations: Value,
}

/// What a registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// A document, verified.
    Document(Descriptor, Bytes),
    /// A blob, still to come.
    Blob(Descriptor),
}

/// The tag under which a registry that knows nothing of subjects has the list of what refers to one (OCI
/// distribution-spec 1.1, "Referrers Tag Schema").
pub(super) fn referrers_tag(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}", digest.algorithm().name(), &hex[..hex.len().min(64)])
}

impl Repository {
    /// Whether the repository has a document.
    ///
    /// # Errors
    /// As [`Repository::has_blob`].
    pub(crate) async fn has_document(&self, digest: &Digest) -> Result<bool> {
        let what = self.name("manifest", digest);
        let ask = Ask { accept: ACCEPT_ANY, ..self.ask(&what, &format!("manifests/{digest}"))? };
        self.has(ask).await
    }

    /// Stores a document under its digest, or under a tag, which means it from now on. Where it refers to another one
    /// and the registry does not keep track of that, the list that others look at is kept.
    ///
    /// # Errors
    /// As [`Repository::push_blob`]; `NotFound` or `FailedPrecondition` also if the registry does not have what the document
    /// needs.
    pub(crate) async fn put_document(
        &self,
        tag: Option<&str>,
        document: &Descriptor,
        bytes: &Bytes,
        subject: Option<&Subject>,
    ) -> Result<()> {
        let what = self.name("manifest", &document.digest);
        let name = tag.unwrap_or(document.digest.as_str());
        let put = || self.try_put(&what, name, document, bytes, None);
        let knows_subjects = retry(self.config(), put).await?;
        match subject {
            Some(subject) if !knows_subjects => {
                retry(self.config(), || self.try_refer(&what, document, subject)).await
            }
            _ => Ok(()),
        }
    }

    /// Answers whether the registry keeps track of what the document refers to. With an `etag`, only that is
    /// overwritten.
    async fn try_put(
        &self,
        what: &str,
        name: &str,
        document: &Descriptor,
        bytes: &Bytes,
        etag: Option<&str>,
    ) -> Result<bool, Failure> {
        let body = || all(bytes.clone());
        let mut headers = vec![value(header::CONTENT_TYPE, &document.media_type)];
        headers.extend(etag.map(|etag| value(header::IF_MATCH, etag)));
        let ask = Ask {
            method: Method::PUT,
            headers,
            body: Some(&body),
            good: &[StatusCode::CREATED, StatusCode::OK, StatusCode::PRECONDITION_FAILED],
            ..self.ask(what, &format!("manifests/{name}"))?
        };
        let answer = send(&self.pool, &ask).await?;
        let (status, headers) = (answer.head.status, answer.head.headers.clone());
        finish(answer).await;
        if status == StatusCode::PRECONDITION_FAILED {
            let error = format!("{what}: somebody else writes {name} too; try again");
            return Err(Failure::from(Error::unavailable(error)));
        }
        check_digest(what, &headers, &document.digest)?;
        Ok(headers.contains_key(OCI_SUBJECT))
    }

    /// Adds a document to the list of what refers to its subject.
    async fn try_refer(
        &self,
        what: &str,
        document: &Descriptor,
        subject: &Subject,
    ) -> Result<(), Failure> {
        let tag = referrers_tag(&subject.digest);
        let what = format!("{what}, in the list {tag} of what refers to its subject");
        let path = format!("manifests/{tag}");
        let ask = Ask { accept: OCI_INDEX, ..self.ask(&what, &path)? };
        let (mut index, etag) = match send(&self.pool, &ask).await {
            Ok(answer) => {
                let headers = answer.head.headers.clone();
                let limit = self.config().max_manifest_bytes;
                let bytes = answer.body.read(limit).await.map_err(|error| error.at(&what))?;
                let index = bytes
                    .filter(|_| media_type(&headers) == OCI_INDEX)
                    .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
                    .filter(|index| index["manifests"].is_array());
                let index = index.ok_or_else(|| {
                    Error::precondition(format!(
                        "{what}: that tag means something else; remove it from the registry"
                    ))
                })?;
                let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
                (index, etag.map(str::to_owned))
            }
            Err(failure) if failure.error.class() == Class::NotFound => {
                let empty = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
                (empty, None)
            }
            Err(failure) => return Err(failure),
        };
        let list = index["manifests"].as_array_mut().expect("it was looked at");
        let digest = document.digest.as_str();
        if list.iter().any(|entry| entry["digest"] == digest) {
            return Ok(());
        }
        let mut entry = json!({
            "mediaType": document.media_type,
            "digest": digest,
            "size": document.size,
        });
        if !subject.artifact_type.is_empty() {
            entry["artifactType"] = json!(subject.artifact_type);
        }
        if subject.annotations.as_object().is_some_and(|annotations| !annotations.is_empty()) {
            entry["annotations"] = subject.annotations.clone();
        }
        list.push(entry);
        let bytes = Bytes::from(index.to_string());
        if bytes.len() as u64 > self.config().max_manifest_bytes {
            let error = format!("{what}: the list would become too long; remove some from it");
            return Err(Failure::from(Error::exhausted(error)));
        }
        let list = Descriptor {
            media_type: OCI_INDEX.into(),
            digest: hash(Algorithm::Sha256, &bytes),
            size: bytes.len() as u64,
            platform: None,
        };
        self.try_put(&what, &tag, &list, &bytes, etag.as_deref()).await.map(drop)
    }

    /// What the reference means: a document by tag or digest, or a blob by digest.
    ///
    /// # Errors
    /// As [`Repository::resolve`], but no type is refused. `FailedPrecondition` also if the registry does not say how large
    /// a blob is.
    pub(crate) async fn object(&self) -> Result<Object> {
        let what = format!("object {}", self.reference);
        let Some(digest) = self.reference.digest() else {
            return retry(self.config(), || self.try_document(&what)).await;
        };
        // Debian's registry is in trouble if it is asked for a blob as a document.
        let missing = match self.try_document(&what).await {
            Ok(document) => return Ok(document),
            Err(Failure { error, .. }) => match error.class() {
                Class::NotFound | Class::Unavailable => error,
                _ => return Err(error),
            },
        };
        match retry(self.config(), || self.try_find(&what, digest)).await {
            Err(error) if error.class() == Class::NotFound => match missing.class() {
                Class::NotFound => Err(missing),
                _ => retry(self.config(), || self.try_document(&what)).await,
            },
            blob => blob.map(Object::Blob),
        }
    }

    async fn try_document(&self, what: &str) -> Result<Object, Failure> {
        let name = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.expect("a reference has a tag or a digest"),
        };
        let path = format!("/v2/{}/manifests/{name}", self.reference.repository());
        let path = &path;
        let find = |endpoint: Endpoint| async move {
            let ask = Ask { accept: ACCEPT_ANY, ..Ask::get(what, &endpoint, path) };
            send(&self.pool, &ask).await
        };
        let capability = match self.reference.digest() {
            Some(_) => Capability::Pull,
            None => Capability::Resolve,
        };
        let answer = self.first(capability, find).await?;
        let Resolved { descriptor, bytes } = self.received(what, answer).await?;
        Ok(Object::Document(descriptor, bytes))
    }

    /// Looks for a blob.
    async fn try_find(&self, what: &str, digest: &Digest) -> Result<Descriptor, Failure> {
        let path = format!("/v2/{}/blobs/{digest}", self.reference.repository());
        let path = &path;
        let find = |endpoint: Endpoint| async move {
            let ask = Ask { method: Method::HEAD, ..Ask::get(what, &endpoint, path) };
            send(&self.pool, &ask).await
        };
        let answer = self.first(Capability::Pull, find).await?;
        let headers = answer.head.headers.clone();
        finish(answer).await;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let size = length.and_then(|length| length.parse().ok()).ok_or_else(|| {
            Error::precondition(format!("{what}: the registry does not say how large it is"))
        })?;
        let media_type = match media_type(&headers) {
            said if said.is_empty() => "application/octet-stream".to_owned(),
            said => said,
        };
        Ok(Descriptor { media_type, digest: digest.clone(), size, platform: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_referrers_fits_into_a_tag() {
        let check = |digest: &str, want: &str| {
            assert_eq!(referrers_tag(&Digest::parse(digest).unwrap()), want);
        };
        let (short, long) = ("a".repeat(64), "b".repeat(128));
        check(&format!("sha256:{short}"), &format!("sha256-{short}"));
        check(&format!("sha512:{long}"), &format!("sha512-{}", "b".repeat(64)));
    }
}
