//! Archives that are wrong, by accident or on purpose: a typed error, and nothing of them.

use std::io::Write as _;

use capstan_integration::{FakeRegistry, Host, Image, Layer, digest, gzip};
use serde_json::{Value, json};

use crate::pull::assert_nothing_half_made;

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An archive under construction: names go in as they are.
pub(crate) struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new())).file("oci-layout", LAYOUT.as_bytes())
    }

    fn add(
        mut self,
        kind: tar::EntryType,
        name: &str,
        link: &str,
        bytes: &[u8],
        size: u64,
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.add(tar::EntryType::Regular, name, "", bytes, bytes.len() as u64)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(tar::EntryType::Symlink, name, target, b"", 0)
    }

    pub(crate) fn json(self, name: &str, value: &Value) -> Self {
        self.file(name, &serde_json::to_vec(value).unwrap())
    }

    /// All blobs of an image but one.
    pub(crate) fn blobs(mut self, image: &Image, but: &str) -> Self {
        for (name, bytes) in &image.blobs {
            if name != but {
                self = self.file(&format!("blobs/{}", name.replace(':', "/")), bytes);
            }
        }
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn descriptor(image: &Image) -> Value {
    json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest,
        "size": image.blobs[&image.manifest].len(),
        "annotations": { "io.containerd.image.name": "example.com/evil:1" },
    })
}

pub(crate) fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "manifests": manifests })
}

fn small() -> Image {
    Image::new(vec![Layer::new().file("a", 0o644, b"a")])
}

fn refuse(host: &Host, what: &str, archive: &[u8], code: i32, class: &str) {
    let output = host.capstan_with_input(&["images", "import", "-"], archive);
    assert_eq!(output.code, code, "{what}: {}", output.stderr);
    assert!(output.stderr.starts_with(&format!("capstan: {class}: ")), "{what}: {}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{what}: {}", output.stderr);
    assert_nothing_half_made(host);
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new(), "{what}");
}

#[test]
fn what_is_no_archive_of_images_is_refused() {
    let host = Host::new();
    let image = small();
    let whole = || Archive::new().blobs(&image, "");
    let good = index(&[descriptor(&image)]);
    let named = |name: &str| whole().file(name, b"x").json("index.json", &good).bytes();
    let invalid: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("noise", b"this is no tar".repeat(100)),
        ("a gzip of noise", gzip(&b"this is no tar".repeat(100))),
        ("no index", whole().bytes()),
        ("a name that leads out", named("../../etc/evil.tar")),
        ("an absolute name", named("/etc/evil.tar")),
        ("a name that leads out later", named("blobs/../../evil.tar")),
        ("a digest that is none", named("blobs/sha256/../../../evil")),
        ("a blob without a digest", named("blobs/sha256/short")),
        (
            "a link that leads out",
            whole().link("a.tar", "../../etc/shadow").json("index.json", &good).bytes(),
        ),
        ("an index twice", whole().json("index.json", &good).json("index.json", &good).bytes()),
        ("a layer's name twice", Archive::new().file("l.tar", b"1").file("l.tar", b"2").bytes()),
        (
            "a device",
            whole().add(tar::EntryType::Block, "dev", "", b"", 0).json("index.json", &good).bytes(),
        ),
        ("a docker archive that is none", Archive::new().file("manifest.json", b"{}").bytes()),
        ("one name for two images", {
            let other = Image::new(vec![Layer::new().file("b", 0o644, b"b")]);
            let both = index(&[descriptor(&image), descriptor(&other)]);
            whole().blobs(&other, "").json("index.json", &both).bytes()
        }),
    ];
    for (what, archive) in invalid {
        refuse(&host, what, &archive, 5, "InvalidArgument");
    }
}

#[test]
fn what_does_not_fit_together_is_corrupt() {
    let host = Host::new();
    let image = small();
    let good = index(&[descriptor(&image)]);
    let layer = image.layers[0].clone();
    let mut longer = descriptor(&image);
    longer["size"] = json!(image.blobs[&image.manifest].len() + 1);
    let name = format!("blobs/{}", layer.replace(':', "/"));
    let corrupt: Vec<(&str, Vec<u8>)> = vec![
        // Before anything that is right: a blob that is there is not read again.
        (
            "a blob with other bytes",
            Archive::new()
                .blobs(&image, &layer)
                .file(&name, b"evil")
                .json("index.json", &good)
                .bytes(),
        ),
        (
            "a blob that is missing",
            Archive::new().blobs(&image, &layer).json("index.json", &good).bytes(),
        ),
        ("a manifest that is missing", {
            let other = Image::new(vec![Layer::new().file("c", 0o644, b"c")]);
            let index = index(&[descriptor(&other)]);
            Archive::new().blobs(&other, &other.manifest).json("index.json", &index).bytes()
        }),
        (
            "a size that is wrong",
            Archive::new().blobs(&image, "").json("index.json", &index(&[longer])).bytes(),
        ),
        (
            "an index that is none",
            Archive::new().blobs(&image, "").file("index.json", b"[").bytes(),
        ),
        (
            "a docker archive without its layer",
            Archive::new()
                .file("c.json", br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#)
                .json(
                    "manifest.json",
                    &json!([{ "Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"] }]),
                )
                .bytes(),
        ),
        (
            "links in a circle",
            Archive::new()
                .file("c.json", br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#)
                .link("l.tar", "m.tar")
                .link("m.tar", "l.tar")
                .json(
                    "manifest.json",
                    &json!([{ "Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"] }]),
                )
                .bytes(),
        ),
        (
            "a layer that its configuration has not",
            Archive::new()
                .file("c.json", br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#)
                .file("l.tar", b"x")
                .json(
                    "manifest.json",
                    &json!([{ "Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"] }]),
                )
                .bytes(),
        ),
        ("a layer that leads out", {
            let evil = Image::new(vec![Layer::new().file("../../evil", 0o644, b"x")]);
            Archive::new().blobs(&evil, "").json("index.json", &index(&[descriptor(&evil)])).bytes()
        }),
    ];
    for (what, archive) in corrupt {
        refuse(&host, what, &archive, 10, "Corrupt");
    }
    assert!(!host.ids(&["content", "ls"]).contains(&digest(b"evil")));
}

/// CVE-2023-25153: a document without an end costs no memory.
#[test]
fn a_huge_document_is_refused_before_it_is_read() {
    let host = Host::new();
    let before = capstan_integration::process::anonymous_kib(host.daemon_pid());
    let mut child = host
        .command(&["images", "import", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let mut header = tar::Header::new_gnu();
        header.set_path("index.json").unwrap();
        header.set_size(10 << 30);
        header.set_cksum();
        let mut outcome = stdin.write_all(header.as_bytes());
        let chunk = vec![b' '; 1 << 20];
        for _ in 0..10 << 10 {
            outcome = outcome.and_then(|()| stdin.write_all(&chunk));
        }
        outcome
    });
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{said}");
    assert!(said.contains("index.json"), "{said}");
    assert!(writer.join().unwrap().is_err(), "it is not read to its end");
    let after = capstan_integration::process::anonymous_kib(host.daemon_pid());
    assert!(after < before + (32 << 10), "{before} KiB before, {after} after");
    assert_nothing_half_made(&host);
}

/// A client that goes away in the middle leaves no ingest and no name; the next import works.
#[test]
fn an_import_that_is_cut_off_leaves_nothing() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &super::image(7));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let archive = host.command(&["images", "export", "-", &name]).output().unwrap().stdout;
    let other = Host::new();
    let half = &archive[..archive.len() / 2];
    let mut child = other
        .command(&["images", "import", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(half).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    other.until("no ingest is left", || other.ids(&["content", "active"]).is_empty());
    assert_nothing_half_made(&other);
    // The same, where the archive itself ends early.
    refuse(&other, "half an archive", half, 10, "Corrupt");
    let output = other.capstan_with_input(&["images", "import", "-"], &archive);
    assert_eq!(output.code, 0, "{}", output.stderr);
}
