//! Blobs from a registry: all of one, in order, over breaks; a large one by several ranges at once.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use capstan_sdk::{Descriptor, Error, Result};
use futures::stream::{self, StreamExt as _};
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use tokio::sync::SemaphorePermit;

use super::exchange::{Ask, send};
use super::hosts::Capability;
#[cfg(test)]
use super::retry::retry;
use super::retry::{Attempts, Failure};
use super::{BlobStream, Repository};

/// What a range begins with.
enum Opened {
    Range(BlobStream),
    /// The registry knows no ranges: all of it comes.
    All(BlobStream),
}

/// A range in memory.
struct Range<'a> {
    bytes: Vec<Bytes>,
    _permit: SemaphorePermit<'a>,
}

/// The version of a blob that ranges are of, as far as the registry tells. Ranges of two versions do not mix.
#[derive(Default)]
struct Version(Mutex<Option<HeaderValue>>);

impl Version {
    fn check(&self, what: &str, tag: Option<&HeaderValue>) -> Result<()> {
        let Some(tag) = tag.filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return Ok(()) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some(known) if known != tag => Err(Error::unavailable(format!(
                "{what}: it became another one while it was fetched; try again"
            ))),
            _ => {
                *known = Some(tag.clone());
                Ok(())
            }
        }
    }
}

impl Repository {
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
        let mut opened = None;
        let left = descriptor.size.saturating_sub(start);
        // What may have to be had elsewhere comes in one piece.
        let has_ranges = self.config().range_connections > 1 && self.elsewhere.is_empty();
        if left >= self.config().range_threshold_bytes && has_ranges {
            // On the heap: few blobs are so large, and all would carry it.
            match Box::pin(self.download_ranges(descriptor, start, &mut sink)).await? {
                None => return Ok(()),
                Some(stream) => opened = Some(stream),
            }
        }
        loop {
            let stream = match opened.take() {
                Some(stream) => Ok(stream),
                None => self.try_blob(descriptor, offset).await,
            };
            let failure = match stream {
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

    /// Gives it by ranges, some of which come at the same time. `Some`: the registry knows no ranges, and gives this.
    async fn download_ranges(
        &self,
        descriptor: &Descriptor,
        start: u64,
        sink: &mut impl AsyncFnMut(Bytes) -> Result<()>,
    ) -> Result<Option<BlobStream>> {
        let version = Version::default();
        let (length, end) = (self.config().range_bytes, descriptor.size);
        // The first one alone, to see whether there are ranges at all.
        let first_end = end.min(start + length);
        match self.range(descriptor, start, first_end, &version).await? {
            Ok(range) => give(range, sink).await?,
            Err(all) => return Ok(Some(all)),
        }
        let count = (end - first_end).div_ceil(length);
        let mut ranges = stream::iter(0..count)
            .map(|number| {
                let from = first_end + number * length;
                self.range(descriptor, from, end.min(from + length), &version)
            })
            .buffered(self.config().range_connections);
        while let Some(range) = ranges.next().await {
            match range? {
                Ok(range) => give(range, sink).await?,
                Err(_) => return Err(self.ranges_end(descriptor)),
            }
        }
        Ok(None)
    }

    fn ranges_end(&self, descriptor: &Descriptor) -> Error {
        let what = self.name("blob", &descriptor.digest);
        Error::unavailable(format!("{what}: the registry knows ranges no more; try again"))
    }

    /// One range, over breaks; or all of the blob, where there are no ranges.
    async fn range(
        &self,
        descriptor: &Descriptor,
        from: u64,
        end: u64,
        version: &Version,
    ) -> Result<Result<Range<'_>, BlobStream>> {
        let permit = self.pool.limits().ranges.acquire().await.expect("it is never closed");
        let mut attempts = Attempts::new(self.config());
        let (mut bytes, mut offset) = (Vec::new(), from);
        while offset < end {
            let failure = match self.try_range(descriptor, offset, end, version).await {
                Ok(Opened::All(stream)) if bytes.is_empty() => return Ok(Err(stream)),
                Ok(Opened::All(_)) => Failure::from(self.ranges_end(descriptor)),
                Ok(Opened::Range(mut stream)) => loop {
                    match stream.chunk().await {
                        Ok(Some(chunk)) => bytes.push(chunk),
                        Ok(None) => return Ok(Ok(Range { bytes, _permit: permit })),
                        Err(error) => break Failure::from(error),
                    }
                    offset = stream.offset();
                    attempts.progressed();
                },
                Err(failure) => failure,
            };
            attempts.wait_after(failure).await?;
        }
        Ok(Ok(Range { bytes, _permit: permit }))
    }

    async fn try_range(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        end: u64,
        version: &Version,
    ) -> Result<Opened, Failure> {
        let what = self.name("blob", &descriptor.digest);
        let path = format!("/v2/{}/blobs/{}", self.reference.repository(), descriptor.digest);
        let (what, path, size) = (&what, &path, descriptor.size);
        self.first(Capability::Pull, |endpoint| async move {
            let ask =
                Ask { offset: Some(offset), end: Some(end), ..Ask::get(what, &endpoint, path) };
            let answer = send(&self.pool, &ask).await?;
            if answer.head.status != StatusCode::PARTIAL_CONTENT {
                return Ok(Opened::All(BlobStream::new(what.clone(), answer, offset, size)?));
            }
            version.check(what, answer.head.headers.get(header::ETAG))?;
            Ok(Opened::Range(BlobStream::range(what.clone(), answer, offset, end, size)?))
        })
        .await
    }

    async fn try_blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, Failure> {
        let what = self.name("blob", &descriptor.digest);
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
        let (what, path) = (&what, &path);
        let found = self
            .first(Capability::Pull, |endpoint| async move {
                let ask = Ask { offset: Some(offset), ..Ask::get(what, &endpoint, path) };
                let answer = send(&self.pool, &ask).await?;
                Ok(BlobStream::new(what.clone(), answer, offset, size)?)
            })
            .await;
        match found {
            Err(failure) => Box::pin(self.try_elsewhere(what, failure, offset, size)).await,
            found => found,
        }
    }
}

async fn give(range: Range<'_>, sink: &mut impl AsyncFnMut(Bytes) -> Result<()>) -> Result<()> {
    for bytes in range.bytes {
        sink(bytes).await?;
    }
    Ok(())
}
