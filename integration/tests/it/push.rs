//! Pushes to Debian's registry: images, indexes and artifacts that others can pull, nothing sent twice, and no name for
//! what is not complete.

use std::process::Command;
use std::time::{Duration, Instant};

use capstan_integration::{
    DockerRegistry, FakeRegistry, FaultProxy, Guard, Host, Image, Layer, Trouble, digest, find,
    noise, program,
};
use serde_json::{Value, json};

use crate::archive::{digest_of, succeed};
use crate::terminal::Tmux;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The manifest behind a name in a registry, as skopeo sees it.
fn raw(registry: &DockerRegistry, name: &str) -> Vec<u8> {
    let image = format!("docker://{}/{name}", registry.address());
    succeed("skopeo", &["inspect", "--raw", "--tls-verify=false", &image])
}

fn tags(registry: &DockerRegistry, repository: &str) -> Vec<String> {
    let image = format!("docker://{}/{repository}", registry.address());
    let output = Command::new(find("skopeo"))
        .args(["list-tags", "--tls-verify=false", &image])
        .output()
        .unwrap();
    if !output.status.success() {
        return Vec::new();
    }
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tags = list["Tags"].as_array().unwrap();
    tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// skopeo copies all that is behind a name, and verifies it.
fn copy(registry: &DockerRegistry, name: &str, to: &Host) {
    let image = format!("docker://{}/{name}", registry.address());
    let layout = format!("oci:{}:copy", to.path("copy").display());
    succeed("skopeo", &["copy", "-q", "--all", "--src-tls-verify=false", &image, &layout]);
}

/// An image of two layers, the upper of which is as large as it says.
fn image(seed: u32, bytes: usize) -> Image {
    Image::new(vec![Layer::new().busybox(), Layer::new().file("noise", 0o644, &noise(bytes, seed))])
}

fn pull(host: &Host, reference: &str) {
    host.ok(&["images", "pull", "--plain-http", reference]);
}

fn push(host: &Host, to: &str, from: &str) -> String {
    host.ok(&["images", "push", "--plain-http", to, from])
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

/// An archive of blobs whose last one is the image of a name.
fn layout(blobs: &[Vec<u8>], media_type: &str, name: &str) -> Vec<u8> {
    let mut target = descriptor(media_type, blobs.last().unwrap());
    target["annotations"] = json!({ "io.containerd.image.name": name });
    let index = bytes(&json!({ "schemaVersion": 2, "manifests": [target] }));
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json", &index);
    for blob in blobs {
        add(&format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")), blob);
    }
    tar.into_inner().unwrap()
}

fn import(host: &Host, archive: &[u8]) {
    let output = host.capstan_with_input(&["images", "import", "--no-unpack", "-"], archive);
    assert_eq!(output.code, 0, "{}", output.stderr);
}

#[test]
fn what_is_pushed_is_what_was_pulled() {
    let (from, to) = (DockerRegistry::with(&["busybox"]), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    let source = from.reference("busybox");
    pull(&host, &source);
    let want = digest_of(&host, &source);
    let name = format!("{}/some/app:1", proxy.address());
    let line = push(&host, &name, &source);
    assert_eq!(line, format!("{name}  {want}\n"));
    assert_eq!(digest(&raw(&to, "some/app:1")), want);
    copy(&to, "some/app:1", &host);
    let asked = proxy.take_asked();
    let last = asked.last().unwrap();
    assert_eq!(last, "PUT /v2/some/app/manifests/1", "the name is the last: {asked:?}");
    assert_eq!(asked.iter().filter(|line| line.starts_with("POST ")).count(), 2, "{asked:?}");

    // Nothing is sent twice but the name.
    push(&host, &name, &source);
    let asked = proxy.take_asked();
    assert!(asked.iter().all(|line| line.starts_with("HEAD ") || line == last), "{asked:?}");
    // A name more for what is there (defect D68 of the old daemon).
    push(&host, &format!("{}/some/app:two", proxy.address()), &source);
    let mut tags = tags(&to, "some/app");
    tags.sort();
    assert_eq!(tags, ["1", "two"]);

    let other = Host::new();
    let name = format!("{}/some/app:two", to.address());
    assert_eq!(other.ok(&["run", "--rm", "--plain-http", &name, "echo", "fine"]), "fine\n");
    assert_eq!(digest_of(&other, &name), want);
    other.assert_no_container();
}

#[test]
fn what_another_repository_has_is_mounted() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    let source = from.offer("app", &image(1, 2_000_000));
    pull(&host, &source);
    let at = |name: &str| format!("{}/{name}:1", proxy.address());
    push(&host, &at("one"), &source);
    assert!(proxy.brought() > 2_000_000);
    proxy.forget();
    let output =
        host.capstan(&["--format", "json", "images", "push", "--plain-http", &at("two"), &source]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("\"mounted\""), "{}", output.stdout);
    assert!(proxy.brought() < 20_000);
    let asked = proxy.take_asked();
    let posts: Vec<&String> = asked.iter().filter(|line| line.starts_with("POST ")).collect();
    assert_eq!(posts.len(), 3, "{asked:?}");
    assert!(posts.iter().all(|line| line.contains("?mount=sha256:")), "{asked:?}");
    assert_eq!(asked.iter().filter(|line| line.starts_with("PUT ")).count(), 1, "{asked:?}");
    copy(&to, "two:1", &host);
}

#[test]
fn an_index_goes_with_all_that_it_names() {
    let to = DockerRegistry::empty();
    let host = Host::new();
    let (one, two) = (image(1, 100), image(2, 100));
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let mut entries = Vec::new();
    for (image, architecture) in [(&one, "amd64"), (&two, "arm64")] {
        blobs.extend(image.blobs.values().cloned());
        let mut entry = descriptor(MANIFEST, &image.blobs[&image.manifest]);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entries.push(entry);
    }
    let inner = bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
    let nested = json!([descriptor(INDEX, &inner)]);
    let outer = bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": nested }));
    blobs.extend([inner.clone(), outer.clone()]);
    import(&host, &layout(&blobs, INDEX, "h.example/outer:1"));
    import(&host, &layout(&blobs[..blobs.len() - 1], INDEX, "h.example/app:1"));

    let at = |name: &str| format!("{}/{name}", to.address());
    push(&host, &at("outer:1"), "h.example/outer:1");
    assert_eq!(raw(&to, "outer:1"), outer);
    push(&host, &at("app:1"), "h.example/app:1");
    assert_eq!(raw(&to, "app:1"), inner);
    copy(&to, "app:1", &host);
    let other = Host::new();
    let args = ["images", "pull", "--plain-http", "--no-unpack", "--platform", "linux/arm64"];
    other.ok(&[&args[..], &[at("app:1").as_str()]].concat());
    assert_eq!(digest_of(&other, &at("app:1")), digest(&inner));

    // One platform of it, and one document of it.
    let platform = ["images", "push", "--plain-http", "--platform"];
    host.ok(&[&platform[..], &["linux/arm64", &at("arm:1"), "h.example/outer:1"]].concat());
    assert_eq!(digest(&raw(&to, "arm:1")), two.manifest);
    let below = format!("h.example/outer:1@{}", one.manifest);
    push(&host, &at("below:1"), &below);
    assert_eq!(digest(&raw(&to, "below:1")), one.manifest);
    let layer = format!("h.example/outer:1@{}", one.layers[0]);
    let refuse = |code: i32, class: &str, args: &[&str], parts: &[&str]| {
        host.fails(&[&["images", "push", "--plain-http"], args].concat(), code, class, parts);
    };
    refuse(5, "InvalidArgument", &[&at("x:1"), &layer], &["push-object"]);
    let none = format!("h.example/outer:1@{}", digest(b"none"));
    refuse(3, "NotFound", &[&at("x:1"), &none], &["has no manifest"]);
    let s390x = ["--platform", "linux/s390x", &at("x:1"), "h.example/app:1"];
    refuse(3, "NotFound", &s390x, &["linux/s390x", "linux/amd64, linux/arm64"]);

    // What is not here whole does not go without saying what to do.
    host.ok(&["content", "rm", &two.layers[1]]);
    refuse(
        6,
        "FailedPrecondition",
        &[&at("x:1"), "h.example/app:1"],
        &["1 of its manifests", "linux/arm64", &two.layers[1], "--platform"],
    );
    let arm = ["--platform", "linux/arm64", &at("x:1"), "h.example/app:1"];
    refuse(6, "FailedPrecondition", &arm, &["linux/arm64", &two.layers[1]]);
    host.ok(&["content", "rm", &two.manifest]);
    refuse(6, "FailedPrecondition", &arm, &["linux/arm64", &two.manifest]);
    host.ok(&[&platform[..], &["linux/amd64", &at("amd:1"), "h.example/app:1"]].concat());
    assert_eq!(digest(&raw(&to, "amd:1")), one.manifest);
    assert_eq!(tags(&to, "x"), Vec::<String>::new());
}

#[test]
fn artifacts_go_as_they_are() {
    let to = DockerRegistry::empty();
    let host = Host::new();
    let at = |name: &str| format!("{}/{name}", to.address());
    let (empty, text) = (b"{}".to_vec(), b"a text of no image".to_vec());
    let subject = image(3, 100);
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.text",
        "config": descriptor(EMPTY, &empty),
        "layers": [descriptor("text/plain", &text)],
        "subject": descriptor(MANIFEST, &subject.blobs[&subject.manifest]),
        "annotations": { "a": "b" },
    }));
    let entries = json!([descriptor(MANIFEST, &manifest)]);
    let index = bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
    let blobs = [empty.clone(), text.clone(), manifest.clone(), index.clone()];
    import(&host, &layout(&blobs, INDEX, "h.example/text:1"));
    push(&host, &at("text:1"), &format!("h.example/text:1@{}", digest(&manifest)));
    assert_eq!(raw(&to, "text:1"), manifest);

    // Debian's registry knows nothing of subjects: the list of what refers to it is kept under a tag.
    let list = format!("text:sha256-{}", subject.manifest.trim_start_matches("sha256:"));
    let entry = |digest: &str, size: usize| {
        json!({
            "mediaType": MANIFEST, "digest": digest, "size": size,
            "artifactType": "application/vnd.example.text", "annotations": { "a": "b" },
        })
    };
    let referrers =
        || serde_json::from_slice::<Value>(&raw(&to, &list)).unwrap()["manifests"].clone();
    assert_eq!(referrers(), json!([entry(&digest(&manifest), manifest.len())]));

    // One by one, and back again.
    let object = |name: &str, blob: &[u8], media_type: &str| {
        host.capstan_with_input(&["content", "ingest", "it"], blob);
        let digest = digest(blob);
        let line = host.ok(&["content", "push-object", "--plain-http", name, &digest, media_type]);
        assert_eq!(line, format!("Pushed {digest} {media_type}\n"));
    };
    let other = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.text",
        "config": descriptor(EMPTY, &empty),
        "layers": [],
        "subject": descriptor(MANIFEST, &subject.blobs[&subject.manifest]),
        "annotations": { "a": "b" },
    }));
    object(&at("text:2"), &other, MANIFEST);
    let both = [entry(&digest(&manifest), manifest.len()), entry(&digest(&other), other.len())];
    assert_eq!(referrers(), json!(both));
    object(&at("other:1"), &text, "text/plain");
    let fetch = |name: &str| {
        let args = ["content", "fetch-object", "--plain-http", "-q", name];
        let output = host.command(&args).output().unwrap();
        assert_eq!((output.status.success(), output.stderr), (true, Vec::new()));
        output.stdout
    };
    assert_eq!(fetch(&at("text:2")), other);
    assert_eq!(fetch(&at(&format!("text@{}", digest(&manifest)))), manifest);
    assert_eq!(fetch(&at(&format!("other@{}", digest(&text)))), text);
    let output = host.capstan(&["content", "fetch-object", "--plain-http", &at("text:2")]);
    assert_eq!(output.stderr, format!("{} {MANIFEST} {}\n", digest(&other), other.len()));
    let large = noise(5_000_000, 9);
    object(&at("other:1"), &large, "application/octet-stream");
    assert!(fetch(&at(&format!("other@{}", digest(&large)))) == large);

    let none = at(&format!("other@{}", digest(b"none")));
    host.fails(&["content", "fetch-object", "--plain-http", &none], 3, "NotFound", &["other@"]);
    let push = ["content", "push-object", "--plain-http"];
    let refuse = |code: i32, class: &str, args: &[&str]| {
        host.fails(&[&push[..], args].concat(), code, class, &[]);
    };
    refuse(3, "NotFound", &[&at("x:1"), &digest(b"none"), "text/plain"]);
    refuse(5, "InvalidArgument", &[&at("x:1"), "sha256:none", "text/plain"]);
    refuse(5, "InvalidArgument", &[&none, &digest(&text), "text/plain"]);
    refuse(5, "InvalidArgument", &[&at("x:1"), &digest(&text), "text/plain\n"]);
    refuse(10, "Corrupt", &[&at("x:1"), &digest(&text), MANIFEST]);
    let config = bytes(&json!({ "config": 1 }));
    object(&at("x:1"), &config, CONFIG);
    assert_eq!(tags(&to, "x"), Vec::<String>::new(), "a blob gets no name");
}

#[test]
fn a_push_outlives_breaks() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::with_config("[plugins.\"transfer.local\"]\npush_chunk_bytes = 1000000\n");
    let image = image(4, 3_000_000);
    let source = from.offer("app", &image);
    pull(&host, &source);
    for at in [300_000, 900_000, 600_000] {
        proxy.make(1, "", "/uploads/", Trouble::CutRequest(at));
    }
    push(&host, &format!("{}/app:1", proxy.address()), &source);
    let broken = proxy.exchanges().into_iter().filter(|one| one.status == 0);
    let at: Vec<u64> = broken.map(|one| one.brought).collect();
    assert_eq!(at, [300_000, 900_000, 600_000]);
    assert_eq!(digest(&raw(&to, "app:1")), image.manifest);
    copy(&to, "app:1", &host);
}

/// A registry in trouble is asked again by each request of a push, with its own word on when, and not for ever.
#[test]
fn a_push_to_a_registry_in_trouble_goes_on() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::with_config("[plugins.\"transfer.local\"]\nattempts = 3\n");
    let places =
        [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/")];
    let later = vec![("Retry-After".to_owned(), "1".to_owned())];
    let troubles = [
        Trouble::Answer(503, Vec::new(), Vec::new()),
        Trouble::Answer(429, later, Vec::new()),
        Trouble::Reset,
    ];
    let mut seed = 400;
    // Each of its own, so that nothing is there or mounted.
    let mut made = || {
        seed += 1;
        let layers = vec![Layer::new().file("noise", 0o644, &noise(1000, seed))];
        let image = Image::new(layers);
        let source = from.offer(&format!("app-{seed}"), &image);
        host.ok(&["images", "pull", "--plain-http", "--no-unpack", &source]);
        (image, source)
    };
    for (number, (method, place)) in places.into_iter().enumerate() {
        for (kind, trouble) in troubles.iter().enumerate() {
            let (image, source) = made();
            let what = format!("{method} {place}: {trouble:?}");
            proxy.behave();
            proxy.forget();
            proxy.make(1, method, place, trouble.clone());
            let repository = format!("app-{number}-{kind}");
            let begin = Instant::now();
            push(&host, &format!("{}/{repository}:1", proxy.address()), &source);
            assert_eq!(digest(&raw(&to, &format!("{repository}:1"))), image.manifest, "{what}");
            if kind == 1 {
                assert!(begin.elapsed() >= Duration::from_secs(1), "{what}: it did not wait");
            }
            let hurt =
                proxy.exchanges().iter().filter(|one| [0, 429, 503].contains(&one.status)).count();
            assert_eq!(hurt, 1, "{what}");
        }
        let (_, source) = made();
        proxy.behave();
        proxy.forget();
        proxy.make(usize::MAX, method, place, troubles[0].clone());
        let name = format!("{}/never-{number}:1", proxy.address());
        let args = ["images", "push", "--plain-http", &name, &source];
        host.fails(&args, 7, "Unavailable", &["503"]);
        let hurt = proxy.exchanges().iter().filter(|one| one.status == 503).count();
        assert!((2..=15).contains(&hurt), "{method} {place}: asked {hurt} times");
        assert_eq!(tags(&to, &format!("never-{number}")), Vec::<String>::new());
    }
}

#[test]
fn a_push_that_is_cancelled_names_nothing() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    let image = image(5, 6_000_000);
    let source = from.offer("app", &image);
    pull(&host, &source);
    proxy.make(1, "", "/uploads/", Trouble::HoldRequest(3_000_000));
    let name = format!("{}/app:1", proxy.address());
    let mut push =
        host.command(&["images", "push", "--plain-http", &name, &source]).spawn().unwrap();
    let held = || proxy.exchanges().into_iter().find(|one| one.brought == 3_000_000);
    host.until("the upload stands still", || held().is_some_and(|one| !one.is_over));
    push.kill().unwrap();
    push.wait().unwrap();
    host.until("the daemon has given it up", || held().is_some_and(|one| one.is_over));
    assert_eq!(tags(&to, "app"), Vec::<String>::new());
    self::push(&host, &name, &source);
    assert_eq!(tags(&to, "app"), ["1"]);
    copy(&to, "app:1", &host);
}

/// On a terminal a line for each thing and what it came to; what is there already says so; elsewhere the result alone.
#[test]
fn a_terminal_shows_what_is_sent() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let host = Host::new();
    let image = image(9, 3_000_000);
    let source = from.offer("app", &image);
    pull(&host, &source);
    let tmux = Tmux::new(&host, "push");
    tmux.run(&["resize-window", "-x", "180", "-y", "40"]);
    let short = |kind: &str, digest: &str| format!("{kind} {}", &digest[7..19]);
    let mut blobs: Vec<String> = image.layers.iter().map(|layer| short("layer", layer)).collect();
    blobs.push(short("config", &image.config()));
    let manifest = short("manifest", &image.manifest);
    let name = format!("{}/app:1", to.address());
    let capstan = program("capstan");
    let capstan = capstan.display();
    for (round, word) in [(1, "done"), (2, "exists")] {
        tmux.type_line(&format!(
            "clear; {capstan} images push --plain-http {name} {source}; echo {round}=$?"
        ));
        tmux.sees(&host, &format!("{round}=0"));
        let screen = tmux.screen();
        let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
        let end = lines.iter().position(|line| line.starts_with("elapsed: "));
        let end = end.unwrap_or_else(|| panic!("no summary: {screen}"));
        for blob in &blobs {
            let line = lines[..end].iter().find(|line| line.starts_with(blob));
            let line = line.unwrap_or_else(|| panic!("no {blob}: {screen}"));
            assert!(line.contains(&format!(" {word} ")), "{screen}");
        }
        assert!(lines[..end].iter().any(|line| line.starts_with(&manifest)), "{screen}");
        assert_eq!(lines[end + 1], format!("{name}  {}", image.manifest), "{screen}");
        assert!(!screen.contains("in all"), "{screen}");
    }
    let output = host.capstan(&["images", "push", "--plain-http", &name, &source]);
    assert_eq!((output.code, &*output.stderr), (0, ""));
    assert_eq!(output.stdout, format!("{name}  {}\n", image.manifest));
}

/// Two at once send each blob once.
#[test]
fn two_pushes_are_one() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    let source = from.offer("app", &image(6, 8_000_000));
    pull(&host, &source);
    std::thread::scope(|scope| {
        for tag in ["1", "2", "3"] {
            let name = format!("{}/app:{tag}", proxy.address());
            let (host, source) = (&host, &source);
            scope.spawn(move || push(host, &name, source));
        }
    });
    let sent = proxy.brought();
    assert!(sent < 10_000_000, "{sent}");
    let mut tags = tags(&to, "app");
    tags.sort();
    assert_eq!(tags, ["1", "2", "3"]);
}

#[test]
fn layers_are_packed_anew_with_zstd() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    let image = image(7, 100_000);
    let source = from.offer("app", &image);
    pull(&host, &source);
    let zstd = |name: &str, source: &str| {
        let name = format!("{}/{name}", proxy.address());
        host.ok(&["images", "push", "--plain-http", "--compression", "zstd", &name, source])
    };
    zstd("app:1", &source);
    let manifest: Value = serde_json::from_slice(&raw(&to, "app:1")).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    }
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    let sum = |host: &Host, name: &str| {
        host.ok(&["run", "--rm", "--plain-http", "--net", "host", name, "sha256sum", "/noise"])
    };
    let other = Host::new();
    assert_eq!(sum(&other, &format!("{}/app:1", to.address())), sum(&host, &source));
    // The image here stays as it is.
    assert_eq!(digest_of(&host, &source), image.manifest);
    push(&host, &format!("{}/same:1", to.address()), &source);
    assert_eq!(digest(&raw(&to, "same:1")), image.manifest);

    // Again: nothing is packed, nothing is sent, the same comes out.
    proxy.forget();
    let args = ["--format", "json", "images", "push", "--plain-http", "--compression", "zstd"];
    let name = format!("{}/app:2", proxy.address());
    let output = host.capstan(&[&args[..], &[&name, &source]].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(!output.stdout.contains("\"converting\""), "{}", output.stdout);
    assert_eq!(raw(&to, "app:2"), raw(&to, "app:1"));
    assert!(proxy.brought() < 10_000);

    // Through an index, from Docker's types, with one layer that is not compressed.
    let plain = Layer::new().file("plain", 0o644, b"plain").into_tar();
    let config = bytes(&json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [digest(&plain)] },
    }));
    let docker = "application/vnd.docker";
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": format!("{docker}.distribution.manifest.v2+json"),
        "config": descriptor(&format!("{docker}.container.image.v1+json"), &config),
        "layers": [descriptor(&format!("{docker}.image.rootfs.diff.tar"), &plain)],
    }));
    let list = format!("{docker}.distribution.manifest.list.v2+json");
    let mut entry = descriptor(&format!("{docker}.distribution.manifest.v2+json"), &manifest);
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let index = bytes(&json!({ "schemaVersion": 2, "mediaType": list, "manifests": [entry] }));
    import(&host, &layout(&[plain, config, manifest, index], &list, "h.example/docker:1"));
    zstd("docker:1", "h.example/docker:1");
    let index: Value = serde_json::from_slice(&raw(&to, "docker:1")).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(index["manifests"][0]["mediaType"], MANIFEST);
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
    copy(&to, "docker:1", &host);

    // What is no image has nothing to be packed.
    let (empty, text) = (b"{}".to_vec(), b"text".to_vec());
    let artifact = bytes(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(EMPTY, &empty), "layers": [descriptor("text/plain", &text)],
    }));
    let entries = json!([descriptor(MANIFEST, &artifact)]);
    let index = bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
    import(&host, &layout(&[empty, text, artifact, index], INDEX, "h.example/text:1"));
    let name = format!("{}/text:1", to.address());
    let args =
        ["images", "push", "--plain-http", "--compression", "zstd", &name, "h.example/text:1"];
    host.fails(&args, 5, "InvalidArgument", &["--compression"]);
}

/// One layer is not what its image says: when that is told, nobody packs the other one any more.
#[test]
fn what_cannot_be_packed_leaves_nothing_under_way() {
    let host = Host::new();
    let large = Layer::new().file("noise", 0o644, &noise(30_000_000, 41)).into_tar();
    let small = Layer::new().file("text", 0o644, b"text").into_tar();
    let diff_ids = [digest(&large), digest(b"something else")];
    let config = bytes(&json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }));
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(layer, &large), descriptor(layer, &small)],
    }));
    let entries = json!([descriptor(MANIFEST, &manifest)]);
    let index = bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
    let name = "h.example/app:1";
    import(&host, &layout(&[large, small, config, manifest, index], INDEX, name));
    let before = host.ids(&["content", "ls"]).len();
    let args = ["images", "push", "--plain-http", "--compression", "zstd"];
    let nobody = "127.0.0.1:1/app:1";
    host.fails(&[&args[..], &[nobody, name]].concat(), 10, "Corrupt", &["it inflates to"]);
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
    assert_eq!(host.ids(&["content", "ls"]).len(), before);
}

/// So many blobs are sent at once as are asked for, or as the daemon takes, and no more; the name is given behind all of
/// them (F-156, D115).
#[test]
fn as_many_blobs_are_sent_at_once_as_are_asked_for() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    proxy.make(usize::MAX, "", "/blobs/", Trouble::Delay(Duration::from_millis(100)));
    let host = Host::new();
    let layers = (0..7).map(|number| Layer::new().file("noise", 0o644, &noise(1000, 300 + number)));
    let source = from.offer("app", &Image::new(layers.collect()));
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &source]);
    let cases: [(&[&str], usize); 3] =
        [(&["--concurrency", "1"], 1), (&["--concurrency", "6"], 6), (&[], 4)];
    for (number, (args, want)) in cases.into_iter().enumerate() {
        proxy.forget();
        let name = format!("{}/app-{number}:1", proxy.address());
        host.ok(&[&["images", "push", "--plain-http"], args, &[&name, &source]].concat());
        assert_eq!(proxy.most_blobs_at_once(), want, "{args:?}");
        let asked = proxy.take_asked();
        assert!(asked.last().unwrap().starts_with("PUT /v2/app-"), "{asked:?}");
        assert!(asked.last().unwrap().ends_with("/manifests/1"), "{asked:?}");
    }
}

#[test]
fn bad_pushes_have_their_classes() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let host = Host::new();
    let image = image(8, 100);
    let source = from.offer("app", &image);
    pull(&host, &source);
    let at = |name: &str| format!("{}/{name}", to.address());
    let refuse = |code: i32, class: &str, args: &[&str], parts: &[&str]| {
        host.fails(&[&["images", "push", "--plain-http"], args].concat(), code, class, parts);
    };
    refuse(3, "NotFound", &[&at("app:1"), "h.example/none:1"], &["h.example/none:1"]);
    refuse(3, "NotFound", &[&at("app:1")], &[&at("app:1")]);
    refuse(5, "InvalidArgument", &[&at("APP:1"), &source], &["APP"]);
    refuse(5, "InvalidArgument", &["http://x/app", &source], &["scheme"]);
    let other = at(&format!("app@{}", digest(b"other")));
    refuse(5, "InvalidArgument", &[&other, &source], &["leave the digest out"]);
    refuse(7, "Unavailable", &["127.0.0.1:1/app:1", &source], &["127.0.0.1:1"]);
    let args = ["--platform", "linux/s390x", &at("app:1"), &source];
    refuse(3, "NotFound", &args, &["linux/s390x"]);
    refuse(5, "InvalidArgument", &["--platform", "x", &at("app:1"), &source], &[]);
    let lzma = &["--compression", "lzma", &at("app:1"), &source];
    let output = host.capstan(&[&["images", "push", "--plain-http"], &lzma[..]].concat());
    assert_eq!(output.code, 2, "{}", output.stderr);
    // With its digest and without a tag it is stored, and has no name.
    let by_digest = at(&format!("app@{}", image.manifest));
    push(&host, &by_digest, &source);
    assert_eq!(tags(&to, "app"), Vec::<String>::new());
    assert_eq!(digest(&raw(&to, &format!("app@{}", image.manifest))), image.manifest);

    let storage = tempfile::tempdir().unwrap();
    let read_only = DockerRegistry::guarded(storage.path(), &Guard::new().read_only());
    let name = format!("{}/app:1", read_only.address());
    refuse(6, "FailedPrecondition", &[&name, &source], &[&name, "read-only"]);

    // The registry does not have what it needs.
    host.fails(
        &["content", "push-object", "--plain-http", &at("other:1"), &image.manifest, MANIFEST],
        6,
        "FailedPrecondition",
        &["MANIFEST_BLOB_UNKNOWN"],
    );
    // Damaged here: the registry says so, and we find out.
    let layer = image.layers[1].trim_start_matches("sha256:");
    let files = succeed("find", &[host.root().to_str().unwrap(), "-name", layer, "-type", "f"]);
    let file = String::from_utf8(files).unwrap().trim().to_owned();
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[50] ^= 1;
    succeed("chmod", &["u+w", &file]);
    std::fs::write(&file, damaged).unwrap();
    let other = DockerRegistry::empty();
    let name = format!("{}/app:1", other.address());
    refuse(10, "Corrupt", &[&name, &source], &[layer, "capstan system heal"]);
    assert_eq!(tags(&other, "app"), Vec::<String>::new());
    std::fs::write(&file, whole).unwrap();

    host.ok(&["content", "rm", &image.layers[1]]);
    refuse(3, "NotFound", &[&at("app:1"), &source], &[&image.layers[1]]);
    assert_eq!(tags(&to, "app"), Vec::<String>::new());
}
