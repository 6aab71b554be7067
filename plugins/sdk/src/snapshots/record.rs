//! Records of snapshots, in and out of bytes.

use capstan_schema::record_capnp::snapshot_record;
use capstan_schema::{Error, Result, read_labels, write_labels};

use super::ledger::Snapshot;
use crate::contract::snapshotter::{Kind, SnapshotInfo, Usage};
use crate::record::{Record, encode};

pub(super) fn write(snapshot: &Snapshot) -> Vec<u8> {
    encode::<snapshot_record::Owned>(|mut out| {
        out.set_id(snapshot.id);
        out.set_parent(&snapshot.info.parent);
        out.set_kind(match snapshot.info.kind {
            Kind::Active => 0,
            Kind::View => 1,
            Kind::Committed => 2,
        });
        out.set_created_at_unix_ns(snapshot.info.created_at_unix_ns);
        out.set_updated_at_unix_ns(snapshot.info.updated_at_unix_ns);
        out.set_last_used_at_unix_ns(snapshot.used_at_unix_ns);
        if let Some(usage) = snapshot.usage {
            out.set_measured(true);
            out.set_size_bytes(usage.size);
            out.set_inodes(usage.inodes);
        }
        let count = u32::try_from(snapshot.info.labels.len()).expect("labels are few");
        write_labels(&snapshot.info.labels, out.reborrow().init_labels(count));
        let count = u32::try_from(snapshot.parent_ids.len()).expect("an image has few layers");
        let mut ids = out.init_parent_ids(count);
        for (index, &id) in (0..).zip(&snapshot.parent_ids) {
            ids.set(index, id);
        }
    })
}

pub(super) fn read(name: &str, bytes: &[u8]) -> Result<Snapshot> {
    let record = Record::decode(bytes)?;
    let record = record.get::<snapshot_record::Owned>()?;
    let kind = match record.get_kind() {
        0 => Kind::Active,
        1 => Kind::View,
        2 => Kind::Committed,
        other => return Err(Error::corrupt(format!("snapshot record of kind {other}"))),
    };
    Ok(Snapshot {
        info: SnapshotInfo {
            key: name.into(),
            parent: record.get_parent()?.to_str()?.into(),
            kind,
            created_at_unix_ns: record.get_created_at_unix_ns(),
            updated_at_unix_ns: record.get_updated_at_unix_ns(),
            labels: read_labels(record.get_labels()?)?,
        },
        id: record.get_id(),
        used_at_unix_ns: record.get_last_used_at_unix_ns().max(record.get_created_at_unix_ns()),
        usage: record
            .get_measured()
            .then(|| Usage { size: record.get_size_bytes(), inodes: record.get_inodes() }),
        parent_ids: record.get_parent_ids()?.iter().collect(),
    })
}

/// A record with another time of last use.
pub(super) fn stamp(name: &str, bytes: &[u8], used_at_unix_ns: i64) -> Result<Vec<u8>> {
    Ok(write(&Snapshot { used_at_unix_ns, ..read(name, bytes)? }))
}
