//! What a registry is asked for: what a reference means, manifests, blobs.

use std::sync::Arc;

use bytes::Bytes;
use capstan_sdk::{Algorithm, Descriptor, Digest, Error, Result};
use hyper::header;
use hyper::http::uri::Authority;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::exchange::{Get, get};
use super::pool::{Answer, Pool};
use super::retry::{Attempts, Failure, retry};
use super::{BlobStream, Config};
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

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Without TLS: for a registry on this machine or on a network of one's own.
    Http,
    /// With TLS.
    Https,
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
    pool: Arc<Pool>,
    host: Authority,
    reference: Reference,
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
    pub(crate) fn repository(&self, reference: &Reference, scheme: Scheme) -> Result<Repository> {
        if scheme == Scheme::Https {
            return Err(Error::unimplemented(format!(
                "image {reference}: https registries are not built in yet; \
                 use --plain-http for a registry on your own network"
            )));
        }
        let host = reference.host().parse().map_err(|error| {
            Error::invalid(format!("image {reference}: the host does not fit into a URL: {error}"))
        })?;
        Ok(Repository { pool: Arc::clone(&self.pool), host, reference: reference.clone() })
    }
}

impl Scheme {
    /// As in a URL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Repository {
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

    /// Opens a blob at an offset. What comes is not verified.
    ///
    /// # Errors
    /// As [`Repository::resolve`]; `Corrupt` if the registry has another size of it, or sends
    /// another range. `InvalidArgument`: the offset is behind the end.
    #[cfg(test)]
    pub(crate) async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream> {
        retry(self.config(), || self.try_blob(descriptor, offset)).await
    }

    /// Gives a blob from `start` to its end to `sink`, each byte once and in order. When the
    /// registry breaks off it goes on from there, as long as each few attempts bring a byte.
    ///
    /// # Errors
    /// As [`Repository::blob`] and [`BlobStream::chunk`], and those of `sink`, at once.
    ///
    /// # Cancel safety
    /// Dropped before it returns, `sink` has had what it has had.
    pub(crate) async fn download(
        &self,
        descriptor: &Descriptor,
        start: u64,
        mut sink: impl AsyncFnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        let mut attempts = Attempts::new(self.config());
        let mut offset = start;
        loop {
            let failure = match self.try_blob(descriptor, offset).await {
                Ok(mut stream) => loop {
                    match stream.chunk().await {
                        Ok(Some(bytes)) => sink(bytes).await?,
                        Ok(None) => return Ok(()),
                        Err(error) => break Failure::from(error),
                    }
                    offset = stream.offset();
                    attempts.progressed();
                },
                Err(failure) => failure,
            };
            attempts.wait_after(failure).await?;
        }
    }

    fn config(&self) -> &Config {
        self.pool.config()
    }

    fn name_of(&self, kind: &str, descriptor: &Descriptor) -> String {
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

    async fn try_blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, Failure> {
        let what = self.name_of("blob", descriptor);
        let size = descriptor.size;
        if offset > size {
            return Err(Failure::from(Error::invalid(format!(
                "{what}: it ends at {size}, before the offset {offset}"
            ))));
        }
        if offset == size {
            return Ok(BlobStream::ended(what, size));
        }
        let path = format!("/v2/{}/blobs/{}", self.reference.repository(), descriptor.digest);
        let request = Get { what: &what, home: &self.host, path, accept: "", offset: Some(offset) };
        let answer = get(&self.pool, &request).await?;
        Ok(BlobStream::new(what, answer, offset, size)?)
    }

    /// `name` is a tag or a digest.
    async fn get_manifest(&self, what: &str, name: &str) -> Result<Answer, Failure> {
        let path = format!("/v2/{}/manifests/{name}", self.reference.repository());
        let accept = media::ACCEPT_MANIFESTS;
        get(&self.pool, &Get { what, home: &self.host, path, accept, offset: None }).await
    }
}

fn verify(what: &str, bytes: &[u8], want: &Digest) -> Result<()> {
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
