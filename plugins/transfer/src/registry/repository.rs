//! What a registry is asked for: what a reference means, manifests, blobs.

use std::sync::Arc;

use bytes::Bytes;
use capstan_sdk::contract::access::Access;
use capstan_sdk::{Algorithm, Descriptor, Digest, Error, Result};
use hyper::header;
use hyper::http::uri::Authority;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::Config;
use super::exchange::{Ask, send};
use super::pool::{Answer, Pool};
use super::retry::{Failure, retry};
use capstan_sdk::Reference;
use capstan_sdk::oci::media::{self, Kind};

/// The header with the digest of what is sent, by the registry's word.
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// The client, with the connections that it keeps for their next use. Clones share them; they
/// close with the last clone, so one client per pull leaves nothing open between pulls.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pool: Arc<Pool>,
}

/// What a reference means just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// A manifest or an index; its digest is that of `bytes`.
    pub(crate) descriptor: Descriptor,
    /// The document.
    pub(crate) bytes: Bytes,
}

/// The place that a reference names. Clones are cheap, and may be used at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(super) pool: Arc<Pool>,
    pub(super) host: Authority,
    pub(super) reference: Reference,
    access: Access,
}

impl Registry {
    /// A client without connections.
    pub(crate) fn new(config: Config) -> Self {
        Self { pool: Arc::new(Pool::new(config)) }
    }

    /// The place that `reference` names. Nothing is sent yet.
    ///
    /// # Errors
    /// `Unimplemented`: https.
    pub(crate) fn repository(&self, reference: &Reference, access: &Access) -> Result<Repository> {
        if !access.is_plain_http {
            return Err(Error::unimplemented(format!(
                "image {reference}: https registries are not built in yet; \
                 use --plain-http for a registry on your own network"
            )));
        }
        let host = reference.host().parse().map_err(|error| {
            Error::invalid(format!("image {reference}: the host does not fit into a URL: {error}"))
        })?;
        let (pool, reference) = (Arc::clone(&self.pool), reference.clone());
        Ok(Repository { pool, host, reference, access: access.clone() })
    }
}

impl Repository {
    /// `http://host/repository`.
    pub(crate) fn source(&self) -> String {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let scheme = if self.access.is_plain_http { "http" } else { "https" };
        format!("{scheme}://{host}/{repository}")
    }

    /// Finds out what the reference means: by its digest if it has one, else by its tag.
    ///
    /// The document comes along: a registry's word for a digest is worth nothing without it.
    ///
    /// # Errors
    /// - `NotFound`: the registry has no such image.
    /// - `PermissionDenied`: it wants credentials.
    /// - `Unavailable`: it cannot be reached, breaks off, or is in trouble, after all attempts.
    /// - `Corrupt`: the document does not have the digest that was asked for or announced.
    /// - `Unimplemented`: the document is no manifest or index that is understood.
    /// - `ResourceExhausted`: the document is larger than the limit.
    /// - `FailedPrecondition`: what answers is no registry, or is set up wrong.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        let what = format!("image {}", self.reference);
        retry(self.config(), || self.try_resolve(&what)).await
    }

    /// Gets a manifest or an index by its descriptor, and verifies it.
    ///
    /// Its media type is the descriptor's: that one was verified with the document that it
    /// stands in, which the registry's word for it now is not.
    ///
    /// # Errors
    /// As [`Repository::resolve`]; `Corrupt` also if the size is another one.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let what = self.name_of("manifest", descriptor);
        if descriptor.size > self.config().max_manifest_bytes {
            return Err(self.too_large(&what));
        }
        retry(self.config(), || self.try_manifest(&what, descriptor)).await
    }

    pub(super) fn config(&self) -> &Config {
        self.pool.config()
    }

    pub(super) fn name_of(&self, kind: &str, descriptor: &Descriptor) -> String {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        format!("{kind} {} of {host}/{repository}", descriptor.digest)
    }

    fn too_large(&self, what: &str) -> Error {
        let limit = self.config().max_manifest_bytes;
        Error::exhausted(format!("{what}: it is larger than {limit} bytes, the limit of manifests"))
    }

    async fn try_resolve(&self, what: &str) -> Result<Resolved, Failure> {
        let name = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.expect("a reference has a tag or a digest"),
        };
        let answer = self.get_manifest(what, name).await?;
        let header = |name: &str| answer.head.headers.get(name)?.to_str().ok();
        let media_type = header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let claimed = header(DOCKER_CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());

        let kind = Kind::of(&media_type).map_err(|error| error.at(what))?;
        if !matches!(kind, Kind::Manifest | Kind::Index) {
            return Err(Failure::from(Error::corrupt(format!(
                "{what}: the registry calls it {media_type:?}, which is no image"
            ))));
        }
        let limit = self.config().max_manifest_bytes;
        let bytes = answer.body.read(limit).await.map_err(|error| error.at(what))?;
        let bytes = bytes.ok_or_else(|| self.too_large(what))?;
        let digest = match self.reference.digest().cloned().or(claimed) {
            Some(digest) => {
                verify(what, &bytes, &digest)?;
                digest
            }
            None => hash(Algorithm::Sha256, &bytes),
        };
        let size = bytes.len() as u64;
        let descriptor = Descriptor { media_type, digest, size, platform: None };
        Ok(Resolved { descriptor, bytes })
    }

    async fn try_manifest(&self, what: &str, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        let Descriptor { digest, size, .. } = descriptor;
        let answer = self.get_manifest(what, digest.as_str()).await?;
        let bytes = answer.body.read(*size).await.map_err(|error| error.at(what))?;
        let bytes = bytes.filter(|bytes| bytes.len() as u64 == *size).ok_or_else(|| {
            Error::corrupt(format!("{what}: it does not have the {size} bytes that it should"))
        })?;
        verify(what, &bytes, digest)?;
        Ok(bytes)
    }

    /// `name` is a tag or a digest.
    async fn get_manifest(&self, what: &str, name: &str) -> Result<Answer, Failure> {
        let path = format!("/v2/{}/manifests/{name}", self.reference.repository());
        let accept = media::ACCEPT_MANIFESTS;
        send(&self.pool, &Ask { accept, ..Ask::get(what, &self.host, &path) }).await
    }
}

pub(super) fn verify(what: &str, bytes: &[u8], want: &Digest) -> Result<()> {
    let got = hash(want.algorithm(), bytes);
    match got == *want {
        true => Ok(()),
        false => Err(Error::corrupt(format!(
            "{what}: the registry sent {got} in place of {want}; do not trust it"
        ))),
    }
}

pub(crate) fn hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hash = Hash::new(algorithm);
    hash.update(bytes);
    hash.finish()
}

/// A hash under way.
pub(crate) enum Hash {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hash {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::from_hash(Algorithm::Sha256, &hash.finalize()),
            Self::Sha384(hash) => Digest::from_hash(Algorithm::Sha384, &hash.finalize()),
            Self::Sha512(hash) => Digest::from_hash(Algorithm::Sha512, &hash.finalize()),
        }
    }
}
