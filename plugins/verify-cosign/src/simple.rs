//! Payloads of the kind "simple signing", as `cosign sign` makes them (cosign, specs/SIGNATURE_SPEC.md).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use capstan_sdk::contract::verifier::Evidence;
use capstan_sdk::pattern::Pattern;
use capstan_sdk::{Digest, FAMILIAR_HOST, FAMILIAR_INDEX, Reference};
use serde::Deserialize;

/// The media type of a payload.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// The annotation of its descriptor that has the signature, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// What cosign signs.
const KIND: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The signature of a payload; `None`: it has none.
pub(crate) fn signature(evidence: &Evidence) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(evidence.annotations.get(SIGNATURE)?).ok()
}

/// What a signed payload says, if it is not that this image may have this name.
pub(crate) fn objection(
    payload: &[u8],
    name: &Reference,
    digest: &Digest,
    identity: Option<&Pattern>,
) -> Option<String> {
    let Ok(Payload { critical }) = serde_json::from_slice(payload) else {
        return Some("is no payload of cosign".into());
    };
    if critical.kind != KIND {
        return Some("is of another type than that of cosign's signatures".into());
    }
    if critical.image.digest != digest.as_str() {
        return Some("is for another digest".into());
    }
    let signed = match Reference::parse_familiar(&hub(&critical.identity.reference)) {
        Ok(signed) => signed,
        Err(_) => return Some("does not say which repository it is for".into()),
    };
    let is_ours = match identity {
        Some(pattern) => pattern.matches(&signed),
        None => (signed.host(), signed.repository()) == (name.host(), name.repository()),
    };
    (!is_ours).then(|| format!("is for {}/{}", signed.host(), signed.repository()))
}

/// cosign calls Docker's registry by the name of its server.
fn hub(reference: &str) -> String {
    match reference.split_once('/') {
        Some((FAMILIAR_INDEX, rest)) => format!("{FAMILIAR_HOST}/{rest}"),
        _ => reference.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Algorithm;

    #[test]
    fn a_payload_is_for_one_image_of_one_repository() {
        let digest = Digest::from_hash(Algorithm::Sha256, &[7; 32]);
        let payload = |reference: &str, digest: &str, kind: &str| {
            format!(
                "{{\"critical\":{{\"identity\":{{\"docker-reference\":\"{reference}\"}},\
                 \"image\":{{\"docker-manifest-digest\":\"{digest}\"}},\"type\":\"{kind}\"}},\"optional\":null}}"
            )
        };
        let check = |payload: &str, name: &str, identity: Option<&str>, want: Option<&str>| {
            let name = Reference::parse(name).unwrap();
            let identity = identity.map(|text| Pattern::try_from(text.to_owned()).unwrap());
            let got = objection(payload.as_bytes(), &name, &digest, identity.as_ref());
            match want {
                None => assert_eq!(got, None, "{payload}"),
                Some(part) => assert!(got.as_ref().unwrap().contains(part), "{payload}: {got:?}"),
            }
        };
        let good = payload("registry.example/app", digest.as_str(), KIND);
        check(&good, "registry.example/app:1", None, None);
        check(&good, "registry.example/app2:1", None, Some("is for registry.example/app"));
        check(&good, "other.example/app:1", None, Some("is for registry.example/app"));
        check(&good, "other.example/app:1", Some("registry.example/**"), None);
        check(&good, "registry.example/app:1", Some("third.example/**"), Some("is for"));
        let tagged = payload("registry.example/app:9", digest.as_str(), KIND);
        check(&tagged, "registry.example/app:1", None, None);
        let of = |host: &str| format!("{host}/library/app");
        for of_hub in [of(FAMILIAR_INDEX), of(FAMILIAR_HOST), "app".to_owned()] {
            let name = format!("{}:1", of(FAMILIAR_HOST));
            check(&payload(&of_hub, digest.as_str(), KIND), &name, None, None);
        }
        let name = "registry.example/app:1";
        let other = Digest::from_hash(Algorithm::Sha256, &[8; 32]);
        check(
            &payload("registry.example/app", other.as_str(), KIND),
            name,
            None,
            Some("another digest"),
        );
        check(
            &payload("registry.example/app", digest.as_str(), "x"),
            name,
            None,
            Some("another type"),
        );
        check(&payload("", digest.as_str(), KIND), name, None, Some("which repository"));
        for bad in ["", "{}", "[]", "null", "{\"critical\":{}}"] {
            check(bad, name, None, Some("no payload"));
        }
        // A key twice could be read in two ways.
        let twice = good.replace("\"type\":", "\"type\":\"x\",\"type\":");
        check(&twice, name, None, Some("no payload"));
    }
}
