//! Hosts that stand for others, by their settings.

use std::fs;

use super::*;

/// `hosts.toml` for a host, in a directory of settings.
fn settings(host: &str, text: &str) -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(host)).unwrap();
    fs::write(dir.path().join(host).join("hosts.toml"), text).unwrap();
    let config = Config { hosts_dir: dir.path().into(), ..config() };
    (dir, config)
}

/// A registry, and a mirror of it that is asked first.
async fn mirrored(
    mirror: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    registry: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    more: &str,
) -> (Fake, Fake, Repository) {
    let (mirror, registry) = (Fake::serve(mirror).await, Fake::serve(registry).await);
    let text = format!("[host.\"http://{}\"]\n{more}", mirror.host);
    let (_dir, config) = settings(&registry.host, &text);
    let repository = repository_with(config, &registry.host, ":1");
    (mirror, registry, repository)
}

fn good(asked: &Asked) -> Reply {
    match asked.path.contains("/manifests/") {
        true => manifest(),
        false => Reply::part(asked, BLOB),
    }
}

#[tokio::test]
async fn a_mirror_is_asked_first() {
    let (mirror, registry, repository) = mirrored(good, good, "").await;
    repository.resolve().await.unwrap();
    assert_eq!(read(&repository, 4).await.unwrap(), b"456789");
    let ns = registry.host.replace(':', "%3A");
    let blob = format!("/v2/a/app/blobs/{}?ns={ns} bytes=4-", blob().digest);
    assert_eq!(mirror.asked_for(), [format!("/v2/a/app/manifests/1?ns={ns}"), blob]);
    assert_eq!(registry.asked_for(), [""; 0]);
}

#[tokio::test]
async fn a_mirror_without_it_costs_nothing_but_a_request() {
    for status in [404, 403, 401, 400, 429, 500, 503] {
        let (mirror, registry, repository) =
            mirrored(move |_| Reply::new(status, ""), good, "").await;
        repository.resolve().await.unwrap();
        read(&repository, 0).await.unwrap();
        // One that is in trouble is asked last from then on.
        let asked = if status == 429 || status >= 500 { 1 } else { 2 };
        assert_eq!(mirror.asked().len(), asked, "{status}");
        assert_eq!(registry.asked().len(), 2, "{status}");
        assert!(registry.asked_for().iter().all(|path| !path.contains("ns=")));
    }
    let wrong = |_: &Asked| Reply::new(200, "other").with("Content-Type", OCI_MANIFEST);
    let (mirror, registry, repository) = mirrored(wrong, good, "").await;
    let manifest = descriptor(OCI_MANIFEST, MANIFEST);
    assert_eq!(repository.manifest(&manifest).await.unwrap(), MANIFEST);
    assert_eq!((mirror.asked().len(), registry.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_mirror_that_is_gone_does_not_matter() {
    let registry = Fake::serve(good).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let (_dir, config) = settings(&registry.host, &format!("[host.\"http://{gone}\"]"));
    repository_with(config, &registry.host, ":1").resolve().await.unwrap();
    assert_eq!(registry.asked().len(), 1);
}

#[tokio::test]
async fn a_blob_goes_on_at_the_next_host() {
    let (mirror, registry, repository) =
        mirrored(|asked| Reply::part(asked, BLOB).cut(4), good, "").await;
    assert_eq!(download(&repository, 0).await.unwrap(), BLOB);
    let path = format!("/v2/a/app/blobs/{}", blob().digest);
    assert_eq!(mirror.asked().len(), 1);
    assert_eq!(registry.asked_for(), [format!("{path} bytes=4-")]);

    // And back, if that one fails too.
    let (mirror, registry, repository) = mirrored(
        |asked| {
            if asked.number == 0 {
                Reply::part(asked, BLOB).cut(4)
            } else {
                Reply::part(asked, BLOB)
            }
        },
        |asked| Reply::part(asked, BLOB).cut(2),
        "",
    )
    .await;
    assert_eq!(download(&repository, 0).await.unwrap(), BLOB);
    assert_eq!(registry.asked_for(), [format!("{path} bytes=4-")]);
    assert_eq!(mirror.asked()[1].header("range"), "bytes=6-");
}

#[tokio::test]
async fn all_that_fail_are_named() {
    let check = async |mirror: u16, registry: u16, class: Class, asked: (usize, usize)| {
        let (at_mirror, at_registry, repository) =
            mirrored(move |_| Reply::new(mirror, ""), move |_| Reply::new(registry, ""), "").await;
        let error = repository.resolve().await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(error.message().contains(&format!("its mirror {}", at_mirror.host)), "{error}");
        assert!(error.message().contains("the registry "), "{error}");
        assert_eq!((at_mirror.asked().len(), at_registry.asked().len()), asked, "{error}");
    };
    check(404, 404, Class::NotFound, (1, 1)).await;
    check(404, 403, Class::PermissionDenied, (1, 1)).await;
    check(503, 404, Class::NotFound, (1, 1)).await;
    check(404, 503, Class::Unavailable, (3, 3)).await;
    check(503, 503, Class::Unavailable, (3, 3)).await;
}

#[tokio::test]
async fn capabilities_are_kept_to() {
    let (mirror, registry, repository) = mirrored(good, good, "capabilities = [\"pull\"]").await;
    repository.resolve().await.unwrap();
    assert_eq!((mirror.asked().len(), registry.asked().len()), (0, 1), "a tag");
    read(&repository, 0).await.unwrap();
    assert_eq!((mirror.asked().len(), registry.asked().len()), (1, 1), "a digest");
    let endpoint = repository.pushed_to().unwrap().clone();
    assert_eq!(endpoint.origin().host.as_str(), registry.host);

    let registry = Fake::serve(good).await;
    let (_dir, config) = settings(&registry.host, "capabilities = [\"push\"]");
    let error = repository_with(config, &registry.host, ":1").resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.message().contains("no host may be asked to resolve"), "{error}");
    assert_eq!(registry.asked().len(), 0);
}

#[tokio::test]
async fn settings_of_a_host_are_kept_to() {
    let other = Fake::serve(good).await;
    let location = format!("http://{}/manifests/", other.host);
    let more = "override_path = true\n[host.\"http://HOST/some/where\".header]\nx-own = [\"a\", \"b\"]\nAuthorization = \"Basic CANARY\"";
    let mirror = Fake::serve(move |_| Reply::new(307, "").with("Location", &location)).await;
    let registry = Fake::serve(good).await;
    let text = format!("[host.\"http://HOST/some/where\"]\n{more}").replace("HOST", &mirror.host);
    let (dir, config) = settings(&registry.host, &text);
    let repository = repository_with(config.clone(), &registry.host, ":1");
    repository.resolve().await.unwrap();
    let [asked] = mirror.asked().try_into().unwrap();
    assert!(asked.path.starts_with("/some/where/a/app/manifests/1?ns="), "{asked:?}");
    // The last one counts here.
    assert_eq!((asked.header("x-own"), asked.header("authorization")), ("b", "Basic CANARY"));
    let [asked] = other.asked().try_into().unwrap();
    assert_eq!((asked.header("x-own"), asked.header("authorization")), ("", ""));
    assert!(!format!("{repository:?}").contains("CANARY"));

    // A change needs no restart.
    fs::write(dir.path().join(&registry.host).join("hosts.toml"), "").unwrap();
    repository_with(config, &registry.host, ":1").resolve().await.unwrap();
    assert_eq!((mirror.asked().len(), registry.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_mirror_is_told_who_asks_by_its_own_name() {
    use capstan_sdk::contract::access::WhoAmI;
    let wants = |_: &Asked| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x");
    let (mirror, registry) = (Fake::serve(wants).await, Fake::serve(good).await);
    let (_dir, config) = settings(&registry.host, &format!("[host.\"http://{}\"]", mirror.host));
    let (client, mut questions) = tokio::sync::mpsc::unbounded_channel::<WhoAmI>();
    let access = Access { credentials: Some(client), ..http() };
    let repository = repository_by(config, &registry.host, ":1", &access);
    let answering = async {
        let question = questions.recv().await.unwrap();
        assert_eq!(question.host, mirror.host);
        question.answer.send(Ok(None)).unwrap();
    };
    let (resolved, ()) = tokio::join!(repository.resolve(), answering);
    resolved.unwrap();
}
