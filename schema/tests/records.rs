//! Stored bytes of every version so far are read: `records/stored.txt` has what the first schema wrote (`first`) and what
//! the schema of 2026-11-26 wrote (`now`), later ones named after what is new in them; one record a line: version, struct,
//! hex. Lines are added there, none is changed.

use std::fmt::Debug;

use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::OwnedSegments;
use capstan_schema::record_capnp::{
    blob_record, container_record, delivery_record, image_record, ingest_record, lease_record,
    namespace_record, restart_record, snapshot_record, task_record,
};
use capstan_schema::{Descriptor, read_labels, read_texts};

const STORED: &str = include_str!("records/stored.txt");

/// The records of a kind, with their version.
fn stored(kind: &str) -> Vec<(&'static str, Reader<OwnedSegments>)> {
    let lines = STORED.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = lines.filter(|words| words[1] == kind);
    let read = |words: Vec<&'static str>| {
        let digits = words[2].as_bytes().chunks(2);
        let bytes: Vec<u8> = digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect();
        let mut slice = &bytes[..];
        let message = capnp::serialize::read_message(&mut slice, ReaderOptions::new()).unwrap();
        (words[0], message)
    };
    let found: Vec<_> = ours.map(read).collect();
    assert!(!found.is_empty(), "no record of {kind}");
    found
}

#[allow(clippy::needless_pass_by_value, reason = "what is compared is made at the call")]
fn is<T: PartialEq<U> + Debug, U: Debug>(found: T, want: U) {
    assert_eq!(found, want);
}

macro_rules! reads {
    ($test:ident, $kind:literal, $record:ident, |$version:ident, $r:ident| $body:block) => {
        #[test]
        fn $test() {
            for ($version, message) in stored($kind) {
                let $r: $record::Reader<'_> = message.get_root().unwrap();
                $body
            }
        }
    };
}

macro_rules! labels {
    ($record:ident) => {
        let labels = read_labels($record.get_labels().unwrap()).unwrap();
        assert_eq!(labels.into_iter().collect::<Vec<_>>(), [("k".to_owned(), "v".to_owned())]);
    };
}

reads!(namespaces, "NamespaceRecord", namespace_record, |_version, r| {
    is(r.get_created_at_unix_ns(), 1);
    labels!(r);
});

reads!(blobs, "BlobRecord", blob_record, |_version, r| {
    is((r.get_size(), r.get_created_at_unix_ns()), (5, 1));
    labels!(r);
});

reads!(images, "ImageRecord", image_record, |version, r| {
    let target = Descriptor::read(r.get_target().unwrap()).unwrap();
    is(target.media_type, "application/vnd.oci.image.index.v1+json");
    is(target.digest.as_str(), format!("sha256:{}", "0".repeat(64)));
    is(target.size, 7);
    is((r.get_created_at_unix_ns(), r.get_updated_at_unix_ns()), (1, 2));
    labels!(r);
    let evidence = r.get_evidence().unwrap();
    is(evidence.len(), u32::from(version == "evidence"));
    for piece in evidence {
        is(piece.get_artifact_type().unwrap().to_str().unwrap(), "a");
        is(piece.get_media_type().unwrap().to_str().unwrap(), "m");
        is(piece.get_payload().unwrap(), b"p");
        let labels = read_labels(piece.get_annotations().unwrap()).unwrap();
        is(labels.into_iter().collect::<Vec<_>>(), [("k".to_owned(), "v".to_owned())]);
    }
});

reads!(snapshots, "SnapshotRecord", snapshot_record, |_version, r| {
    is((r.get_id(), r.get_kind()), (3, 2));
    is(r.get_parent().unwrap().to_str().unwrap(), "p");
    is((r.get_created_at_unix_ns(), r.get_updated_at_unix_ns()), (1, 2));
    is(r.get_parent_ids().unwrap().iter().collect::<Vec<_>>(), [2, 1]);
    labels!(r);
});

reads!(containers, "ContainerRecord", container_record, |version, r| {
    let texts =
        [r.get_image(), r.get_runtime(), r.get_snapshotter(), r.get_snapshot_key(), r.get_rootfs()];
    is(texts.map(|text| text.unwrap().to_str().unwrap()), ["i", "r", "s", "c", "/r"]);
    is(r.get_spec().unwrap(), b"{}");
    is((r.get_created_at_unix_ns(), r.get_updated_at_unix_ns()), (1, 2));
    is(r.get_ephemeral(), true);
    // What was not known then is as if nobody had asked for it.
    let restart = if version == "first" { "" } else { "always" };
    is(r.get_restart().unwrap().to_str().unwrap(), restart);
    labels!(r);
});

reads!(ingests, "IngestRecord", ingest_record, |_version, r| {
    let texts = [r.get_namespace(), r.get_ref(), r.get_expected()];
    is(texts.map(|text| text.unwrap().to_str().unwrap()), ["n", "ref", "e"]);
    is((r.get_total(), r.get_started_at_unix_ns()), (10, 1));
});

reads!(restarts, "RestartRecord", restart_record, |_version, r| {
    is((r.get_wanted(), r.get_restarts(), r.get_signal()), (true, 4, 9));
    is(r.get_signaled_at_unix_ns(), 1);
});

reads!(leases, "LeaseRecord", lease_record, |_version, r| {
    is((r.get_created_at_unix_ns(), r.get_expires_at_unix_ns()), (1, 2));
    is(read_texts(r.get_resources().unwrap()).unwrap(), ["image/i", "image/j"]);
    labels!(r);
});

reads!(deliveries, "DeliveryRecord", delivery_record, |_version, r| {
    is(r.get_cursor(), 77);
});

#[test]
fn tasks() {
    use task_record::Which;
    let mut seen = Vec::new();
    for (version, message) in stored("TaskRecord") {
        let record: task_record::Reader<'_> = message.get_root().unwrap();
        is(record.get_at_unix_ns(), 1);
        seen.push(match record.which().unwrap() {
            Which::Shim(shim) => {
                let shim = shim.unwrap();
                is((shim.get_pid(), shim.get_start_ticks()), (7, 8));
                is(shim.get_boot_id().unwrap().to_str().unwrap(), "b");
                "shim"
            }
            Which::Created(created) => {
                check_created(version, created.unwrap());
                "created"
            }
            Which::Started(()) => "started",
            Which::Exited(status) => {
                is(status, 137);
                "exited"
            }
            Which::Deleted(()) => "deleted",
            Which::Paused(is_paused) => {
                is(is_paused, true);
                "paused"
            }
            Which::Creating(creating) => {
                let creating = creating.unwrap();
                let texts =
                    [creating.get_id(), creating.get_runtime(), creating.get_runtime_root()];
                is(texts.map(|text| text.unwrap().to_str().unwrap()), ["c", "r", "rr"]);
                is(creating.get_systemd_cgroup(), true);
                "creating"
            }
        });
    }
    let first = ["shim", "created", "started", "exited", "deleted"];
    is(&seen[..5], first);
    is(&seen[5..10], first);
    is(&seen[10..], ["paused", "creating"]);
}

fn check_created(version: &str, r: task_record::created_entry::Reader<'_>) {
    is((r.get_pid(), r.get_start_ticks(), r.get_terminal()), (7, 8, true));
    let texts = [
        r.get_runtime(),
        r.get_runtime_root(),
        r.get_stdin(),
        r.get_stdout(),
        r.get_stderr(),
        r.get_id(),
        r.get_attach(),
        r.get_log(),
    ];
    let (attach, log) = if version == "first" { ("", "") } else { ("a", "l") };
    let want = ["r", "rr", "0", "1", "2", "c", attach, log];
    is(texts.map(|text| text.unwrap().to_str().unwrap()), want);
    is(r.get_log_is_raw(), version != "first");
    is(read_texts(r.get_cgroups().unwrap()).unwrap(), ["/a", "/b"]);
}

/// A kind of record that is added to the schema is added here.
#[test]
fn every_kind_is_there() {
    let schema = include_str!("../capnp/record.capnp");
    let kinds = schema.lines().filter_map(|line| line.strip_prefix("struct "));
    for kind in kinds.map(|rest| rest.trim_end_matches(" {")) {
        assert!(
            STORED.lines().any(|line| line.split(' ').nth(1) == Some(kind)),
            "{kind}: add a line to records/stored.txt"
        );
    }
}
