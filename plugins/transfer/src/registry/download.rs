//! Blobs from a registry: all of one, in order, over breaks.

use bytes::Bytes;
use capstan_sdk::{Descriptor, Error, Result};

use super::exchange::{Ask, send};
use super::hosts::Capability;
#[cfg(test)]
use super::retry::retry;
use super::retry::{Attempts, Failure};
use super::{BlobStream, Repository};

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
        let (what, path) = (&what, &path);
        let found = self
            .first(Capability::Pull, |endpoint| async move {
                let ask = Ask { offset: Some(offset), ..Ask::get(what, &endpoint, path) };
                let answer = send(&self.pool, &ask).await?;
                Ok(BlobStream::new(what.clone(), answer, offset, size)?)
            })
            .await;
        match found {
            Err(failure) => self.try_elsewhere(what, failure, offset, size).await,
            found => found,
        }
    }
}
