//! The bytes of a blob, from an offset to its end or to that of a range.

use bytes::{Buf as _, Bytes};
use capstan_sdk::{Error, Result};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

use super::pool::{Answer, Body};

/// A blob on its way. Dropped before its end, it closes its connection.
///
/// The bytes are as many as the descriptor says, or there is an error; whether they are the right
/// ones is for the reader to verify.
#[derive(Debug)]
pub(crate) struct BlobStream {
    what: String,
    /// None if nothing is left to come.
    body: Option<Body>,
    /// Bytes before `offset` that come all the same.
    skip: u64,
    offset: u64,
    size: u64,
}

impl BlobStream {
    /// A stream with nothing left to come.
    pub(super) fn ended(what: String, size: u64) -> Self {
        Self { what, body: None, skip: 0, offset: size, size }
    }

    /// The stream that an answer with status 200 or 206 begins.
    ///
    /// # Errors
    /// `Corrupt`: it is another range than was asked for, or of another size.
    pub(super) fn new(what: String, answer: Answer, offset: u64, size: u64) -> Result<Self> {
        let Answer { head, body, .. } = answer;
        let is_part = head.status == StatusCode::PARTIAL_CONTENT;
        if is_part {
            check_range(&what, &head.headers, offset, size, size)?;
        }
        let skip = if is_part { 0 } else { offset };
        let want = size - offset + skip;
        match body.size() {
            Some(got) if got != want => Err(Error::corrupt(format!(
                "{what}: the registry sends {got} bytes where {want} are to come; push it again"
            ))),
            _ => Ok(Self { what, body: Some(body), skip, offset, size }),
        }
    }

    /// The stream of a range that ends at `end`, from an answer with status 206.
    ///
    /// # Errors
    /// As [`BlobStream::new`].
    pub(super) fn range(
        what: String,
        answer: Answer,
        offset: u64,
        end: u64,
        size: u64,
    ) -> Result<Self> {
        let Answer { head, body, .. } = answer;
        check_range(&what, &head.headers, offset, end, size)?;
        match body.size() {
            Some(got) if got != end - offset => Err(Error::corrupt(format!(
                "{what}: the registry sends {got} bytes of the range {offset}-{}",
                end - 1
            ))),
            _ => Ok(Self { what, body: Some(body), skip: 0, offset, size: end }),
        }
    }

    /// How far it is: the offset in the blob behind the last chunk.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes; `None` when the blob is complete.
    ///
    /// # Errors
    /// `Unavailable`: the registry broke off or went silent; a stream from [`BlobStream::offset`]
    /// may bring the rest. `Corrupt`: there are more bytes than the descriptor says.
    ///
    /// # Cancel safety
    /// Dropped before it returns, no byte is lost.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let (what, at, size) = (&self.what, self.offset, self.size);
        loop {
            let chunk = body
                .chunk()
                .await
                .map_err(|error| error.at(format_args!("{what} at {at} of {size} bytes")))?;
            let Some(mut chunk) = chunk else {
                if at == size {
                    return Ok(None);
                }
                return Err(Error::unavailable(format!(
                    "{what}: the registry broke off at {at} of {size} bytes; try again"
                )));
            };
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            chunk.advance(skipped);
            if chunk.is_empty() {
                continue;
            }
            if chunk.len() as u64 > size - at {
                return Err(Error::corrupt(format!(
                    "{what}: the registry sends more than the {size} bytes that its manifest says"
                )));
            }
            self.offset += chunk.len() as u64;
            return Ok(Some(chunk));
        }
    }
}

/// Whether an answer is the range that was asked for.
fn check_range(what: &str, headers: &HeaderMap, offset: u64, end: u64, size: u64) -> Result<()> {
    let want = format!("bytes {offset}-{}/", end - 1);
    let got = content_range(headers);
    let total = got.strip_prefix(&want);
    if total == Some("*") || total == Some(&size.to_string()) {
        return Ok(());
    }
    let shown: String = got.chars().take(100).collect();
    Err(Error::corrupt(format!(
        "{what}: the registry sent the range {shown:?}, not \"{want}{size}\""
    )))
}

fn content_range(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
