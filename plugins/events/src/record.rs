//! How far a sink is, in and out of bytes.

use capstan_schema::record_capnp::delivery_record;
use capstan_sdk::Result;
use capstan_sdk::record::{Record, encode};

pub(crate) fn write(cursor: u64) -> Vec<u8> {
    encode::<delivery_record::Owned>(|mut out| out.set_cursor(cursor))
}

pub(crate) fn read(bytes: &[u8]) -> Result<u64> {
    Ok(Record::decode(bytes)?.get::<delivery_record::Owned>()?.get_cursor())
}
