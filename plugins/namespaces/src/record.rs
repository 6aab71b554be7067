//! A namespace's record, in and out of bytes.

use capstan_schema::{read_labels, record_capnp::namespace_record, write_labels};
use capstan_sdk::contract::namespaces::NamespaceInfo;
use capstan_sdk::record::{Record, encode};
use capstan_sdk::{Namespace, Result};

pub(crate) fn write(info: &NamespaceInfo) -> Vec<u8> {
    encode::<namespace_record::Owned>(|mut out| {
        out.set_created_at_unix_ns(info.created_at_unix_ns);
        let count = u32::try_from(info.labels.len()).expect("labels are few");
        write_labels(&info.labels, out.init_labels(count));
    })
}

pub(crate) fn read(name: Namespace, bytes: &[u8]) -> Result<NamespaceInfo> {
    let record = Record::decode(bytes)?;
    let record = record.get::<namespace_record::Owned>()?;
    Ok(NamespaceInfo {
        name,
        labels: read_labels(record.get_labels()?)?,
        created_at_unix_ns: record.get_created_at_unix_ns(),
    })
}
