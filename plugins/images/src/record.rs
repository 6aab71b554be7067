//! An image's record, in and out of bytes.

use capstan_schema::record_capnp::image_record;
use capstan_schema::{read_labels, write_labels};
use capstan_sdk::contract::images::Image;
use capstan_sdk::contract::metadata::Key;
use capstan_sdk::contract::verifier::Evidence;
use capstan_sdk::record::{Record, encode};
use capstan_sdk::{Descriptor, Namespace, Result};

pub(crate) const BUCKET: &str = "images";

pub(crate) fn key(namespace: &Namespace, name: &str) -> Key {
    Key::new(BUCKET, namespace, name)
}

/// The most bytes of evidence that are kept beside a name: far more than some signatures have. More is not kept at all:
/// another name is given as if there were none.
const MAX_EVIDENCE_BYTES: usize = 256 << 10;

pub(crate) fn write(image: &Image, evidence: &[Evidence]) -> Vec<u8> {
    let count = |count: usize| u32::try_from(count).expect("labels and evidence are few");
    let bytes = evidence.iter().map(|piece| {
        let annotations = piece.annotations.iter().map(|(key, value)| key.len() + value.len());
        piece.payload.len() + annotations.sum::<usize>()
    });
    let evidence = if bytes.sum::<usize>() > MAX_EVIDENCE_BYTES { &[] } else { evidence };
    encode::<image_record::Owned>(|mut out| {
        image.target.write(out.reborrow().init_target());
        out.set_created_at_unix_ns(image.created_at_unix_ns);
        out.set_updated_at_unix_ns(image.updated_at_unix_ns);
        write_labels(&image.labels, out.reborrow().init_labels(count(image.labels.len())));
        let mut list = out.init_evidence(count(evidence.len()));
        for (index, piece) in (0..).zip(evidence) {
            let mut out = list.reborrow().get(index);
            out.set_artifact_type(&piece.artifact_type);
            out.set_media_type(&piece.media_type);
            out.set_payload(&piece.payload);
            write_labels(&piece.annotations, out.init_annotations(count(piece.annotations.len())));
        }
    })
}

pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<Image> {
    let record = Record::decode(bytes)?;
    let record = record.get::<image_record::Owned>()?;
    Ok(Image {
        name: name.into(),
        target: Descriptor::read(record.get_target()?)?,
        created_at_unix_ns: record.get_created_at_unix_ns(),
        updated_at_unix_ns: record.get_updated_at_unix_ns(),
        labels: read_labels(record.get_labels()?)?,
    })
}

/// For which evidence the verifiers let it have its name.
pub(crate) fn evidence(bytes: &[u8]) -> Result<Vec<Evidence>> {
    let record = Record::decode(bytes)?;
    let list = record.get::<image_record::Owned>()?.get_evidence()?;
    list.iter()
        .map(|piece| {
            Ok(Evidence {
                artifact_type: piece.get_artifact_type()?.to_string()?,
                media_type: piece.get_media_type()?.to_string()?,
                payload: piece.get_payload()?.to_owned(),
                annotations: read_labels(piece.get_annotations()?)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use capstan_sdk::{Digest, Labels};

    use super::*;

    fn image() -> Image {
        let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
        let media_type = "application/vnd.oci.image.index.v1+json".into();
        Image {
            name: "registry.example/app:1".into(),
            target: Descriptor { media_type, digest, size: 7, platform: None },
            created_at_unix_ns: 1,
            updated_at_unix_ns: 2,
            labels: Labels::from([("k".into(), "v".into())]),
        }
    }

    fn piece(bytes: usize) -> Evidence {
        Evidence {
            artifact_type: "a".into(),
            media_type: "m".into(),
            payload: vec![b'x'; bytes],
            annotations: Labels::from([("signature".into(), "AAAA".into())]),
        }
    }

    #[test]
    fn evidence_is_kept_with_the_image_all_or_none() {
        let some = vec![piece(10), piece(1000)];
        for (given, kept) in [
            (vec![], vec![]),
            (some.clone(), some),
            (vec![piece(10), piece(MAX_EVIDENCE_BYTES)], vec![]),
        ] {
            let bytes = write(&image(), &given);
            assert_eq!(evidence(&bytes).unwrap(), kept);
            let read = read("registry.example/app:1", &bytes).unwrap();
            assert_eq!((read.target, read.labels), (image().target, image().labels));
        }
    }
}
