//! Layers that their registry must not pass on, and that are elsewhere: the URLs are in the image's manifest.
//!
//! Whoever made the image chose these hosts. So they are asked only if the settings say so, never told who asks, and not
//! followed to where a redirect would not be followed to.

use capstan_sdk::{Class, Error, Result};

use super::BlobStream;
use super::Repository;
use super::endpoint::Endpoint;
use super::exchange::{Ask, send};
use super::hosts::Capability;
use super::retry::Failure;
use super::url::{Scheme, Url};

/// URLs of one blob that are tried: more than any real image has.
const MAX_URLS: usize = 8;

impl Repository {
    /// What to do when the registry does not have a blob: ask elsewhere, if it may be there.
    ///
    /// # Errors
    /// `failure`, if it can only be here. `FailedPrecondition`: the settings say not to ask elsewhere. Else as of
    /// [`Repository::download`].
    pub(super) async fn try_elsewhere(
        &self,
        what: &str,
        failure: Failure,
        offset: u64,
        size: u64,
    ) -> Result<BlobStream, Failure> {
        if failure.error.class() != Class::NotFound || self.elsewhere.is_empty() {
            return Err(failure);
        }
        let endpoint = self.endpoints(Capability::Pull).pop();
        let Some(endpoint) = endpoint.filter(|_| self.config().follows_foreign_layers) else {
            let host = self.elsewhere.first().and_then(|url| Url::parse(url));
            let host = host.map_or_else(|| "elsewhere".to_owned(), |url| format!("at {url}"));
            return Err(Failure::from(Error::precondition(format!(
                "{what}: the registry does not have it, its manifest says that it is {host}; to fetch such layers set \
                 foreign_layers = true in [plugins.\"transfer.local\"]"
            ))));
        };
        let mut last = failure;
        for text in self.elsewhere.iter().take(MAX_URLS) {
            let found = match place(text, &endpoint) {
                Ok(url) => self.blob_at(what, url, &endpoint, offset, size).await,
                Err(error) => Err(Failure::from(error.at(what))),
            };
            match found {
                Ok(stream) => return Ok(stream),
                // One that is in trouble may be well again when all are asked again.
                Err(failure) if last.error.class() != Class::Unavailable => last = failure,
                Err(_) => {}
            }
        }
        Err(last)
    }

    async fn blob_at(
        &self,
        what: &str,
        url: Url,
        endpoint: &Endpoint,
        offset: u64,
        size: u64,
    ) -> Result<BlobStream, Failure> {
        let ask = Ask { url, offset: Some(offset), ..Ask::get(what, endpoint, "/v2/") };
        let answer = send(&self.pool, &ask).await?;
        Ok(BlobStream::new(what.to_owned(), answer, offset, size)?)
    }
}

/// A place that a manifest names.
fn place(text: &str, endpoint: &Endpoint) -> Result<Url> {
    let home = endpoint.origin();
    let url = Url::parse(text)
        .ok_or_else(|| Error::precondition("its manifest says that it is at no URL of http"))?;
    if url.is_same_origin(home) {
        // It would be told who asks, for something that is none of its repositories.
        return Err(Error::precondition("its manifest says that it is at its own registry"));
    }
    match (home.scheme, url.scheme) {
        (Scheme::Https, Scheme::Http) => Err(Error::precondition(format!(
            "its manifest leads from https to {url}, which is refused"
        ))),
        _ => Ok(url),
    }
}
