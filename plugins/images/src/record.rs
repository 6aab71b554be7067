//! An image's record, in and out of bytes.

use capstan_schema::record_capnp::image_record;
use capstan_schema::{read_labels, write_labels};
use capstan_sdk::contract::images::Image;
use capstan_sdk::contract::metadata::Key;
use capstan_sdk::record::{Record, encode};
use capstan_sdk::{Descriptor, Namespace, Result};

pub(crate) const BUCKET: &str = "images";

pub(crate) fn key(namespace: &Namespace, name: &str) -> Key {
    Key::new(BUCKET, namespace, name)
}

pub(crate) fn write(image: &Image) -> Vec<u8> {
    encode::<image_record::Owned>(|mut out| {
        image.target.write(out.reborrow().init_target());
        out.set_created_at_unix_ns(image.created_at_unix_ns);
        out.set_updated_at_unix_ns(image.updated_at_unix_ns);
        let count = u32::try_from(image.labels.len()).expect("labels are few");
        write_labels(&image.labels, out.init_labels(count));
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
