//! Stored records: one Cap'n Proto message each, one segment table in front (schema/capnp/record.capnp).

use capnp::message::{Builder, HeapAllocator, Reader};
use capnp::serialize::OwnedSegments;
use capnp::traits::Owned;
use capstan_schema::{Error, Result};

/// Encodes a record that `fill` writes.
pub fn encode<T: Owned>(fill: impl FnOnce(T::Builder<'_>)) -> Vec<u8>
where
    for<'a> T::Builder<'a>: capnp::traits::FromPointerBuilder<'a>,
{
    let mut message = Builder::new(HeapAllocator::new().first_segment_words(64));
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

/// A decoded record; `get` gives its reader.
pub struct Record(Reader<OwnedSegments>);

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Record")
    }
}

impl Record {
    /// Takes stored bytes.
    ///
    /// # Errors
    /// `Corrupt`: these are no Cap'n Proto message.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut slice = bytes;
        capnp::serialize::read_message(&mut slice, capstan_schema::limits())
            .map(Self)
            .map_err(|error| Error::corrupt(format!("stored record: {error}")))
    }

    /// The record as what it was stored as.
    ///
    /// # Errors
    /// `Corrupt`: it is something else.
    pub fn get<'a, T: Owned>(&'a self) -> Result<T::Reader<'a>>
    where
        T::Reader<'a>: capnp::traits::FromPointerReader<'a>,
    {
        self.0.get_root().map_err(|error| Error::corrupt(format!("stored record: {error}")))
    }
}
