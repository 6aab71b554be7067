//! A lease's record, in and out of bytes.

use std::collections::BTreeSet;

use capstan_schema::record_capnp::lease_record;
use capstan_schema::{read_labels, read_texts, write_labels, write_texts};
use capstan_sdk::Result;
use capstan_sdk::contract::graph::Resource;
use capstan_sdk::contract::leases::Lease;
use capstan_sdk::record::{Record, encode};

/// A lease with what it keeps.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) lease: Lease,
    pub(crate) resources: BTreeSet<Resource>,
}

pub(crate) fn write(stored: &Stored) -> Vec<u8> {
    encode::<lease_record::Owned>(|mut out| {
        let lease = &stored.lease;
        out.set_created_at_unix_ns(lease.created_at_unix_ns);
        out.set_expires_at_unix_ns(lease.expires_at_unix_ns);
        let count = u32::try_from(lease.labels.len()).expect("labels are few");
        write_labels(&lease.labels, out.reborrow().init_labels(count));
        let resources: Vec<String> = stored.resources.iter().map(ToString::to_string).collect();
        let count = u32::try_from(resources.len()).expect("a record has fewer");
        write_texts(&resources, out.init_resources(count));
    })
}

pub(crate) fn read(id: &str, bytes: &[u8]) -> Result<Stored> {
    let record = Record::decode(bytes)?;
    let record = record.get::<lease_record::Owned>()?;
    Ok(Stored {
        lease: Lease {
            id: id.into(),
            created_at_unix_ns: record.get_created_at_unix_ns(),
            expires_at_unix_ns: record.get_expires_at_unix_ns(),
            labels: read_labels(record.get_labels()?)?,
        },
        resources: read_texts(record.get_resources()?)?
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_>>()?,
    })
}
