//! verifier.cosign passes the suite of its kind, and lets in what the keys of its rules signed.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use capstan_sdk::conformance::verifier;
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::verifier::{Ask, Evidence, Verdict, Verify};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Algorithm, Class, Descriptor, Digest, Labels, Link, Namespace};
use capstan_verify_cosign::CosignVerifier;

const P256: &str = include_str!("data/p256.pub");
const P384: &str = include_str!("data/p384.pub");
const ED25519: &str = include_str!("data/ed25519.pub");
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// What the payloads in data/ are for.
const NAME: &str = "registry.example/app:1";

fn section(keys: &[&str], rest: &str) -> String {
    format!("[[rules]]\nimages = \"registry.example/**\"\nkeys = {keys:?}\n{rest}\n")
}

/// The payload with the signature of a key.
fn simple(signature: &[u8]) -> Evidence {
    let signature = BASE64_STANDARD.encode(signature);
    Evidence {
        artifact_type: SIMPLE.into(),
        media_type: SIMPLE.into(),
        payload: include_bytes!("data/message").to_vec(),
        annotations: Labels::from([("dev.cosignproject.cosign/signature".into(), signature)]),
    }
}

fn by_p256() -> Evidence {
    simple(include_bytes!("data/p256.sig"))
}

fn by_ed25519() -> Evidence {
    simple(include_bytes!("data/ed25519.sig"))
}

/// The bundle that the key p384 signed.
fn bundle() -> Evidence {
    Evidence {
        artifact_type: BUNDLE.into(),
        media_type: BUNDLE.into(),
        payload: include_bytes!("data/bundle.json").to_vec(),
        annotations: Labels::new(),
    }
}

async fn verify(link: &Link<Verifier>, name: &str, number: u8, evidence: Vec<Evidence>) -> Verdict {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: Digest::from_hash(Algorithm::Sha256, &[number; 32]),
        size: 2,
        platform: None,
    };
    let namespace = Namespace::parse("default").unwrap();
    let question =
        Verify { namespace, name: name.into(), target, document: b"{}".to_vec(), evidence };
    link.send(question).await.unwrap()
}

/// Asks a verifier with one rule; `want` is empty where it accepts, else part of the reason.
async fn check(section: &str, name: &str, number: u8, evidence: Vec<Evidence>, want: &str) {
    let mut bench = Bench::new();
    bench.start::<CosignVerifier>(section).await.unwrap();
    match verify(&bench.link("verifier"), name, number, evidence).await {
        Verdict::Accepted => assert_eq!(want, "", "{section} {name} {number}"),
        Verdict::Refused(reason) => {
            assert!(!want.is_empty() && reason.contains(want), "{reason:?}, want {want:?}");
        }
    }
}

#[test]
fn conformance() {
    run(|| async {
        for section in ["", "default = \"refuse\"", &section(&[P256, ED25519], "required = 2")] {
            let mut bench = Bench::new();
            bench.start::<CosignVerifier>(section).await.unwrap();
            verifier::run(&bench.link("verifier")).await;
        }
    });
}

#[test]
fn only_what_a_key_of_the_rule_signed_is_let_in() {
    run(|| async {
        let one = section(&[P256], "");
        check(&one, NAME, 7, vec![by_p256()], "").await;
        check(&one, NAME, 7, vec![by_ed25519(), by_p256()], "").await;
        check(&one, NAME, 7, vec![], "nobody signed sha256:0707").await;
        check(&one, NAME, 7, vec![by_ed25519()], "no trusted key signed sha256:0707").await;
        check(&one, NAME, 8, vec![by_p256()], "is for another digest").await;
        check(&one, "registry.example/b:1", 7, vec![by_p256()], "is for registry.example/app")
            .await;
        check(&one, "other.example/app:1", 8, vec![], "").await;
        let mut changed = by_p256();
        changed.payload.extend(b" ");
        check(&one, NAME, 7, vec![changed], "no trusted key").await;
        let copies = section(&[P256], "identity = \"registry.example/app\"");
        check(&copies, "registry.example/b:1", 7, vec![by_p256()], "").await;
        check("default = \"refuse\"", NAME, 7, vec![by_p256()], "no rule is about").await;
    });
}

#[test]
fn so_many_different_keys_must_have_signed() {
    run(|| async {
        let two = section(&[P256, ED25519, P384], "required = 2");
        check(&two, NAME, 7, vec![by_p256(), by_p256()], "1 trusted keys signed").await;
        check(&two, NAME, 7, vec![by_p256(), by_ed25519()], "").await;
        check(&two, NAME, 7, vec![by_p256(), bundle()], "").await;
    });
}

#[test]
fn a_bundle_does_too() {
    run(|| async {
        let rule = section(&[P384], "");
        check(&rule, NAME, 7, vec![bundle()], "").await;
        check(&rule, NAME, 8, vec![bundle()], "is for another digest").await;
        check(&section(&[P256], ""), NAME, 7, vec![bundle()], "no trusted key").await;
        let mut changed = bundle();
        let text = String::from_utf8(changed.payload).unwrap();
        changed.payload = text.replace("\"payload\":\"e", "\"payload\":\"f").into_bytes();
        check(&rule, NAME, 7, vec![changed], "no trusted key").await;
    });
}

#[test]
fn evidence_is_wanted_where_a_rule_is_about_the_image() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<CosignVerifier>(&section(&[P256], "")).await.unwrap();
        let link = bench.link::<Verifier>("verifier");
        for (name, want) in [(NAME, true), ("other.example/app:1", false), ("App", false)] {
            let namespace = Namespace::parse("default").unwrap();
            let wants = link.send(Ask { namespace, name: name.into() }).await.unwrap();
            assert_eq!(wants, want, "{name}");
        }
    });
}

#[test]
fn rules_that_mean_nothing_do_not_start() {
    run(|| async {
        for bad in [
            section(&[], ""),
            section(&["key.pub"], ""),
            section(&["-----BEGIN PUBLIC KEY-----"], ""),
            section(&[P256], "required = 0"),
            section(&[P256], "required = 2"),
            section(&[P256, P256], "required = 2"),
            section(&[P256], "identity = \"\""),
        ] {
            let started = Bench::new().start::<CosignVerifier>(&bad).await;
            assert_eq!(started.unwrap_err().class(), Class::InvalidArgument, "{bad}");
        }
        let missing = section(&["/none/key.pub"], "");
        let started = Bench::new().start::<CosignVerifier>(&missing).await;
        assert_eq!(started.unwrap_err().class(), Class::NotFound);
    });
}
