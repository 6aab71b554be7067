//! What is found beside an image, and by which names.

use std::cell::Cell as Count;

use capstan_sdk::Algorithm;
use serde_json::json;

use super::*;

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const NAME: &str = "registry.example/app:1";

/// Runs a test inside an actix system.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    actix::System::new().block_on(async { test().await });
}

fn digest_of(bytes: &[u8]) -> Digest {
    hash(Algorithm::Sha256, bytes)
}

fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    let (digest, size) = (digest_of(bytes), bytes.len() as u64);
    Descriptor { media_type: media_type.into(), digest, size, platform: None }
}

/// A manifest of signatures.
fn manifest(layers: &serde_json::Value) -> Vec<u8> {
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest_of(b"{}").as_str(),
        "size": 2,
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    manifest.to_string().into_bytes()
}

fn piece(payload: &[u8], size: u64) -> serde_json::Value {
    json!({
        "mediaType": SIMPLE,
        "digest": digest_of(payload).as_str(),
        "size": size,
        "annotations": { "dev.cosignproject.cosign/signature": "AAAA", "": "no key" },
    })
}

/// What is found in a manifest whose blobs are all the same, and how often one was read.
async fn findings(manifest: &[u8], kind: &str, blob: &[u8]) -> (Result<Vec<Evidence>>, usize) {
    let (mut findings, reads) = (Findings::default(), Count::new(0));
    let read = async |_: &Descriptor| {
        reads.set(reads.get() + 1);
        Ok(Bytes::copy_from_slice(blob))
    };
    let added = findings.add(&describe(OCI_MANIFEST, manifest), manifest, kind, read).await;
    (added.map(|()| findings.into_evidence()), reads.get())
}

#[test]
fn pieces_of_a_manifest_are_evidence() {
    run(|| async {
        let manifest = manifest(&json!([piece(b"payload", 7)]));
        for (kind, want) in [("", SIMPLE), (BUNDLE, BUNDLE)] {
            let (found, reads) = findings(&manifest, kind, b"payload").await;
            let signature = ("dev.cosignproject.cosign/signature".into(), "AAAA".into());
            let want = Evidence {
                artifact_type: want.into(),
                media_type: SIMPLE.into(),
                payload: b"payload".to_vec(),
                annotations: Labels::from([signature]),
            };
            assert_eq!((found, reads), (Ok(vec![want]), 1));
        }
        let error = findings(&manifest, "", b"another").await.0.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert!(error.message().contains(digest_of(b"payload").as_str()), "{error}");
    });
}

#[test]
fn what_is_no_manifest_of_signatures_has_no_evidence() {
    run(|| async {
        let mut bad = piece(b"payload", 7);
        bad["digest"] = "sha256:short".into();
        let index = json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes();
        for manifest in [b"".to_vec(), b"[]".to_vec(), index, manifest(&json!([bad]))] {
            assert_eq!(findings(&manifest, "", b"payload").await, (Ok(vec![]), 0));
        }
    });
}

#[test]
fn evidence_beyond_the_limits_is_left_out() {
    run(|| async {
        // Too large as it says itself: it is not even read.
        let large = manifest(&json!([piece(b"payload", MAX_EVIDENCE_BYTES + 1)]));
        assert_eq!(findings(&large, "", b"payload").await, (Ok(vec![]), 0));
        let many = vec![piece(b"payload", 7); MAX_EVIDENCE + 5];
        let (found, reads) = findings(&manifest(&json!(many)), "", b"payload").await;
        assert_eq!((found.unwrap().len(), reads), (MAX_EVIDENCE, MAX_EVIDENCE));
        // As many of the largest as fit.
        let largest = vec![0; usize::try_from(MAX_EVIDENCE_BYTES).unwrap()];
        let fit = usize::try_from(MAX_EVIDENCE_TOTAL_BYTES / MAX_EVIDENCE_BYTES).unwrap();
        let many = vec![piece(&largest, MAX_EVIDENCE_BYTES); fit + 1];
        let (found, reads) = findings(&manifest(&json!(many)), "", &largest).await;
        assert_eq!((found.unwrap().len(), reads), (fit, fit));
    });
}

#[test]
fn signatures_are_known_by_name_by_kind_and_by_what_they_refer_to() {
    let digest = digest_of(b"image");
    let tag = cosign_tag(&Reference::parse(NAME).unwrap(), &digest).unwrap().to_string();
    assert_eq!(tag, format!("registry.example/app:sha256-{}.sig", digest.hex()));
    let pinned = Reference::parse(&format!("registry.example:5000/a/b:1@{digest}")).unwrap();
    let tag = cosign_tag(&pinned, &digest).unwrap().to_string();
    assert_eq!(tag, format!("registry.example:5000/a/b:sha256-{}.sig", digest.hex()));
    let long = hash(Algorithm::Sha512, b"image");
    assert_eq!(cosign_tag(&pinned, &long), None, "a tag has at most 128 characters");

    for kind in ["sigs", "atts", "sboms"] {
        assert!(is_about_an_image(&format!("dev.cosignproject.cosign/{kind}")), "{kind}");
    }
    for kind in
        ["", "sigs", "dev.cosignproject.cosign/image", "dev.cosignproject.cosign/imageIndex"]
    {
        assert!(!is_about_an_image(kind), "{kind}");
    }

    let referrer = |kind: Option<&str>, config: &str, subject: &Digest| {
        let mut manifest = json!({
            "config": { "mediaType": config }, "subject": { "digest": subject.as_str() },
        });
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
        artifact_type_of(manifest.to_string().as_bytes(), &digest)
    };
    let empty = "application/vnd.oci.empty.v1+json";
    let old = "application/vnd.dev.cosign.artifact.sig.v1+json";
    assert_eq!(referrer(Some(BUNDLE), empty, &digest).as_deref(), Some(BUNDLE));
    assert_eq!(referrer(None, old, &digest).as_deref(), Some(old));
    assert_eq!(referrer(Some(BUNDLE), empty, &digest_of(b"other")), None);
    assert_eq!(referrer(Some("application/spdx+json"), empty, &digest), None);
    assert_eq!(artifact_type_of(b"{}", &digest), None);
}

#[test]
fn a_registry_without_signatures_is_no_error_and_one_that_fails_is() {
    for class in [Class::NotFound, Class::Unimplemented, Class::Corrupt] {
        assert_eq!(there_is::<()>(Err(Error::new(class, "none"))), Ok(None));
    }
    for class in [Class::Unavailable, Class::PermissionDenied, Class::ResourceExhausted] {
        assert_eq!(there_is::<()>(Err(Error::new(class, "no"))).unwrap_err().class(), class);
    }
    assert_eq!(there_is(Ok(1)), Ok(Some(1)));
}
