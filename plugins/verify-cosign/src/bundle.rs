//! Sigstore bundles (protobuf-specs, sigstore_bundle.proto, in JSON), as `cosign sign --key` makes them since version 3:
//! a DSSE envelope around an in-toto statement.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use capstan_sdk::Digest;
use serde::Deserialize;

/// The media types of bundles begin so; versions differ in what is said of certificates and logs.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// What is in the envelope.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// The statement that an image is signed; others say how it was made, or what is wrong with it.
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::HashMap<String, String>,
}

/// What is signed, and by what.
pub(crate) struct Signed {
    /// The bytes under the signature.
    pub(crate) message: Vec<u8>,
    pub(crate) signatures: Vec<Vec<u8>>,
    statement: Vec<u8>,
}

/// Reads a bundle; `None`: it is none of the kind.
pub(crate) fn read(bytes: &[u8]) -> Option<Signed> {
    let Bundle { dsse_envelope: envelope } = serde_json::from_slice(bytes).ok()?;
    if envelope.payload_type != IN_TOTO {
        return None;
    }
    let statement = BASE64_STANDARD.decode(&envelope.payload).ok()?;
    let signatures = envelope
        .signatures
        .iter()
        .filter_map(|one| BASE64_STANDARD.decode(&one.sig).ok())
        .collect();
    // DSSE, "Pre-Authentication Encoding".
    let head = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), statement.len());
    let message = [head.as_bytes(), &statement].concat();
    Some(Signed { message, signatures, statement })
}

impl Signed {
    /// What it says, if it is not that this image is signed.
    pub(crate) fn objection(&self, digest: &Digest) -> Option<String> {
        let Ok(statement) = serde_json::from_slice::<Statement>(&self.statement) else {
            return Some("is no statement about an image".into());
        };
        if statement.predicate_type != SIGN {
            return Some("says something else than that the image is signed".into());
        }
        let name = digest.algorithm().name();
        let is_meant =
            |subject: &Subject| subject.digest.get(name).is_some_and(|hex| hex == digest.hex());
        (!statement.subject.iter().any(is_meant)).then(|| "is for another digest".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Algorithm;

    fn bundle(statement: &str, kind: &str) -> Vec<u8> {
        let payload = BASE64_STANDARD.encode(statement);
        format!(
            "{{\"mediaType\":\"{MEDIA_TYPE}\",\"verificationMaterial\":{{\"publicKey\":{{\"hint\":\"\"}}}},\
             \"dsseEnvelope\":{{\"payload\":\"{payload}\",\"payloadType\":\"{kind}\",\
             \"signatures\":[{{\"sig\":\"AAEC\"}},{{\"sig\":\"!\"}}]}}}}"
        )
        .into_bytes()
    }

    #[test]
    fn a_bundle_is_a_statement_about_a_digest() {
        let digest = Digest::from_hash(Algorithm::Sha256, &[7; 32]);
        let statement = |hex: &str, kind: &str| {
            format!(
                "{{\"_type\":\"https://in-toto.io/Statement/v1\",\"subject\":[{{\"digest\":{{\"sha256\":\"{hex}\"}}}}],\
                 \"predicateType\":\"{kind}\",\"predicate\":{{}}}}"
            )
        };
        let good = statement(digest.hex(), SIGN);
        let signed = read(&bundle(&good, IN_TOTO)).unwrap();
        assert_eq!(signed.signatures, [[0, 1, 2]]);
        let want = format!("DSSEv1 28 application/vnd.in-toto+json {} {good}", good.len());
        assert_eq!(signed.message, want.as_bytes());
        assert_eq!(signed.objection(&digest), None);
        let other = Digest::from_hash(Algorithm::Sha256, &[8; 32]);
        assert!(signed.objection(&other).unwrap().contains("another digest"));
        let provenance =
            read(&bundle(&statement(digest.hex(), "https://slsa.dev/provenance/v1"), IN_TOTO));
        assert!(provenance.unwrap().objection(&digest).unwrap().contains("something else"));
        assert!(read(&bundle("[]", IN_TOTO)).unwrap().objection(&digest).is_some());
        for bad in [&b"{}"[..], b"", b"\xff", &bundle(&good, "text/plain")] {
            assert!(read(bad).is_none());
        }
    }
}
