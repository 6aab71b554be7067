//! Reads: each looks at the newest durable state.

use capstan_schema::event_capnp;
use capstan_sdk::contract::events::{Event, NewEvent};
use capstan_sdk::contract::metadata::{Key, LogPage, Scan};
use capstan_sdk::record::Record;
use capstan_sdk::{Error, Namespace, Result};
use redb::{Database, ReadableDatabase as _, ReadableTable};

use crate::store::{EVENTS, RECORDS, fail};
use crate::{key, seal};

pub(crate) fn get(database: &Database, wanted: &Key) -> Result<Option<Vec<u8>>> {
    let bytes = key::encode(wanted)?;
    let read = database.begin_read().map_err(fail)?;
    let records = read.open_table(RECORDS).map_err(fail)?;
    let found = records.get(bytes.as_slice()).map_err(fail)?;
    found.map(|value| Ok(seal::open(&bytes, value.value())?.to_vec())).transpose()
}

pub(crate) fn scan(database: &Database, scan: &Scan) -> Result<Vec<(String, Vec<u8>)>> {
    let prefix = key::prefix(&scan.bucket, scan.namespace.as_ref());
    let mut from = prefix.clone();
    if !scan.page.after.is_empty() {
        from.extend_from_slice(scan.page.after.as_bytes());
        // The first name that is greater.
        from.push(0);
    }
    let end = key::behind(&prefix);
    let read = database.begin_read().map_err(fail)?;
    let records = read.open_table(RECORDS).map_err(fail)?;
    let range = records.range::<&[u8]>(from.as_slice()..end.as_slice()).map_err(fail)?;
    let mut found = Vec::new();
    for row in range.take(scan.page.limit) {
        let (name, value) = row.map_err(fail)?;
        let value = seal::open(name.value(), value.value())?.to_vec();
        found.push((key::decode(name.value())?.name, value));
    }
    Ok(found)
}

pub(crate) fn scan_all(database: &Database, bucket: &str) -> Result<Vec<(Key, Vec<u8>)>> {
    let mut from = bucket.as_bytes().to_vec();
    from.push(0);
    let end = key::behind(&from);
    let read = database.begin_read().map_err(fail)?;
    let records = read.open_table(RECORDS).map_err(fail)?;
    let mut found = Vec::new();
    for row in records.range::<&[u8]>(from.as_slice()..end.as_slice()).map_err(fail)? {
        let (name, value) = row.map_err(fail)?;
        let value = seal::open(name.value(), value.value())?.to_vec();
        found.push((key::decode(name.value())?, value));
    }
    Ok(found)
}

/// Whether any bucket holds something of a namespace.
pub(crate) fn is_in_use(
    records: &impl ReadableTable<&'static [u8], &'static [u8]>,
    namespace: &Namespace,
) -> Result<Option<String>> {
    let mut from = Vec::new();
    loop {
        // The next bucket: the first key behind the last bucket that was looked at.
        let Some(row) = records.range::<&[u8]>(from.as_slice()..).map_err(fail)?.next() else {
            return Ok(None);
        };
        let bucket = key::decode(row.map_err(fail)?.0.value())?.bucket;
        let prefix = key::prefix(&bucket, Some(namespace));
        let end = key::behind(&prefix);
        if records.range::<&[u8]>(prefix.as_slice()..end.as_slice()).map_err(fail)?.next().is_some()
        {
            return Ok(Some(bucket));
        }
        from = bucket.into_bytes();
        from.push(1);
    }
}

/// The newest cursor; 0 if nothing was ever logged.
pub(crate) fn head(database: &Database) -> Result<u64> {
    let read = database.begin_read().map_err(fail)?;
    let events = read.open_table(EVENTS).map_err(fail)?;
    Ok(events.last().map_err(fail)?.map_or(0, |(cursor, _)| cursor.value()))
}

pub(crate) fn log(database: &Database, after: u64, limit: usize) -> Result<LogPage> {
    let read = database.begin_read().map_err(fail)?;
    let events = read.open_table(EVENTS).map_err(fail)?;
    let oldest = events.first().map_err(fail)?.map_or(0, |(cursor, _)| cursor.value());
    // A peer may name any cursor.
    let next = after.saturating_add(1);
    let mut page = LogPage { missed: oldest.saturating_sub(next), ..LogPage::default() };
    for row in events.range(next..).map_err(fail)?.take(limit) {
        let (cursor, value) = row.map_err(fail)?;
        let cursor = cursor.value();
        page.events.push(decode_event(cursor, seal::open(&cursor.to_le_bytes(), value.value())?)?);
    }
    Ok(page)
}

fn decode_event(cursor: u64, bytes: &[u8]) -> Result<Event> {
    let record = Record::decode(bytes)?;
    let event = record.get::<event_capnp::event::Owned>()?;
    let text = |text: capnp::Result<capnp::text::Reader<'_>>| -> Result<String> {
        Ok(text?.to_str()?.to_owned())
    };
    let namespace = match event.get_namespace()?.to_str()? {
        "" => None,
        name => Some(Namespace::parse(name)?),
    };
    let mut fields = Vec::new();
    for field in event.get_fields()? {
        fields.push((text(field.get_key())?, text(field.get_value())?));
    }
    Ok(Event {
        cursor,
        time_unix_ns: event.get_time_unix_ns(),
        event: NewEvent { namespace, topic: text(event.get_topic())?, fields },
    })
    .map_err(|error: Error| error.at(format!("event {cursor}")))
}
