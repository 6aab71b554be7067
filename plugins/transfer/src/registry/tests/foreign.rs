//! Layers that are elsewhere.

use super::*;

fn allowed() -> Config {
    Config { follows_foreign_layers: true, ..config() }
}

/// A registry that does not have the blob.
async fn without() -> Fake {
    Fake::serve(|_| Reply::new(404, "")).await
}

async fn get(config: Config, registry: &Fake, urls: &[String]) -> Result<Vec<u8>> {
    let repository = repository_with(config, &registry.host, ":1");
    download(&repository.or_elsewhere(urls.to_vec()), 0).await
}

#[tokio::test]
async fn they_are_fetched_only_if_that_is_allowed() {
    let registry = without().await;
    let other = Fake::serve(|asked| Reply::part(asked, BLOB)).await;
    let urls = [format!("http://{}/there?signature=SECRET", other.host)];
    let error = get(config(), &registry, &urls).await.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    let text = error.message();
    assert!(text.contains("foreign_layers") && text.contains(&other.host), "{text}");
    assert!(!text.contains("SECRET"), "{text}");
    assert!(other.asked().is_empty());

    assert_eq!(get(allowed(), &registry, &urls).await.unwrap(), BLOB);
    let [asked] = other.asked().try_into().unwrap();
    assert_eq!(asked.path, "/there?signature=SECRET");
    assert_eq!(asked.header("authorization"), "");
    assert_eq!(class(get(allowed(), &registry, &[]).await), Some(Class::NotFound));
}

#[tokio::test]
async fn what_the_registry_has_is_not_fetched_elsewhere() {
    let registry = Fake::serve(|asked| Reply::part(asked, BLOB)).await;
    let other = without().await;
    let urls = [format!("http://{}/there", other.host)];
    assert_eq!(get(config(), &registry, &urls).await.unwrap(), BLOB);
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn one_url_after_the_other_is_tried_and_broken_off_ones_are_gone_on_with() {
    let registry = without().await;
    let other = Fake::serve(|asked| match asked.number {
        0 => Reply::part(asked, BLOB).cut(4),
        _ => Reply::part(asked, BLOB),
    })
    .await;
    let urls = [
        "ftp://a.example/x".into(),
        "no URL".into(),
        format!("http://{}/own", registry.host),
        format!("http://user:secret@{}/x", other.host),
        format!("http://{}/there", other.host),
    ];
    assert_eq!(get(allowed(), &registry, &urls).await.unwrap(), BLOB);
    assert_eq!(other.asked_for(), ["/there", "/there bytes=4-"]);
    assert!(registry.asked().iter().all(|asked| asked.path != "/own"));
    for count in 1..urls.len() {
        let got = class(get(allowed(), &registry, &urls[..count]).await);
        assert_eq!(got, Some(Class::FailedPrecondition), "{count}");
    }
}

#[tokio::test]
async fn others_errors_are_told() {
    let registry = without().await;
    let check = async |reply: Reply, want: Class| {
        let other = Fake::serve(move |_| reply.clone()).await;
        let got = get(allowed(), &registry, &[format!("http://{}/x", other.host)]).await;
        assert_eq!(class(got), Some(want));
    };
    check(Reply::new(404, ""), Class::NotFound).await;
    check(
        Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        Class::PermissionDenied,
    )
    .await;
    check(Reply::new(503, ""), Class::Unavailable).await;
    check(Reply::new(200, "too short"), Class::Corrupt).await;
    check(Reply::new(302, "").with("Location", "file:///etc/passwd"), Class::FailedPrecondition)
        .await;
}
