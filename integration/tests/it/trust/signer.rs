//! Signs images as `cosign sign --key` does, with openssl.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use capstan_integration::{Image, digest, find};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The type of a sigstore bundle.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Where cosign has the signatures of an image, in the image's repository.
pub(super) fn tag_of(image: &Image) -> String {
    image.manifest.replace(':', "-") + ".sig"
}

fn openssl(args: &[&str], dir: &Path) -> Vec<u8> {
    let output = Command::new(find("openssl")).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What describes a blob.
fn describe(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// Somebody with a pair of keys, of NIST P-256.
pub(super) struct Signer(TempDir);

impl Signer {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "private"];
        openssl(&make, dir.path());
        openssl(&["ec", "-in", "private", "-pubout", "-out", "public"], dir.path());
        Self(dir)
    }

    /// A rule that wants this one's signature for certain images.
    pub(super) fn rule(&self, images: &str) -> String {
        let pem = std::fs::read_to_string(self.0.path().join("public")).unwrap();
        format!("rules = [{{ images = {images:?}, keys = [{pem:?}] }}]")
    }

    /// The signature of a message, in base64.
    fn sign(&self, message: &[u8]) -> String {
        std::fs::write(self.0.path().join("message"), message).unwrap();
        let signature = openssl(&["dgst", "-sha256", "-sign", "private", "message"], self.0.path());
        BASE64_STANDARD.encode(signature)
    }

    /// What cosign keeps below the tag of an image that it signs for a repository.
    pub(super) fn signature(&self, of: &Image, repository: &str) -> Image {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": repository },
                "image": { "docker-manifest-digest": of.manifest },
                "type": "cosign container image signature",
            },
            "optional": null,
        })
        .to_string()
        .into_bytes();
        let config =
            br#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let mut layer = describe("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": self.sign(&payload) });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe("application/vnd.oci.image.config.v1+json", &config),
            "layers": [layer],
        });
        of_blobs(&manifest, vec![payload, config])
    }

    /// The bundle that cosign has refer to an image that it signs: a statement about the digest of `of`, which refers to
    /// `subject`.
    pub(super) fn bundle(&self, of: &Image, subject: &Image) -> Image {
        let kind = "application/vnd.in-toto+json";
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "digest": { "sha256": of.manifest.strip_prefix("sha256:").unwrap() } }],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        })
        .to_string();
        let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let bundle = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": { "publicKey": { "hint": "" } },
            "dsseEnvelope": {
                "payload": BASE64_STANDARD.encode(&statement),
                "payloadType": kind,
                "signatures": [{ "sig": self.sign(message.as_bytes()) }],
            },
        })
        .to_string()
        .into_bytes();
        let config = b"{}".to_vec();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": BUNDLE,
            "config": describe("application/vnd.oci.empty.v1+json", &config),
            "layers": [describe(BUNDLE, &bundle)],
            "subject": describe(subject.media_type(), &subject.blobs[&subject.manifest]),
        });
        of_blobs(&manifest, vec![bundle, config])
    }
}

/// The list of what refers to an image, which stands below a tag of its digest where a registry does not keep one
/// itself.
pub(super) fn referrers(all: &[&Image]) -> Image {
    let mut blobs = BTreeMap::new();
    let mut manifests = Vec::new();
    for referrer in all {
        blobs.extend(referrer.blobs.clone());
        let mut entry = describe(OCI_MANIFEST, &referrer.blobs[&referrer.manifest]);
        entry["artifactType"] = BUNDLE.into();
        manifests.push(entry);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    let mut list = of_blobs(&index, Vec::new());
    list.blobs.extend(blobs);
    list
}

fn of_blobs(json: &Value, blobs: Vec<Vec<u8>>) -> Image {
    let document = json.to_string().into_bytes();
    let manifest = digest(&document);
    let listed = json["layers"].as_array().into_iter().flatten();
    let layers = listed.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect();
    let blobs = blobs.into_iter().chain([document]).map(|blob| (digest(&blob), blob)).collect();
    Image { blobs, manifest, layers }
}
