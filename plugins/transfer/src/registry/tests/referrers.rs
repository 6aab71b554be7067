//! Lists of what refers to a manifest.

use super::*;
use capstan_sdk::contract::transfer::Referrer;

const SBOM: &str = "application/spdx+json";

fn list(digits: &[(u8, &str)]) -> Reply {
    let entry = |(digit, kind): &(u8, &str)| {
        let hex = digit.to_string().repeat(64);
        format!(
            "{{\"mediaType\":\"{OCI_MANIFEST}\",\"digest\":\"sha256:{hex}\",\"size\":7,\
             \"artifactType\":\"{kind}\",\"annotations\":{{\"number\":\"{digit}\"}}}}"
        )
    };
    let entries: Vec<String> = digits.iter().map(entry).collect();
    let text = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{OCI_INDEX}\",\"manifests\":[{}]}}",
        entries.join(",")
    );
    Reply::new(200, text).with("Content-Type", OCI_INDEX)
}

fn numbers(found: &[Referrer]) -> Vec<&str> {
    found.iter().map(|referrer| referrer.annotations["number"].as_str()).collect()
}

#[tokio::test]
async fn pages_are_put_together() {
    let fake = Fake::serve(|asked| match asked.number {
        0 => list(&[(1, SBOM), (2, "a/b")])
            .with("Link", "</v2/a/app/referrers/more?n=1>; rel=\"next\""),
        _ => list(&[(3, SBOM)]),
    })
    .await;
    let to = sha256(MANIFEST);
    let found = repository(&fake).referrers(&to, "").await.unwrap();
    assert_eq!(numbers(&found), ["1", "2", "3"]);
    assert_eq!((found[1].artifact_type.as_str(), found[1].manifest.size), ("a/b", 7));
    assert_eq!(
        fake.asked_for(),
        [format!("/v2/a/app/referrers/{to}"), "/v2/a/app/referrers/more?n=1".into()]
    );
}

#[tokio::test]
async fn a_type_is_asked_for_and_checked() {
    let to = sha256(MANIFEST);
    // One registry filters, one does not.
    for reply in [
        list(&[(1, SBOM)]).with("OCI-Filters-Applied", "artifactType"),
        list(&[(1, SBOM), (2, "a/b")]),
    ] {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let found = repository(&fake).referrers(&to, SBOM).await.unwrap();
        assert_eq!(numbers(&found), ["1"]);
        let query = "artifactType=application%2Fspdx%2Bjson";
        assert_eq!(fake.asked_for(), [format!("/v2/a/app/referrers/{to}?{query}")]);
    }
}

#[tokio::test]
async fn registries_without_lists_may_have_a_tag() {
    let to = sha256(MANIFEST);
    let fake = Fake::serve(|asked| match asked.path.contains("/manifests/sha") {
        true => list(&[(1, SBOM), (2, "a/b")]),
        false => Reply::new(404, "404 page not found"),
    })
    .await;
    let found = repository(&fake).referrers(&to, "a/b").await.unwrap();
    assert_eq!(numbers(&found), ["2"]);
    assert_eq!(fake.asked()[1].path, format!("/v2/a/app/manifests/sha256-{}", to.hex()));
    // The longest digest does not fit into a tag: its beginning stands for it.
    let hex = "0f".repeat(64);
    let long = Digest::parse(&format!("sha512:{hex}")).unwrap();
    assert_eq!(repository(&fake).referrers(&long, "").await.unwrap().len(), 2);
    assert_eq!(fake.asked()[3].path, format!("/v2/a/app/manifests/sha512-{}", &hex[..64]));

    let fake = Fake::serve(|_| Reply::new(404, "")).await;
    assert_eq!(repository(&fake).referrers(&to, "").await.unwrap(), []);
}

#[tokio::test]
async fn what_is_no_list_is_an_error() {
    let to = sha256(MANIFEST);
    let check = async |reply: Reply, want: Class| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        assert_eq!(class(repository(&fake).referrers(&to, "").await), Some(want));
    };
    check(Reply::new(200, "<html>"), Class::Corrupt).await;
    check(manifest(), Class::Corrupt).await;
    check(Reply::new(200, "x".repeat(2000)), Class::ResourceExhausted).await;
    check(Reply::new(403, ""), Class::PermissionDenied).await;
    check(Reply::new(503, ""), Class::Unavailable).await;
    let elsewhere = "<http://other.example/v2/>; rel=\"next\"";
    check(list(&[]).with("Link", elsewhere), Class::FailedPrecondition).await;
    // A list without an end.
    let again = "</v2/a/app/referrers/again>; rel=\"next\"";
    check(list(&[(1, SBOM)]).with("Link", again), Class::ResourceExhausted).await;
}
