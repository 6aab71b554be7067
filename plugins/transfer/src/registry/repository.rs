//! What a registry is asked for: what a reference means, manifests, blobs.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use capstan_sdk::contract::access::Access;
use capstan_sdk::{Algorithm, Class, Descriptor, Digest, Error, Result};
use hyper::header::{self, HeaderMap};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tracing::debug;

use super::Config;
use super::auth::Auth;
use super::endpoint::Endpoint;
use super::exchange::{Ask, send};
use super::hosts::{Capability, hosts};
use super::pool::{Answer, Limits, Pool};
use super::retry::{Failure, retry};
use capstan_sdk::Reference;
use capstan_sdk::oci::media::{self, Kind};

/// The header with the digest of what is sent or was taken, by the registry's word.
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// The client, with the connections that it keeps for their next use, and what it was told as whom it comes.
/// Clones share them; they close with the last clone, so one client per pull leaves nothing open between pulls.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pool: Arc<Pool>,
    auths: Arc<Mutex<Vec<Arc<Auth>>>>,
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
    /// Who is asked, and in which order: the registry itself comes last.
    endpoints: Arc<[Endpoint]>,
    /// Who is pushed to.
    pushed_to: Option<Endpoint>,
    pub(super) reference: Reference,
    access: Access,
    /// Where a blob may be that the registry must not pass on.
    pub(super) elsewhere: Arc<[String]>,
}

impl Registry {
    /// A client without connections.
    pub(crate) fn new(config: Config) -> Self {
        let limits = Arc::new(Limits::new(&config));
        Self { pool: Arc::new(Pool::new(config, limits)), auths: Arc::default() }
    }

    /// Another client, for somebody else. It shares the limits on connections with this one, and nothing else.
    pub(crate) fn another(&self) -> Self {
        let (config, limits) = (self.pool.config().clone(), Arc::clone(self.pool.limits()));
        Self { pool: Arc::new(Pool::new(config, limits)), auths: Arc::default() }
    }

    /// The place that `reference` names. Nothing is sent yet.
    ///
    /// # Errors
    /// `FailedPrecondition`: the settings of the host are not as they should be.
    pub(crate) fn repository(&self, reference: &Reference, access: &Access) -> Result<Repository> {
        let auth = {
            let client = access.credentials.as_ref();
            let mut auths = self.auths.lock().unwrap_or_else(PoisonError::into_inner);
            let known = auths.iter().find(|auth| auth.is_for(client)).cloned();
            known.unwrap_or_else(|| {
                let file = self.pool.config().credentials_file.clone();
                let auth = Arc::new(Auth::new(client.cloned(), file));
                auths.push(Arc::clone(&auth));
                auth
            })
        };
        let (dir, name) = (&self.pool.config().hosts_dir, reference.host());
        let hosts = hosts(dir, name, access.is_plain_http, access.skips_verify);
        let hosts = hosts.map_err(|error| error.at(format_args!("image {reference}")))?;
        let last = hosts.len() - 1;
        let endpoints = hosts
            .into_iter()
            .enumerate()
            .map(|(index, host)| Endpoint::new(host, name, index == last, Arc::clone(&auth)));
        let endpoints: Arc<[Endpoint]> = endpoints.collect();
        let (pool, reference) = (Arc::clone(&self.pool), reference.clone());
        let can_be_pushed_to = |endpoint: &&Endpoint| endpoint.can(Capability::Push);
        let pushed_to = endpoints.iter().find(can_be_pushed_to).map(Endpoint::pushed_to);
        let (access, elsewhere) = (access.clone(), Arc::default());
        Ok(Repository { pool, endpoints, pushed_to, reference, access, elsewhere })
    }
}

impl Repository {
    /// `http://host/repository`.
    pub(crate) fn source(&self) -> String {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let scheme = if self.access.is_plain_http { "http" } else { "https" };
        format!("{scheme}://{host}/{repository}")
    }

    /// The same place, for a blob that may be at these URLs if it is not here.
    pub(crate) fn or_elsewhere(&self, urls: Vec<String>) -> Self {
        Self { elsewhere: urls.into(), ..self.clone() }
    }

    /// The same repository, for what one of its tags means.
    ///
    /// # Errors
    /// `InvalidArgument`: it is no tag.
    pub(crate) fn of_tag(&self, tag: &str) -> Result<Self> {
        Ok(Self { reference: self.reference.with_tag(tag)?, ..self.clone() })
    }

    /// Whether it is the same place, reached by the same one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let is_same_client = match (&self.access.credentials, &other.access.credentials) {
            (Some(own), Some(other)) => own.same_channel(other),
            (None, None) => true,
            _ => false,
        };
        is_same_client && self.source() == other.source()
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
        let what = self.name("manifest", &descriptor.digest);
        if descriptor.size > self.config().max_manifest_bytes {
            return Err(self.too_large(&what));
        }
        retry(self.config(), || self.try_manifest(&what, descriptor)).await
    }

    /// Who may be asked for something, first those to be asked first: in the order of the settings, but those that
    /// failed lately last.
    pub(super) fn endpoints(&self, capability: Capability) -> Vec<Endpoint> {
        let can = self.endpoints.iter().filter(|endpoint| endpoint.can(capability));
        let (late, soon): (Vec<_>, Vec<_>) = can.cloned().partition(Endpoint::is_shunned);
        soon.into_iter().chain(late).collect()
    }

    /// Asks one after the other until somebody has it.
    ///
    /// # Errors
    /// What the registry itself says, if that is final; else what passes, so that all are asked again; else what the
    /// last one says. `FailedPrecondition`: nobody may be asked.
    pub(super) async fn first<T, F>(
        &self,
        capability: Capability,
        attempt: impl Fn(Endpoint) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut failures: Vec<(bool, Failure)> = Vec::new();
        for endpoint in self.endpoints(capability) {
            match attempt(endpoint.clone()).await {
                Ok(done) => return Ok(done),
                Err(failure) => {
                    debug!(host = %endpoint.origin(), error = %failure.error, "a host fails");
                    failures.push((endpoint.is_server(), failure));
                }
            }
        }
        let passes = |failure: &Failure| failure.error.class() == Class::Unavailable;
        let decisive = failures
            .iter()
            .position(|(is_server, failure)| *is_server && !passes(failure))
            .or_else(|| failures.iter().position(|(_, failure)| passes(failure)))
            .or_else(|| failures.len().checked_sub(1));
        let Some(decisive) = decisive else { return Err(self.nobody(capability).into()) };
        let (_, failure) = failures.swap_remove(decisive);
        let mut text = failure.error.message().to_owned();
        for (_, other) in &failures {
            text.push_str(&format!("; and {}", other.error.message()));
        }
        Err(Failure { error: Error::new(failure.error.class(), text), ..failure })
    }

    /// The registry itself.
    pub(super) fn home(&self) -> &Endpoint {
        self.endpoints.last().expect("there is a host for every reference")
    }

    fn nobody(&self, capability: Capability) -> Error {
        let (host, dir) = (self.reference.host(), &self.config().hosts_dir);
        Error::precondition(format!(
            "image {}: no host may be asked to {}; correct the capabilities in {}",
            self.reference,
            capability.name(),
            dir.join(host).join("hosts.toml").display()
        ))
    }

    /// Who is pushed to: one host, since what one has the others lack.
    ///
    /// # Errors
    /// `FailedPrecondition`: the settings of the host let nobody be pushed to.
    pub(super) fn pushed_to(&self) -> Result<&Endpoint> {
        self.pushed_to.as_ref().ok_or_else(|| self.nobody(Capability::Push))
    }

    pub(super) fn config(&self) -> &Config {
        self.pool.config()
    }

    pub(super) fn name(&self, kind: &str, digest: &Digest) -> String {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        format!("{kind} {digest} of {host}/{repository}")
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
        let capability = match self.reference.digest() {
            Some(_) => Capability::Pull,
            None => Capability::Resolve,
        };
        self.first(capability, |endpoint| self.resolve_at(endpoint, what, name)).await
    }

    async fn resolve_at(
        &self,
        endpoint: Endpoint,
        what: &str,
        name: &str,
    ) -> Result<Resolved, Failure> {
        let answer = self.get_manifest(&endpoint, what, name).await?;
        let media_type = media_type(&answer.head.headers);
        let kind = Kind::of(&media_type).map_err(|error| error.at(what))?;
        if !matches!(kind, Kind::Manifest | Kind::Index) {
            return Err(Failure::from(Error::corrupt(format!(
                "{what}: the registry calls it {media_type:?}, which is no image"
            ))));
        }
        Ok(self.received(what, answer).await?)
    }

    /// The document of an answer, verified by the digest of the reference, else by the one that the registry tells.
    ///
    /// # Errors
    /// `ResourceExhausted`: it is larger than documents may be. `Corrupt`: it has another digest. `Unavailable`: it breaks off.
    pub(super) async fn received(&self, what: &str, answer: Answer) -> Result<Resolved> {
        let media_type = media_type(&answer.head.headers);
        let claimed = claimed_digest(&answer.head.headers);
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
        self.first(Capability::Pull, |endpoint| async move {
            let answer = self.get_manifest(&endpoint, what, digest.as_str()).await?;
            let bytes = answer.body.read(*size).await.map_err(|error| error.at(what))?;
            let bytes = bytes.filter(|bytes| bytes.len() as u64 == *size).ok_or_else(|| {
                Error::corrupt(format!("{what}: it does not have the {size} bytes that it should"))
            })?;
            verify(what, &bytes, digest)?;
            Ok(bytes)
        })
        .await
    }

    /// `name` is a tag or a digest.
    async fn get_manifest(
        &self,
        endpoint: &Endpoint,
        what: &str,
        name: &str,
    ) -> Result<Answer, Failure> {
        let path = format!("/v2/{}/manifests/{name}", self.reference.repository());
        let accept = media::ACCEPT_MANIFESTS;
        send(&self.pool, &Ask { accept, ..Ask::get(what, endpoint, &path) }).await
    }
}

/// What the registry calls it, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let said = headers.get(header::CONTENT_TYPE).and_then(|said| said.to_str().ok());
    said.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned()
}

/// The digest by the registry's word; `None`: it gives none that is one.
pub(super) fn claimed_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?).ok()
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
