//! The suite of kind `verifier`.

use capstan_schema::{Algorithm, Descriptor, Digest, Namespace};

use crate::contract::Verifier;
use crate::contract::verifier::{Ask, Evidence, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, Verdict, Verify};
use crate::oci::media::OCI_MANIFEST;
use crate::{Labels, Link};

/// Names of all forms that a reference has.
const NAMES: [&str; 4] = [
    "registry.example/app:1",
    "registry.example:5000/a/b/c@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "registry.example/library/app:latest",
    "localhost/app:1",
];

/// Runs all cases.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<Verifier>) {
    the_same_question_has_the_same_answer(link).await;
    what_nobody_signed_convinces_nobody(link).await;
    the_order_of_evidence_decides_nothing(link).await;
    a_refusal_is_one_line(link).await;
    any_name_has_an_answer(link).await;
}

fn namespace() -> Namespace {
    Namespace::parse("default").expect("a namespace")
}

fn question(name: &str, evidence: Vec<Evidence>) -> Verify {
    let document = b"{\"schemaVersion\":2}".to_vec();
    Verify {
        namespace: namespace(),
        name: name.into(),
        target: Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::from_hash(Algorithm::Sha256, &[7; 32]),
            size: document.len() as u64,
            platform: None,
        },
        document,
        evidence,
    }
}

/// Things that are no proof of anything: nothing, nonsense, what only looks like a signature, the largest.
fn junk() -> Vec<Evidence> {
    const COSIGN: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let payload = format!(
        "{{\"critical\":{{\"identity\":{{\"docker-reference\":\"registry.example/app\"}},\"image\":{{\
         \"docker-manifest-digest\":\"sha256:{}\"}},\"type\":\"cosign container image signature\"}},\"optional\":null}}",
        "07".repeat(32)
    );
    let signed = |signature: &str| {
        Labels::from([("dev.cosignproject.cosign/signature".to_owned(), signature.to_owned())])
    };
    let largest = usize::try_from(MAX_EVIDENCE_BYTES).expect("it fits");
    let piece = |kind: &str, payload: &[u8], annotations: Labels| Evidence {
        artifact_type: kind.into(),
        media_type: kind.into(),
        payload: payload.to_vec(),
        annotations,
    };
    vec![
        piece("", b"", Labels::new()),
        piece(COSIGN, b"", Labels::new()),
        piece(COSIGN, b"{}", signed("")),
        piece(COSIGN, payload.as_bytes(), Labels::new()),
        piece(COSIGN, payload.as_bytes(), signed("AAAA")),
        piece(COSIGN, payload.as_bytes(), signed("no base64 \u{0}\n\u{1f6a2}")),
        piece(COSIGN, "[".repeat(100_000).as_bytes(), signed("AAAA")),
        piece(BUNDLE, b"{\"messageSignature\":{}}", Labels::new()),
        piece(
            BUNDLE,
            b"{\"dsseEnvelope\":{\"payload\":\"e30=\",\"signatures\":[{\"sig\":\"AAAA\"}]}}",
            Labels::new(),
        ),
        piece(BUNDLE, &vec![0xff; largest], Labels::new()),
    ]
}

async fn verify(link: &Link<Verifier>, question: Verify) -> Verdict {
    link.send(question).await.expect("verify")
}

async fn the_same_question_has_the_same_answer(link: &Link<Verifier>) {
    for name in NAMES {
        let ask = Ask { namespace: namespace(), name: name.into() };
        let wants = link.send(ask.clone()).await.expect("ask");
        assert_eq!(link.send(ask).await.expect("ask"), wants, "{name}");
        for evidence in [vec![], junk()] {
            let question = question(name, evidence);
            let first = verify(link, question.clone()).await;
            assert_eq!(verify(link, question).await, first, "{name}");
        }
    }
}

async fn what_nobody_signed_convinces_nobody(link: &Link<Verifier>) {
    let is_refused = |verdict: &Verdict| *verdict != Verdict::Accepted;
    for name in NAMES {
        let alone = verify(link, question(name, vec![])).await;
        for piece in junk() {
            let with = verify(link, question(name, vec![piece.clone()])).await;
            let kind = piece.media_type;
            assert_eq!(
                is_refused(&with),
                is_refused(&alone),
                "{name}, with a piece of type {kind:?}"
            );
        }
    }
}

async fn the_order_of_evidence_decides_nothing(link: &Link<Verifier>) {
    let mut evidence = junk();
    let first = verify(link, question(NAMES[0], evidence.clone())).await == Verdict::Accepted;
    for _ in 1..evidence.len() {
        evidence.rotate_left(1);
        let verdict = verify(link, question(NAMES[0], evidence.clone())).await;
        assert_eq!(verdict == Verdict::Accepted, first, "{verdict:?}");
    }
}

async fn a_refusal_is_one_line(link: &Link<Verifier>) {
    let many = junk().into_iter().take(9).cycle().take(MAX_EVIDENCE).collect();
    for name in NAMES {
        for evidence in [vec![], junk()] {
            check_line(&verify(link, question(name, evidence)).await);
        }
    }
    check_line(&verify(link, question(NAMES[0], many)).await);
}

fn check_line(verdict: &Verdict) {
    if let Verdict::Refused(reason) = verdict {
        assert!(!reason.is_empty(), "a refusal says why");
        assert!(!reason.contains(char::is_control), "{reason:?} is one line");
        assert!(reason.len() < 1000, "{reason:?} is short");
    }
}

/// It may be an error, which refuses too; afterwards the verifier goes on.
async fn any_name_has_an_answer(link: &Link<Verifier>) {
    let long = format!("registry.example/{}:1", "a".repeat(100_000));
    for name in ["", "*", "..", "a b", "\u{1b}[2J", "HTTP://x", "a\nb", &long] {
        let asked = link.send(Ask { namespace: namespace(), name: name.into() }).await;
        let verdict = link.send(question(name, vec![])).await;
        if let Ok(verdict) = &verdict {
            check_line(verdict);
        }
        drop(asked);
    }
    verify(link, question(NAMES[0], vec![])).await;
}
