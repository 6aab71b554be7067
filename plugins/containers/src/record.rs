//! A container's record, in and out of bytes.

use capstan_schema::record_capnp::container_record;
use capstan_schema::{read_labels, write_labels};
use capstan_sdk::contract::containers::Container;
use capstan_sdk::contract::metadata::Key;
use capstan_sdk::contract::restart::RestartPolicy;
use capstan_sdk::record::{Record, encode};
use capstan_sdk::{ContainerId, Namespace, Result};

pub(crate) const BUCKET: &str = "containers";

pub(crate) fn key(namespace: &Namespace, id: &ContainerId) -> Key {
    Key::new(BUCKET, namespace, id.as_str())
}

pub(crate) fn write(container: &Container) -> Vec<u8> {
    encode::<container_record::Owned>(|mut out| {
        out.set_image(&container.image);
        out.set_runtime(&container.runtime);
        out.set_snapshotter(&container.snapshotter);
        out.set_snapshot_key(&container.snapshot_key);
        out.set_spec(&container.spec);
        out.set_created_at_unix_ns(container.created_at_unix_ns);
        out.set_updated_at_unix_ns(container.updated_at_unix_ns);
        out.set_ephemeral(container.is_ephemeral);
        out.set_rootfs(&container.rootfs);
        out.set_restart(container.restart.to_string());
        out.set_storage_bytes(container.storage_bytes);
        let count = u32::try_from(container.labels.len()).expect("labels are few");
        write_labels(&container.labels, out.init_labels(count));
    })
}

pub(crate) fn read(id: &str, bytes: &[u8]) -> Result<Container> {
    let record = Record::decode(bytes)?;
    let record = record.get::<container_record::Owned>()?;
    Ok(Container {
        id: ContainerId::parse(id)?,
        image: record.get_image()?.to_str()?.into(),
        runtime: record.get_runtime()?.to_str()?.into(),
        snapshotter: record.get_snapshotter()?.to_str()?.into(),
        snapshot_key: record.get_snapshot_key()?.to_str()?.into(),
        spec: record.get_spec()?.to_vec(),
        labels: read_labels(record.get_labels()?)?,
        created_at_unix_ns: record.get_created_at_unix_ns(),
        updated_at_unix_ns: record.get_updated_at_unix_ns(),
        is_ephemeral: record.get_ephemeral(),
        rootfs: record.get_rootfs()?.to_str()?.into(),
        restart: RestartPolicy::parse(record.get_restart()?.to_str()?)?,
        storage_bytes: record.get_storage_bytes(),
    })
}
