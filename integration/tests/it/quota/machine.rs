//! In a virtual machine, whose kernel has all kinds of quotas.

use std::time::Duration;

use capstan_integration::{Image, Layer, Machine, digest, noise};
use serde_json::json;

/// What the script finds right, each by its name.
const FOUND: [&str; 27] = [
    "ext4 overlay: the limit holds",
    "ext4 overlay: a copied file counts",
    "ext4 overlay: it holds after a restart",
    "ext4 overlay: it can be changed",
    "ext4 overlay: the record has it",
    "ext4 overlay: it can end",
    "ext4 overlay: others are not limited",
    "ext4 overlay: nothing is left",
    "ext4 overlay: a commit ends it",
    "ext4 overlay: a project of somebody else is left alone",
    "ext4 overlay: a crash leaves nothing",
    "ext4 overlay: a user namespace cannot leave its project",
    "ext4 native: the limit holds",
    "ext4 native: nothing is left",
    "ext4 erofs: the limit holds",
    "ext4 erofs: nothing is left",
    "ext4 erofs: a commit ends it",
    "ext4: without quotas a limited container does not start",
    "ext4: without quotas others do",
    "xfs overlay: the limit holds",
    "xfs overlay: a copied file counts",
    "xfs overlay: it holds after a restart",
    "xfs overlay: it can be changed",
    "xfs overlay: nothing is left",
    "xfs overlay: a commit ends it",
    "xfs native: the limit holds",
    "xfs native: nothing is left",
];

/// An OCI layout with one image.
fn archive(name: &str, image: &Image) -> Vec<u8> {
    let manifest = &image.blobs[&image.manifest];
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": image.media_type(),
        "digest": digest(manifest),
        "size": manifest.len(),
        "annotations": { "io.containerd.image.name": name },
    }] });
    let mut layout = Layer::new()
        .file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", 0o644, index.to_string().as_bytes());
    for (digest, blob) in &image.blobs {
        layout = layout.file(&format!("blobs/{}", digest.replace(':', "/")), 0o644, blob);
    }
    layout.into_tar()
}

/// Project quotas of ext4 and xfs, with all snapshotters that use them.
#[test]
fn limits_hold_on_ext4_and_xfs() {
    let machine = match Machine::new() {
        Ok(machine) => machine,
        Err(reason) => {
            eprintln!("skipped: quota::machine::limits_hold_on_ext4_and_xfs: {reason}");
            return;
        }
    };
    for program in ["capstand", "capstan", "capstan-shim", "capstan-runtime"] {
        machine.own(program);
    }
    for program in
        ["chattr", "setquota", "repquota", "mkfs.ext4", "mkfs.xfs", "mkfs.erofs", "mount"]
    {
        machine.program(program);
    }
    let image = Image::new(vec![
        Layer::new().busybox().file("big", 0o644, &noise(3 << 20, 1)).dir("host"),
        Layer::new().file("top", 0o644, b"top"),
    ]);
    machine.file("work/image.tar", &archive("example.com/small:1", &image));
    let said = machine.run(include_str!("script.sh"), Duration::from_secs(540));
    eprintln!("{said}");
    let found: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("right: ")).collect();
    assert!(!said.contains("wrong: ") && found == FOUND, "see above");
}
