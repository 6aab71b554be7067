//! The client against a registry that is good, bad, or gone.

mod auth;
mod foreign;
mod login;
mod mirrors;
mod proxies;
mod ranges;
mod referrers;
mod tls;

use std::time::{Duration, Instant};

use bytes::Bytes;
use capstan_sdk::{Algorithm, Class, Descriptor, Digest, Error, Result};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::net::TcpListener;

use super::fake::{Asked, Fake, Framing, Reply};
use super::{Config, Registry, Repository};
use capstan_sdk::Reference;
use capstan_sdk::contract::access::Access;
use capstan_sdk::oci::media::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;
const BLOB: &[u8] = b"0123456789";

fn http() -> Access {
    Access { is_plain_http: true, ..Access::default() }
}

/// Short waits, small limits.
fn config() -> Config {
    Config {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        max_manifest_bytes: 1000,
        max_redirects: 3,
        max_connections_per_host: 16,
        hosts_dir: "/nowhere".into(),
        credentials_file: "/nowhere".into(),
        ..Config::default()
    }
}

/// For a registry that goes silent: it is not waited for.
fn stalling() -> Config {
    Config { stall_timeout: Duration::from_millis(300), attempts: 1, ..config() }
}

fn repository_with(config: Config, host: &str, suffix: &str) -> Repository {
    repository_by(config, host, suffix, &http())
}

fn repository_by(config: Config, host: &str, suffix: &str, access: &Access) -> Repository {
    let reference = Reference::parse(&format!("{host}/a/app{suffix}")).unwrap();
    Registry::new(config).repository(&reference, access).unwrap()
}

fn repository(fake: &Fake) -> Repository {
    repository_with(config(), &fake.host, ":1")
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_hash(Algorithm::Sha256, &Sha256::digest(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let size = bytes.len() as u64;
    Descriptor { media_type: media_type.into(), digest: sha256(bytes), size, platform: None }
}

fn blob() -> Descriptor {
    descriptor(OCI_LAYER, BLOB)
}

fn manifest() -> Reply {
    Reply::new(200, MANIFEST).with("Content-Type", OCI_MANIFEST)
}

/// The whole blob through `Repository::blob`.
async fn read(repository: &Repository, offset: u64) -> Result<Vec<u8>> {
    let mut stream = repository.blob(&blob(), offset).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
        assert_eq!(stream.offset(), offset + bytes.len() as u64);
    }
    assert_eq!(stream.chunk().await?, None);
    Ok(bytes)
}

/// The whole blob through `Repository::download`.
async fn download(repository: &Repository, start: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let sink = async |chunk: Bytes| {
        bytes.extend_from_slice(&chunk);
        Ok(())
    };
    repository.download(&blob(), start, sink).await?;
    Ok(bytes)
}

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

#[tokio::test]
async fn a_tag_is_resolved() {
    let fake = Fake::serve(|_| manifest()).await;
    let resolved = repository(&fake).resolve().await.unwrap();
    assert_eq!(resolved.bytes, MANIFEST);
    assert_eq!(resolved.descriptor, descriptor(OCI_MANIFEST, MANIFEST));

    let [asked] = fake.asked().try_into().unwrap();
    assert_eq!(asked.path, "/v2/a/app/manifests/1");
    assert_eq!(asked.header("host"), fake.host);
    assert_eq!(asked.header("user-agent"), concat!("capstan/", env!("CARGO_PKG_VERSION")));
    assert_eq!(asked.header("accept-encoding"), "identity");
    assert!(asked.header("accept").contains(OCI_INDEX));
    assert_eq!(asked.header("range"), "");
}

#[tokio::test]
async fn what_is_resolved_is_verified() {
    let check = async |suffix: &str, reply: Reply, want: Result<(&str, Digest), Class>| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let got = repository_with(config(), &fake.host, suffix).resolve().await;
        let got = match &got {
            Ok(resolved) => {
                let descriptor = &resolved.descriptor;
                assert_eq!(descriptor.size, resolved.bytes.len() as u64);
                Ok((descriptor.media_type.as_str(), descriptor.digest.clone()))
            }
            Err(error) => Err(error.class()),
        };
        assert_eq!(got, want, "{suffix} {:?}", fake.asked_for());
        assert_eq!(fake.asked().len(), 1);
    };
    let good = sha256(MANIFEST);
    let sha512 = Digest::from_hash(Algorithm::Sha512, &Sha512::digest(MANIFEST));
    let other = sha256(b"other");
    let header = |value: &str| manifest().with("Docker-Content-Digest", value);
    let typed = |value: &str| Reply::new(200, MANIFEST).with("Content-Type", value);
    let index = "application/vnd.docker.distribution.manifest.list.v2+json";
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    check(":1", header(good.as_str()), Ok((OCI_MANIFEST, good.clone()))).await;
    check(":1", header(sha512.as_str()), Ok((OCI_MANIFEST, sha512.clone()))).await;
    check(":1", header("md5:what"), Ok((OCI_MANIFEST, good.clone()))).await;
    check(":1", header(other.as_str()), Err(Class::Corrupt)).await;
    check(&format!("@{good}"), manifest(), Ok((OCI_MANIFEST, good.clone()))).await;
    check(&format!(":1@{sha512}"), manifest(), Ok((OCI_MANIFEST, sha512.clone()))).await;
    check(&format!("@{other}"), manifest(), Err(Class::Corrupt)).await;
    check(&format!("@{other}"), header(other.as_str()), Err(Class::Corrupt)).await;

    check(":1", typed(index), Ok((index, good.clone()))).await;
    check(":1", typed(&format!("{OCI_INDEX}; charset=utf-8")), Ok((OCI_INDEX, good))).await;
    check(":1", typed(schema1), Err(Class::Unimplemented)).await;
    check(":1", typed("text/html"), Err(Class::Unimplemented)).await;
    check(":1", typed(OCI_LAYER), Err(Class::Corrupt)).await;
    check(":1", Reply::new(200, MANIFEST), Err(Class::Unimplemented)).await;

    let large = |bytes: usize| Reply::new(200, vec![b' '; bytes]).with("Content-Type", OCI_INDEX);
    let most = sha256(&[b' '; 1000]);
    check(":1", large(1000), Ok((OCI_INDEX, most.clone()))).await;
    check(":1", large(1000).framed(Framing::Chunks), Ok((OCI_INDEX, most))).await;
    check(":1", large(1001), Err(Class::ResourceExhausted)).await;
    check(":1", large(1001).hang(0), Err(Class::ResourceExhausted)).await;
    check(":1", large(1001).framed(Framing::OpenChunks).hang(1001), Err(Class::ResourceExhausted))
        .await;
}

#[tokio::test]
async fn a_digest_is_asked_for_by_digest() {
    let fake = Fake::serve(|_| manifest()).await;
    let digest = sha256(MANIFEST);
    repository_with(config(), &fake.host, &format!(":1@{digest}")).resolve().await.unwrap();
    assert_eq!(fake.asked_for(), [format!("/v2/a/app/manifests/{digest}")]);
}

#[tokio::test]
async fn refusals_have_classes() {
    let check = async |reply: Reply, want: Class, want_asked: usize| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let error = repository(&fake).resolve().await.unwrap_err();
        assert_eq!(error.class(), want, "{error}");
        assert!(error.message().contains(&format!("image {}/a/app:1: ", fake.host)), "{error}");
        assert_eq!(fake.asked().len(), want_asked, "{error}");
        let error = repository(&fake).blob(&blob(), 0).await.unwrap_err();
        assert_eq!(error.class(), want, "{error}");
        assert_eq!(fake.asked().len(), 2 * want_asked, "{error}");
    };
    let status = |status: u16| Reply::new(status, "no");
    check(status(400), Class::FailedPrecondition, 1).await;
    check(status(401), Class::PermissionDenied, 1).await;
    check(status(403), Class::PermissionDenied, 1).await;
    check(status(404), Class::NotFound, 1).await;
    check(status(405), Class::FailedPrecondition, 1).await;
    check(status(410), Class::NotFound, 1).await;
    check(status(416), Class::Corrupt, 1).await;
    check(status(201), Class::FailedPrecondition, 1).await;
    check(Reply::new(204, "").close(), Class::FailedPrecondition, 1).await;
    check(status(300), Class::FailedPrecondition, 1).await;
    check(status(408), Class::Unavailable, 3).await;
    check(status(429), Class::Unavailable, 3).await;
    check(status(500), Class::Unavailable, 3).await;
    check(status(503), Class::Unavailable, 3).await;
    check(status(503).close(), Class::Unavailable, 3).await;
    check(status(503).with("Retry-After", "0"), Class::Unavailable, 3).await;
    check(status(503).with("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"), Class::Unavailable, 3)
        .await;
    check(status(503).with("Retry-After", "6"), Class::Unavailable, 1).await;
    check(status(429).with("Retry-After", "99999999999999999"), Class::Unavailable, 1).await;
    check(Reply::nothing(), Class::Unavailable, 3).await;
    // Not HTTP at all.
    check(Reply::new(99, "no"), Class::Unavailable, 3).await;
}

#[tokio::test]
async fn refusals_repeat_what_the_registry_says() {
    let check = async |reply: Reply, want: &str| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let error = repository(&fake).resolve().await.unwrap_err();
        let message = error.message().replace(&fake.host, "HOST");
        assert_eq!(message, want);
    };
    let json = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    check(
        Reply::new(404, json).with("Content-Type", "application/json"),
        "image HOST/a/app:1: the registry does not have it \
         (404 Not Found, \"MANIFEST_UNKNOWN: manifest unknown\"); check the name",
    )
    .await;
    check(
        Reply::new(400, "a\u{1b}b\nsecond").with("Content-Type", "text/plain; charset=utf-8"),
        "image HOST/a/app:1: the registry does not do what a registry does \
         (400 Bad Request, \"a\\u{1b}b\"); check the host",
    )
    .await;
    let plain = "image HOST/a/app:1: the registry denies access (403 Forbidden); \
                 check the name, or run `capstan login HOST`";
    check(Reply::new(403, "<html>").with("Content-Type", "text/html"), plain).await;
    check(Reply::new(403, r#"{"errors":[]}"#), plain).await;
    check(Reply::new(403, vec![b'x'; 20_000]).with("Content-Type", "text/plain"), plain).await;
    check(
        Reply::new(500, ""),
        "after 3 attempts: image HOST/a/app:1: the registry is in trouble \
         (500 Internal Server Error); try again later",
    )
    .await;
}

#[tokio::test]
async fn trouble_passes() {
    let check = async |trouble: Reply| {
        let shown = format!("{trouble:?}");
        let fake = Fake::serve(move |asked| match asked.number {
            0 | 1 => trouble.clone(),
            _ => manifest(),
        })
        .await;
        let resolved = repository(&fake).resolve().await;
        assert_eq!(resolved.unwrap().bytes, MANIFEST, "{shown}");
        assert_eq!(fake.asked().len(), 3, "{shown}");
    };
    check(Reply::new(500, "")).await;
    check(Reply::new(429, "").with("Retry-After", "0")).await;
    check(Reply::nothing()).await;
    check(manifest().cut(3)).await;
    check(manifest().framed(Framing::OpenChunks).close()).await;
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_kept() {
    let fake = Fake::serve(|asked| match asked.number {
        0 => Reply::new(429, "").with("Retry-After", "1"),
        _ => manifest(),
    })
    .await;
    let begin = Instant::now();
    repository(&fake).resolve().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn nobody_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = repository_with(config(), &host, "").resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert_eq!(
        error.message(),
        format!(
            "after 3 attempts: image {host}/a/app:latest: registry {host}: Connection refused \
             (os error 111); is it running, and is the port right?"
        )
    );

    // A label of 64 characters: the resolver refuses it without asking anybody.
    let host = format!("{}.example", "a".repeat(64));
    let error = repository_with(config(), &host, "").resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.message().contains("the name does not resolve"), "{error}");
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let fake = Fake::serve(|_| manifest()).await;
    // Where it means ::1 too, nobody is there, and the next address is tried.
    let host = fake.host.replace("127.0.0.1", "localhost");
    repository_with(config(), &host, "").resolve().await.unwrap();
    assert_eq!(fake.asked()[0].header("host"), host);
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let check = async |reply: Reply, want: &str| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let repository = repository_with(stalling(), &fake.host, "");
        let error = repository.resolve().await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.message().contains(want), "{error}");
    };
    let silent = Reply::nothing().hang(0);
    check(silent, "did not answer within 300ms").await;
    check(manifest().hang(3), "sent nothing for 300ms").await;
    check(Reply::new(500, "").hang(0), "in trouble").await;
}

#[tokio::test]
async fn manifests_are_verified() {
    let check = async |descriptor: &Descriptor, reply: Reply, want: Option<Class>, asked: usize| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let got = repository(&fake).manifest(descriptor).await;
        assert_eq!(got.as_ref().err().map(Error::class), want, "{got:?}");
        assert!(got.is_err() || got.is_ok_and(|bytes| bytes == MANIFEST));
        assert_eq!(fake.asked().len(), asked);
        for asked in fake.asked() {
            assert_eq!(asked.path, format!("/v2/a/app/manifests/{}", descriptor.digest));
        }
    };
    let good = descriptor(OCI_MANIFEST, MANIFEST);
    let named = |digest: Digest| Descriptor { digest, ..good.clone() };
    let sha384 = named(Digest::from_hash(Algorithm::Sha384, &Sha384::digest(MANIFEST)));
    let sha512 = named(Digest::from_hash(Algorithm::Sha512, &Sha512::digest(MANIFEST)));
    let other = named(sha256(b"other"));
    let sized = |size: u64| Descriptor { size, ..good.clone() };
    let size = good.size;
    check(&good, manifest(), None, 1).await;
    check(&sha384, manifest(), None, 1).await;
    check(&sha512, manifest(), None, 1).await;
    check(&good, manifest().framed(Framing::Chunks), None, 1).await;
    check(&other, manifest(), Some(Class::Corrupt), 1).await;
    check(&sized(size - 1), manifest(), Some(Class::Corrupt), 1).await;
    check(&sized(size + 1), manifest(), Some(Class::Corrupt), 1).await;
    check(&sized(size - 1), manifest().framed(Framing::Chunks), Some(Class::Corrupt), 1).await;
    check(&sized(1001), manifest(), Some(Class::ResourceExhausted), 0).await;
    check(&good, manifest().cut(5), Some(Class::Unavailable), 3).await;
    check(&good, Reply::new(404, ""), Some(Class::NotFound), 1).await;
    check(&good, Reply::new(206, MANIFEST), Some(Class::FailedPrecondition), 1).await;
}

#[tokio::test]
async fn blobs() {
    let check = async |offset: u64, reply: Reply, want: Result<&[u8], Class>| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let config = if want == Err(Class::Unavailable) { stalling() } else { config() };
        let repository = repository_with(config, &fake.host, "");
        let got = read(&repository, offset).await;
        let got = got.as_deref().map_err(Error::class);
        assert_eq!(got, want, "from {offset}");
        let range = if offset > 0 { format!(" bytes={offset}-") } else { String::new() };
        assert_eq!(fake.asked_for(), [format!("/v2/a/app/blobs/{}{range}", blob().digest)]);
    };
    let all = || Reply::new(200, BLOB);
    let part = |body: &[u8], range: &str| Reply::new(206, body).with("Content-Range", range);
    let corrupt = Err(Class::Corrupt);
    let broken = Err(Class::Unavailable);

    check(0, all(), Ok(BLOB)).await;
    check(0, all().framed(Framing::Chunks), Ok(BLOB)).await;
    check(0, all().framed(Framing::Nothing).close(), Ok(BLOB)).await;
    check(0, part(BLOB, "bytes 0-9/10"), Ok(BLOB)).await;
    check(4, part(b"456789", "bytes 4-9/10"), Ok(b"456789")).await;
    check(4, part(b"456789", "bytes 4-9/*"), Ok(b"456789")).await;
    check(4, part(b"456789", "bytes 4-9/10").framed(Framing::Chunks), Ok(b"456789")).await;
    // The range is ignored.
    check(4, all(), Ok(b"456789")).await;
    check(9, all().framed(Framing::Chunks), Ok(b"9")).await;

    check(4, Reply::new(206, "456789"), corrupt).await;
    check(4, part(b"3456789", "bytes 3-9/10"), corrupt).await;
    check(4, part(b"45678", "bytes 4-8/10"), corrupt).await;
    check(4, part(b"456789", "bytes 4-9/11"), corrupt).await;
    check(4, part(b"456789", "bytes 4-9/1"), corrupt).await;
    check(4, part(b"456789", "bytes 4-9/100"), corrupt).await;
    check(4, part(b"45678", "bytes 4-9/10"), corrupt).await;
    check(4, part(b"4567890", "bytes 4-9/10"), corrupt).await;
    check(4, part(b"456789", "items 4-9/10"), corrupt).await;
    check(4, Reply::new(416, ""), corrupt).await;

    check(0, Reply::new(200, "012345678"), corrupt).await;
    check(0, Reply::new(200, "01234567890"), corrupt).await;
    check(4, Reply::new(200, "456789"), corrupt).await;
    check(0, Reply::new(200, "01234567890").framed(Framing::Chunks), corrupt).await;
    check(4, part(b"4567890", "bytes 4-9/10").framed(Framing::Chunks), corrupt).await;
    check(0, Reply::new(200, "012345678").framed(Framing::Chunks), broken).await;
    check(0, all().framed(Framing::OpenChunks).close(), broken).await;
    check(0, all().framed(Framing::Nothing).cut(9), broken).await;
    check(0, all().cut(0), broken).await;
    check(0, all().cut(9), broken).await;
    check(4, all().cut(2), broken).await;
    check(0, all().hang(0), broken).await;
    check(0, all().hang(9), broken).await;
}

#[tokio::test]
async fn a_stream_that_breaks_says_where() {
    let fake = Fake::serve(|_| Reply::new(200, BLOB).cut(7)).await;
    let repository = repository(&fake);
    let mut stream = repository.blob(&blob(), 0).await.unwrap();
    let mut bytes = Vec::new();
    let error = loop {
        match stream.chunk().await {
            Ok(chunk) => bytes.extend(chunk.expect("the end does not come")),
            Err(error) => break error,
        }
    };
    assert_eq!(bytes, &BLOB[..7]);
    assert_eq!(stream.offset(), 7);
    let want = format!(
        "blob {} of {}/a/app at 7 of 10 bytes: the registry broke off",
        blob().digest,
        fake.host
    );
    assert!(error.message().starts_with(&want), "{error}");
}

#[tokio::test]
async fn nothing_is_asked_for_nothing() {
    let fake = Fake::serve(|_| Reply::new(500, "")).await;
    let repository = repository(&fake);
    assert_eq!(read(&repository, 10).await.unwrap(), b"");
    assert_eq!(class(read(&repository, 11).await), Some(Class::InvalidArgument));
    assert_eq!(download(&repository, 10).await.unwrap(), b"");
    assert_eq!(class(download(&repository, 11).await), Some(Class::InvalidArgument));
    assert_eq!(fake.asked_for(), [""; 0]);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let check = async |reply: fn(&Asked) -> Reply, start: u64, ranges: &[&str]| {
        let fake = Fake::serve(reply).await;
        let got = download(&repository(&fake), start).await;
        assert_eq!(got.unwrap(), &BLOB[usize::try_from(start).unwrap()..]);
        let asked: Vec<String> =
            fake.asked().iter().map(|asked| asked.header("range").to_owned()).collect();
        assert_eq!(asked, ranges);
    };
    check(|asked| Reply::part(asked, BLOB), 0, &[""]).await;
    check(|asked| Reply::part(asked, BLOB), 3, &["bytes=3-"]).await;
    // Three bytes at a time: more breaks than attempts, each of them with progress.
    check(|asked| Reply::part(asked, BLOB).cut(3), 0, &["", "bytes=3-", "bytes=6-", "bytes=9-"])
        .await;
    check(
        |asked| match asked.number % 3 {
            2 => Reply::part(asked, BLOB).cut(5),
            _ => Reply::new(503, ""),
        },
        0,
        &["", "", "", "bytes=5-", "bytes=5-", "bytes=5-"],
    )
    .await;
    // Ranges are ignored, and it breaks off before, at, and behind the offset.
    check(
        |asked| match asked.number {
            0 => Reply::new(200, BLOB).cut(6),
            1 => Reply::new(200, BLOB).cut(2),
            2 => Reply::new(200, BLOB).cut(7),
            _ => Reply::new(200, BLOB),
        },
        0,
        &["", "bytes=6-", "bytes=6-", "bytes=7-"],
    )
    .await;
    // All bytes came, but not the end: that is enough.
    check(|_| Reply::new(200, BLOB).framed(Framing::OpenChunks).close(), 0, &[""]).await;
}

#[tokio::test]
async fn a_download_gives_up() {
    let check = async |reply: fn(&Asked) -> Reply, want: Class, want_asked: usize| {
        let fake = Fake::serve(reply).await;
        assert_eq!(class(download(&repository(&fake), 0).await), Some(want));
        assert_eq!(fake.asked().len(), want_asked);
    };
    check(|_| Reply::new(503, ""), Class::Unavailable, 3).await;
    check(|_| Reply::new(200, BLOB).cut(0), Class::Unavailable, 3).await;
    // One attempt with progress, then three without.
    check(
        |asked| match asked.number {
            0 => Reply::new(200, BLOB).cut(5),
            _ => Reply::new(200, BLOB).cut(4),
        },
        Class::Unavailable,
        4,
    )
    .await;
    check(|_| Reply::new(404, ""), Class::NotFound, 1).await;
    check(
        |asked| match asked.number {
            0 => Reply::new(200, BLOB).cut(5),
            _ => Reply::new(206, "x").with("Content-Range", "bytes 0-0/10"),
        },
        Class::Corrupt,
        2,
    )
    .await;
}

#[tokio::test]
async fn a_download_stops_when_its_sink_fails() {
    let fake = Fake::serve(|_| Reply::new(200, BLOB)).await;
    let sink = async |_| Err(Error::unavailable("the disk is away"));
    let error = repository(&fake).download(&blob(), 0, sink).await.unwrap_err();
    assert_eq!(error.message(), "the disk is away");
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn redirects_are_followed() {
    let other = Fake::serve(|asked| Reply::part(asked, BLOB)).await;
    let other_host = other.host.clone();
    let fake = Fake::serve(move |asked| {
        let to = |location: &str| Reply::new(307, "moved").with("Location", location);
        match asked.path.as_str() {
            "/there?signed=yes" => to(&format!("http://{other_host}/store/x?signed=yes")),
            "/v2/a/app/manifests/1" => to("/manifest"),
            "/manifest" => manifest(),
            _ => to("/there?signed=yes"),
        }
    })
    .await;
    let repository = repository(&fake);
    assert_eq!(read(&repository, 4).await.unwrap(), b"456789");
    let path = format!("/v2/a/app/blobs/{} bytes=4-", blob().digest);
    assert_eq!(fake.asked_for(), [path.as_str(), "/there?signed=yes bytes=4-"]);
    assert_eq!(other.asked_for(), ["/store/x?signed=yes bytes=4-"]);
    assert_eq!(other.asked()[0].header("host"), other.host);

    repository.resolve().await.unwrap();
    assert_eq!(fake.asked_for()[2..], ["/v2/a/app/manifests/1", "/manifest"]);
    assert!(fake.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn bad_redirects_are_refused() {
    let check = async |location: &'static str, want: Class, want_asked: usize| {
        let fake = Fake::serve(move |_| match location {
            "" => Reply::new(302, ""),
            _ => Reply::new(302, "").with("Location", location),
        })
        .await;
        let error = read(&repository(&fake), 0).await.unwrap_err();
        assert_eq!(error.class(), want, "{error}");
        assert_eq!(fake.asked().len(), want_asked, "{error}");
    };
    check("/round/and/round", Class::FailedPrecondition, 4).await;
    check("", Class::FailedPrecondition, 1).await;
    check("file:///etc/passwd", Class::FailedPrecondition, 1).await;
}

#[tokio::test]
async fn another_host_that_refuses_is_named() {
    let other = Fake::serve(|_| Reply::new(403, "")).await;
    let location = format!("http://{}/x?signature=SECRET", other.host);
    let fake = Fake::serve(move |_| Reply::new(302, "").with("Location", &location)).await;
    let error = read(&repository(&fake), 0).await.unwrap_err();
    assert_eq!(error.class(), Class::PermissionDenied);
    assert!(error.message().contains(&other.host), "{error}");
    assert!(!error.message().contains("SECRET"), "{error}");
}

#[tokio::test]
async fn connections_are_used_again() {
    let fake = Fake::serve(|asked| match asked.path.contains("manifests") {
        true => manifest(),
        false => Reply::part(asked, BLOB).framed(Framing::Chunks),
    })
    .await;
    let repository = repository(&fake);
    repository.resolve().await.unwrap();
    repository.manifest(&descriptor(OCI_MANIFEST, MANIFEST)).await.unwrap();
    read(&repository, 0).await.unwrap();
    // Two at a time need two.
    let first = repository.blob(&blob(), 0).await.unwrap();
    read(&repository, 5).await.unwrap();
    // Given up, the first one closes; the second one is free.
    drop(first);
    repository.resolve().await.unwrap();
    let connections: Vec<usize> = fake.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [0, 0, 0, 0, 1, 1]);
}

#[tokio::test]
async fn a_connection_that_died_meanwhile_costs_no_attempt() {
    // Each connection answers once, promises to stay, and closes; or it takes the second request
    // and closes without a word.
    for closes_at_once in [true, false] {
        let fake = Fake::serve(move |asked| match (closes_at_once, asked.number % 2) {
            (true, _) => manifest().close(),
            (false, 0) => manifest(),
            (false, _) => Reply::nothing(),
        })
        .await;
        let repository = repository_with(Config { attempts: 1, ..config() }, &fake.host, "");
        for round in 0..3 {
            let resolved = repository.resolve().await;
            assert!(resolved.is_ok(), "{closes_at_once} {round}: {resolved:?}");
        }
    }
}

#[tokio::test]
async fn few_connections_are_kept() {
    let fake = Fake::serve(|asked| Reply::part(asked, BLOB)).await;
    let config = Config { max_connections_per_host: 100, ..config() };
    let repository = repository_with(config, &fake.host, "");
    let read_all = async |count| {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(repository.blob(&blob(), 0).await.unwrap());
        }
        for mut stream in streams {
            while stream.chunk().await.unwrap().is_some() {}
        }
    };
    read_all(20).await;
    read_all(20).await;
    let connections: Vec<usize> = fake.asked()[20..].iter().map(|asked| asked.connection).collect();
    let want: Vec<usize> = (4..20).rev().chain(20..24).collect();
    assert_eq!(connections, want);
}

/// The futures may move between threads, if the sink may.
#[tokio::test]
async fn futures_are_send() {
    fn check<T: Send>(_: T) {}
    let repository = repository_with(config(), "localhost", "");
    let blob = blob();
    check(repository.resolve());
    check(repository.manifest(&blob));
    check(repository.blob(&blob, 0));
    check(repository.download(&blob, 0, async |_| Ok(())));
}
