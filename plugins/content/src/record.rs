//! Records of blobs and ingests, in and out of bytes.

use capstan_schema::record_capnp::{blob_record, ingest_record};
use capstan_schema::{read_labels, write_labels};
use capstan_sdk::contract::content::BlobInfo;
use capstan_sdk::contract::metadata::Key;
use capstan_sdk::record::{Record, encode};
use capstan_sdk::{Algorithm, Digest, Labels, Namespace, Result};

/// The bucket of blobs.
pub(crate) const BUCKET: &str = "content";

pub(crate) fn key(namespace: &Namespace, digest: &Digest) -> Key {
    Key::new(BUCKET, namespace, digest.as_str())
}

/// What is stored of a blob.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) info: BlobInfo,
    /// At least when it was made.
    pub(crate) used_at_unix_ns: i64,
}

/// A record with another time of last use.
pub(crate) fn stamp(digest: &str, bytes: &[u8], used_at_unix_ns: i64) -> Result<Vec<u8>> {
    Ok(write(&Blob { used_at_unix_ns, ..read_blob(digest, bytes)? }))
}

pub(crate) fn write(blob: &Blob) -> Vec<u8> {
    let info = &blob.info;
    encode::<blob_record::Owned>(|mut out| {
        out.set_size(info.size);
        out.set_created_at_unix_ns(info.created_at_unix_ns);
        out.set_last_used_at_unix_ns(blob.used_at_unix_ns);
        let count = u32::try_from(info.labels.len()).expect("labels are few");
        write_labels(&info.labels, out.init_labels(count));
    })
}

pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<BlobInfo> {
    Ok(read_blob(digest, bytes)?.info)
}

pub(crate) fn read_blob(digest: &str, bytes: &[u8]) -> Result<Blob> {
    let record = Record::decode(bytes)?;
    let record = record.get::<blob_record::Owned>()?;
    let created_at_unix_ns = record.get_created_at_unix_ns();
    let info = BlobInfo {
        digest: Digest::parse(digest)?,
        size: record.get_size(),
        created_at_unix_ns,
        labels: read_labels(record.get_labels()?)?,
    };
    Ok(Blob { info, used_at_unix_ns: record.get_last_used_at_unix_ns().max(created_at_unix_ns) })
}

/// What an ingest was begun with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IngestRecord {
    pub(crate) namespace: Namespace,
    pub(crate) reference: String,
    pub(crate) total: u64,
    pub(crate) expected: Option<Digest>,
    pub(crate) started_at_unix_ns: i64,
    pub(crate) labels: Labels,
    pub(crate) algorithm: Algorithm,
}

impl IngestRecord {
    pub(crate) fn write(&self) -> Vec<u8> {
        encode::<ingest_record::Owned>(|mut out| {
            out.set_namespace(self.namespace.as_str());
            out.set_ref(&self.reference);
            out.set_total(self.total);
            out.set_expected(self.expected.as_ref().map(Digest::as_str).unwrap_or_default());
            out.set_started_at_unix_ns(self.started_at_unix_ns);
            out.set_algorithm(self.algorithm.name());
            let count = u32::try_from(self.labels.len()).expect("labels are few");
            write_labels(&self.labels, out.init_labels(count));
        })
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let record = Record::decode(bytes)?;
        let record = record.get::<ingest_record::Owned>()?;
        let expected = match record.get_expected()?.to_str()? {
            "" => None,
            digest => Some(Digest::parse(digest)?),
        };
        let algorithm = match record.get_algorithm()?.to_str()? {
            "" => expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm),
            name => Algorithm::parse(name)?,
        };
        Ok(Self {
            namespace: Namespace::parse(record.get_namespace()?.to_str()?)?,
            reference: record.get_ref()?.to_str()?.to_owned(),
            total: record.get_total(),
            expected,
            started_at_unix_ns: record.get_started_at_unix_ns(),
            labels: read_labels(record.get_labels()?)?,
            algorithm,
        })
    }
}
