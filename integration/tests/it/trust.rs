//! Images get their names only if the verifiers let them; what is refused leaves nothing.

use std::path::Path;
use std::process::Command;

use capstan_integration::{FakeRegistry, Host, Image, Layer, digest, find};
use serde_json::{Value, json};

fn image(what: &str) -> Image {
    Image::new(vec![Layer::new().busybox().file("what", 0o644, what.as_bytes())])
}

/// A daemon with rules for `verifier.NAME`.
fn host(name: &str, rules: &str) -> Host {
    Host::with_config(&format!("[plugins.\"verifier.{name}\"]\n{rules}\n"))
}

fn assert_refused(host: &Host, image: &str, reason: &[&str]) {
    let mut parts = vec![image];
    parts.extend(reason);
    host.fails(&["images", "pull", "--plain-http", image], 8, "PermissionDenied", &parts);
    for list in
        [&["images", "ls"][..], &["content", "ls"], &["content", "active"], &["snapshots", "ls"]]
    {
        assert_eq!(host.ids(list), Vec::<String>::new(), "{list:?}");
    }
}

fn assert_taken(host: &Host, image: &str) {
    host.ok(&["images", "pull", "--plain-http", image]);
    host.ok(&["run", "--rm", "--pull", "never", image, "true"]);
}

#[test]
fn only_listed_digests_get_a_name() {
    let registry = FakeRegistry::start();
    let (good, other) = (image("good"), image("other"));
    let name = registry.offer("app", &other);
    let rules = format!(
        "default = \"accept\"\nrules = [{{ images = \"127.0.0.1:*/app\", digests = [{:?}] }}]",
        good.manifest
    );
    let host = host("digest", &rules);
    assert_refused(&host, &name, &["verifier.digest"]);
    registry.offer("app", &good);
    assert_taken(&host, &name);
    // No rule speaks of this one.
    let free = registry.offer("free", &other);
    assert_taken(&host, &free);
}

#[test]
fn a_verifier_that_must_be_asked_and_is_not_there_refuses() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image("good"));
    let host = Host::with_config("[plugins.\"transfer.local\"]\nverifiers = [\"verifier.mine\"]\n");
    let says = ["verifier.mine", "not there"];
    host.fails(&["images", "pull", "--plain-http", &name], 6, "FailedPrecondition", &says);
    assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());
}

/// A pair of keys of NIST P-256.
fn make_key(dir: &Path, name: &str) -> (String, String) {
    let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
    let openssl = |args: &[&str]| {
        let output = Command::new(find("openssl")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (private, public) = (private.to_str().unwrap(), public.to_str().unwrap());
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private]);
    openssl(&["ec", "-in", private, "-pubout", "-out", public]);
    (private.to_owned(), public.to_owned())
}

/// What cosign stores beside an image that it signs.
fn signature(of: &Image, repository: &str, key: &str, dir: &Path) -> Image {
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": repository },
            "image": { "docker-manifest-digest": of.manifest },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string();
    let file = dir.join("payload");
    std::fs::write(&file, &payload).unwrap();
    let output = Command::new(find("openssl"))
        .args(["dgst", "-sha256", "-sign", key])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(dir.join("signature"), &output.stdout).unwrap();
    let text = Command::new(find("openssl"))
        .args(["base64", "-A", "-in"])
        .arg(dir.join("signature"))
        .output()
        .unwrap();
    let signature = String::from_utf8(text.stdout).unwrap();

    let config =
        br#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
    let describe = |media_type: &str, bytes: &[u8]| -> Value {
        json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
    };
    let mut layer =
        describe("application/vnd.dev.cosign.simplesigning.v1+json", payload.as_bytes());
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature.trim() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [layer],
    })
    .to_string()
    .into_bytes();
    let mut stored = image("a place for blobs");
    stored.layers.clear();
    stored.blobs.clear();
    stored.manifest = digest(&manifest);
    for blob in [payload.into_bytes(), config, manifest] {
        stored.blobs.insert(digest(&blob), blob);
    }
    stored
}

#[test]
fn only_what_the_right_key_signed_gets_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let (key, public) = make_key(dir.path(), "right");
    let (wrong, _) = make_key(dir.path(), "wrong");
    let registry = FakeRegistry::start();
    let (good, other) = (image("good"), image("other"));
    let name = registry.offer("app", &good);
    let repository = name.strip_suffix(":latest").unwrap();
    let pem = std::fs::read_to_string(public).unwrap();
    let rules = format!("rules = [{{ images = \"127.0.0.1:*/app\", keys = [{pem:?}] }}]");
    let host = host("cosign", &rules);
    let sign = |of: &Image, to: &Image, repository: &str, key: &str| {
        let tag = to.manifest.replace(':', "-") + ".sig";
        registry.offer_as("app", &tag, &signature(of, repository, key, dir.path()));
    };

    assert_refused(&host, &name, &["verifier.cosign"]);
    sign(&good, &good, repository, &wrong);
    assert_refused(&host, &name, &["verifier.cosign"]);
    // Signatures of another image, and for another repository.
    sign(&other, &good, repository, &key);
    assert_refused(&host, &name, &["verifier.cosign"]);
    sign(&good, &good, "registry.example/app", &key);
    assert_refused(&host, &name, &["verifier.cosign"]);
    sign(&good, &good, repository, &key);
    assert_taken(&host, &name);
    // The tag moves on to what nobody has signed.
    registry.offer("app", &other);
    host.fails(&["images", "pull", "--plain-http", &name], 8, "PermissionDenied", &[&name]);
    let digest = host.json(&["images", "ls"])[0]["target"]["digest"].clone();
    assert_eq!(digest, good.manifest.as_str(), "the name means what it meant before");
    let free = registry.offer("free", &other);
    assert_taken(&host, &free);
}
