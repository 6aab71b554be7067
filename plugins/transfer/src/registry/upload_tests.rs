//! Pushes against a registry that is good, forgetful, or wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::contract::access::Access;
use capstan_sdk::contract::content::OpenBlob;
use capstan_sdk::oci::media::{OCI_INDEX, OCI_MANIFEST};
use capstan_sdk::{Algorithm, Class, Descriptor, Digest, Reference, Result};
use serde_json::{Value, json};

use super::fake::{Asked, Fake, Reply};
use super::{Begun, Config, Object, Pushed, Registry, Repository, Source, Subject, hash};

const BLOB: &[u8] = b"0123456789";

fn digest(bytes: &[u8]) -> Digest {
    hash(Algorithm::Sha256, bytes)
}

fn repository(fake: &Fake, suffix: &str) -> Repository {
    let config = Config {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        max_manifest_bytes: 1000,
        ..Config::default()
    };
    let access = Access { is_plain_http: true, ..Access::default() };
    let reference = Reference::parse(&format!("{}/a/app{suffix}", fake.host)).unwrap();
    Registry::new(config).repository(&reference, &access).unwrap()
}

/// A blob in a file without a name.
fn stored(bytes: &[u8]) -> OpenBlob {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("capstan-upload-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(bytes).unwrap();
    OpenBlob { file: Arc::new(file), size: bytes.len() as u64 }
}

fn source(bytes: &[u8], chunk: u64) -> Source {
    Source {
        blob: stored(bytes),
        mount: None,
        chunk,
        sent: Arc::default(),
        begun: Begun::default(),
    }
}

/// What is odd about a registry.
#[derive(Clone, Copy, Default)]
struct Odd {
    /// It keeps nothing of a request that breaks, and is out of step then.
    forgets: bool,
    /// It takes so many bytes of a chunk, and says so.
    takes: Option<usize>,
    min_chunk: Option<usize>,
    /// Its answers to these.
    patch: Option<u16>,
    put: Option<u16>,
    look: Option<u16>,
    mount: Option<u16>,
    /// It stores the blob and does not answer.
    loses_answer: bool,
    says_other_digest: bool,
    /// It gives full URLs.
    is_absolute: bool,
    /// It says where the upload is only once.
    says_place_once: bool,
}

#[derive(Default)]
struct Shelf {
    blobs: BTreeMap<String, Vec<u8>>,
    upload: Option<Vec<u8>>,
    /// Bytes that broke off, where it is out of step.
    is_out_of_step: bool,
    steps: usize,
}

/// Just enough of a registry for one upload at a time.
fn registry(odd: Odd, shelf: &Mutex<Shelf>, asked: &Asked) -> Reply {
    let mut shelf = shelf.lock().unwrap();
    let length: usize = asked.header("content-length").parse().unwrap_or(0);
    let is_cut = asked.body.len() < length;
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    if path == "/v2/a/app/blobs/uploads/" {
        if query.starts_with("mount=") {
            match odd.mount {
                Some(201) => return Reply::new(201, ""),
                Some(202) | None => {}
                Some(status) => return Reply::new(status, ""),
            }
        }
        shelf.upload = Some(Vec::new());
        return at(odd, &mut shelf, asked, Reply::new(202, ""));
    }
    if let Some(digest) = path.strip_prefix("/v2/a/app/blobs/") {
        return Reply::new(if shelf.blobs.contains_key(digest) { 200 } else { 404 }, "");
    }
    // The place of the last answer, and the query that it had.
    let place = if odd.says_place_once { 1 } else { shelf.steps };
    assert_eq!(path, format!("/up/{place}"), "{}", asked.method);
    assert!(query.starts_with("state=a%2Fb%3D"), "{query}");
    let Some(mut upload) = shelf.upload.take() else { return Reply::new(404, "") };
    if asked.method == "DELETE" {
        return Reply::new(204, "");
    }
    if shelf.is_out_of_step {
        shelf.is_out_of_step = false;
        return Reply::new(416, "");
    }
    let is_closing = asked.method == "PUT";
    if let Some(status) = match asked.method.as_str() {
        "PATCH" => odd.patch,
        "PUT" => odd.put,
        _ => odd.look,
    } {
        return Reply::new(status, "");
    }
    if asked.method == "PATCH" {
        let (start, end) = asked.header("content-range").split_once('-').expect("a range");
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        assert_eq!(end + 1 - start, length);
        if start != upload.len() {
            shelf.upload = Some(upload);
            return Reply::new(416, "");
        }
    }
    if !(is_cut && odd.forgets) {
        let taken = odd.takes.unwrap_or(usize::MAX).min(asked.body.len());
        upload.extend(&asked.body[..if is_closing { asked.body.len() } else { taken }]);
    }
    shelf.is_out_of_step = is_cut && odd.forgets;
    let has = upload.len();
    if !is_closing || is_cut {
        shelf.upload = Some(upload);
        if is_cut {
            return Reply::nothing();
        }
        let status = if asked.method == "GET" { 204 } else { 202 };
        let range = format!("0-{}", has.max(1) - 1);
        return at(odd, &mut shelf, asked, Reply::new(status, "").with("Range", &range));
    }
    let (_, named) = query.split_once("&digest=").expect("a digest behind the query");
    if digest(&upload).as_str() != named {
        return Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
    }
    shelf.blobs.insert(named.to_owned(), upload);
    if odd.loses_answer {
        return Reply::nothing();
    }
    let said = if odd.says_other_digest { digest(b"other").to_string() } else { named.to_owned() };
    Reply::new(201, "").with("Docker-Content-Digest", &said)
}

fn at(odd: Odd, shelf: &mut Shelf, asked: &Asked, reply: Reply) -> Reply {
    shelf.steps += 1;
    if odd.says_place_once && shelf.steps > 1 {
        return reply;
    }
    let place = format!("/up/{}?state=a%2Fb%3D", shelf.steps);
    let reply = match odd.min_chunk {
        Some(bytes) => reply.with("OCI-Chunk-Min-Length", &bytes.to_string()),
        None => reply,
    };
    match odd.is_absolute {
        true => reply.with("Location", &format!("http://{}{place}", asked.header("host"))),
        false => reply.with("Location", &place),
    }
}

/// Pushes [`BLOB`] in chunks; answers how that went, what the registry has then, and what it was asked.
async fn push(
    odd: Odd,
    source: Source,
    cuts: &[usize],
) -> (Result<Pushed>, Option<Vec<u8>>, Vec<String>) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let shared = Arc::clone(&shelf);
    let fake = Fake::serve(move |asked| registry(odd, &shared, asked)).await;
    fake.cut_bodies(cuts);
    let outcome = repository(&fake, ":1").push_blob(&digest(BLOB), &source).await;
    let line = |asked: &Asked| {
        let what = match asked.path.as_str() {
            path if path.contains("mount=") => "mount".to_owned(),
            _ => asked.header("content-range").to_owned(),
        };
        format!("{} {what}", asked.method).trim().to_owned()
    };
    let asked = fake.asked().iter().map(line).collect();
    let blob = shelf.lock().unwrap().blobs.remove(digest(BLOB).as_str());
    (outcome, blob, asked)
}

async fn check(odd: Odd, source: Source, cuts: &[usize], want: &[&str]) {
    let sent = Arc::clone(&source.sent);
    let (outcome, blob, asked) = push(odd, source, cuts).await;
    assert_eq!(asked, want);
    assert_eq!(outcome.unwrap(), Pushed::Sent);
    assert_eq!(blob.as_deref(), Some(BLOB));
    assert_eq!(sent.load(Ordering::Relaxed), BLOB.len() as u64);
}

#[tokio::test]
async fn a_blob_goes_whole_or_in_chunks() {
    let (whole, chunks) = (|| source(BLOB, 0), |bytes| source(BLOB, bytes));
    let plain = Odd::default();
    check(plain, whole(), &[], &["HEAD", "POST", "PUT"]).await;
    check(plain, chunks(10), &[], &["HEAD", "POST", "PUT"]).await;
    let three = ["HEAD", "POST", "PATCH 0-3", "PATCH 4-7", "PATCH 8-9", "PUT"];
    check(plain, chunks(4), &[], &three).await;
    check(Odd { is_absolute: true, ..plain }, chunks(4), &[], &three).await;
    check(Odd { says_place_once: true, ..plain }, chunks(4), &[], &three).await;
    let larger = Odd { min_chunk: Some(6), ..plain };
    check(larger, chunks(4), &[], &["HEAD", "POST", "PATCH 0-5", "PATCH 6-9", "PUT"]).await;
    let all = Odd { min_chunk: Some(usize::MAX), ..plain };
    check(all, chunks(4), &[], &["HEAD", "POST", "PATCH 0-9", "PUT"]).await;
    let slow = Odd { takes: Some(3), ..plain };
    let four = ["HEAD", "POST", "PATCH 0-3", "PATCH 3-6", "PATCH 6-9", "PATCH 9-9", "PUT"];
    check(slow, chunks(4), &[], &four).await;
}

#[tokio::test]
async fn an_empty_blob_is_one_too() {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let shared = Arc::clone(&shelf);
    let fake = Fake::serve(move |asked| registry(Odd::default(), &shared, asked)).await;
    let empty = digest(b"");
    let pushed = repository(&fake, ":1").push_blob(&empty, &source(b"", 4)).await;
    assert_eq!(pushed, Ok(Pushed::Sent));
    assert!(shelf.lock().unwrap().blobs.contains_key(empty.as_str()));
    assert_eq!(fake.asked()[2].header("content-length"), "0");
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let fake = Fake::serve(|_| Reply::new(200, "")).await;
    let pushed = repository(&fake, ":1").push_blob(&digest(BLOB), &source(BLOB, 0)).await;
    assert_eq!(pushed, Ok(Pushed::Exists));
    let [asked] = fake.asked().try_into().unwrap();
    assert_eq!(asked.method, "HEAD");
    assert_eq!(asked.path, format!("/v2/a/app/blobs/{}", digest(BLOB)));
}

#[tokio::test]
async fn what_another_repository_has_is_mounted() {
    let check = async |mount: u16, want: Pushed, asked_for: &[&str]| {
        let odd = Odd { mount: Some(mount), ..Odd::default() };
        let source = Source { mount: Some("b/other".into()), ..source(BLOB, 0) };
        let (outcome, _, asked) = push(odd, source, &[]).await;
        assert_eq!(outcome, Ok(want), "{mount}");
        assert_eq!(asked, asked_for, "{mount}");
    };
    check(201, Pushed::Mounted, &["HEAD", "POST mount"]).await;
    check(202, Pushed::Sent, &["HEAD", "POST mount", "PUT"]).await;
    for refusal in [400, 403, 404, 405] {
        check(refusal, Pushed::Sent, &["HEAD", "POST mount", "POST", "PUT"]).await;
    }
    let fake = Fake::serve(|asked| Reply::new(if asked.method == "HEAD" { 404 } else { 201 }, ""));
    let fake = fake.await;
    let source = Source { mount: Some("b/other".into()), ..source(BLOB, 0) };
    repository(&fake, ":1").push_blob(&digest(BLOB), &source).await.unwrap();
    let path = format!("/v2/a/app/blobs/uploads/?mount={}&from=b/other", digest(BLOB));
    assert_eq!(fake.asked()[1].path, path);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off() {
    let plain = Odd::default();
    let want = ["HEAD", "POST", "PATCH 0-3", "GET", "PATCH 2-5", "PATCH 6-9", "PUT"];
    check(plain, source(BLOB, 4), &[2], &want).await;
    check(Odd { is_absolute: true, ..plain }, source(BLOB, 4), &[2], &want).await;
    check(Odd { says_place_once: true, ..plain }, source(BLOB, 4), &[2], &want).await;
    let want = ["HEAD", "POST", "PUT", "GET", "PATCH 7-9", "PUT"];
    check(plain, source(BLOB, 0), &[7], &want).await;
    // More breaks than attempts, each with progress.
    let (outcome, blob, _) = push(plain, source(BLOB, 0), &[2, 2, 2, 2]).await;
    assert_eq!(outcome, Ok(Pushed::Sent));
    assert_eq!(blob.as_deref(), Some(BLOB));
    // As many without any.
    let (outcome, blob, _) = push(plain, source(BLOB, 0), &[2, 0, 0, 0, 0]).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Unavailable);
    assert_eq!(blob, None);
}

#[tokio::test]
async fn an_upload_that_is_lost_is_begun_anew() {
    let plain = Odd::default();
    // Debian's registry does not go on with a request that broke: it answers 416.
    let want = ["HEAD", "POST", "PUT", "GET", "HEAD", "DELETE", "POST", "PUT"];
    check(Odd { forgets: true, ..plain }, source(BLOB, 0), &[7], &want).await;
    let begin = ["HEAD", "POST", "PATCH 0-3", "GET"];
    let anew = ["POST", "PATCH 0-3", "PATCH 4-7", "PATCH 8-9", "PUT"];
    for look in [404, 405, 500] {
        let odd = Odd { look: Some(look), ..plain };
        let (outcome, blob, asked) = push(odd, source(BLOB, 4), &[2]).await;
        assert_eq!(outcome, Ok(Pushed::Sent), "{look} {asked:?}");
        assert_eq!(blob.as_deref(), Some(BLOB));
        match look {
            404 => assert_eq!(asked, [&begin[..], &anew[..]].concat()),
            405 => assert_eq!(asked, [&begin[..], &["DELETE"], &anew[..]].concat()),
            _ => {}
        }
    }
    // One that forgets each time is not tried for ever.
    let (outcome, _, _) = push(Odd { forgets: true, ..plain }, source(BLOB, 0), &[7; 9]).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Unavailable);
    // It was complete, only the answer was lost.
    let odd = Odd { loses_answer: true, ..plain };
    let (outcome, blob, asked) = push(odd, source(BLOB, 0), &[]).await;
    assert_eq!(outcome, Ok(Pushed::Sent));
    assert_eq!(blob.as_deref(), Some(BLOB));
    assert_eq!(asked, ["HEAD", "POST", "PUT", "GET", "HEAD"]);
}

#[tokio::test]
async fn a_way_that_is_refused_is_not_the_only_one() {
    let plain = Odd::default();
    let want = ["HEAD", "POST", "PATCH 0-3", "DELETE", "POST", "PUT"];
    for patch in [400, 405] {
        check(Odd { patch: Some(patch), ..plain }, source(BLOB, 4), &[], &want).await;
    }
    for put in [405, 411, 413] {
        let odd = Odd { put: Some(put), ..plain };
        let (outcome, _, asked) = push(odd, source(BLOB, 0), &[]).await;
        assert_eq!(outcome.unwrap_err().class(), Class::FailedPrecondition, "{put}");
        let (whole, chunks) = (["HEAD", "POST", "PUT"], ["POST", "PATCH 0-9", "PUT", "DELETE"]);
        assert_eq!(asked, [&whole[..], &["HEAD", "DELETE"], &chunks[..]].concat(), "{put}");
    }
    for (put, class) in [(400, Class::FailedPrecondition), (403, Class::PermissionDenied)] {
        let (outcome, _, asked) = push(Odd { put: Some(put), ..plain }, source(BLOB, 0), &[]).await;
        assert_eq!(outcome.unwrap_err().class(), class);
        assert_eq!(asked, ["HEAD", "POST", "PUT", "DELETE"]);
    }
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_is_cancelled() {
    // The second chunk is never answered, and the push is dropped then.
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let shared = Arc::clone(&shelf);
    let fake = Fake::serve(move |asked| match asked.header("content-range") {
        "4-7" => Reply::new(202, "x").hang(0),
        _ => registry(Odd::default(), &shared, asked),
    })
    .await;
    let (to, source) = (repository(&fake, ":1"), source(BLOB, 4));
    let digest = digest(BLOB);
    let push = to.push_blob(&digest, &source);
    assert!(tokio::time::timeout(Duration::from_millis(300), push).await.is_err());
    assert!(shelf.lock().unwrap().upload.is_some());
    to.cancel_upload(&source.begun).await;
    assert!(shelf.lock().unwrap().upload.is_none(), "{:?}", fake.asked());
    let last = fake.asked().pop().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("DELETE", "/up/2?state=a%2Fb%3D"));
    // Once is enough.
    let count = fake.asked().len();
    to.cancel_upload(&source.begun).await;
    assert_eq!(fake.asked().len(), count);

    // While the registry begins one, the push goes on until it is known where, and no longer.
    for mount in [None, Some("b/other".to_owned())] {
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let shared = Arc::clone(&shelf);
        let fake = Fake::serve(move |asked| {
            let reply = registry(Odd { mount: Some(202), ..Odd::default() }, &shared, asked);
            match asked.method.as_str() {
                "POST" => reply.later(Duration::from_millis(100)),
                "PUT" => reply.hang(0),
                _ => reply,
            }
        })
        .await;
        let (to, digest) = (repository(&fake, ":1"), digest.clone());
        let source = Source { mount, ..self::source(BLOB, 0) };
        let begun = source.begun.clone();
        let other = to.clone();
        let mut push = Box::pin(async move { other.push_blob(&digest, &source).await });
        while !fake.asked().iter().any(|asked| asked.method == "POST") {
            let step = tokio::time::timeout(Duration::from_millis(1), &mut push);
            assert!(step.await.is_err());
        }
        assert!(shelf.lock().unwrap().upload.is_some());
        to.abandon(push, &begun).await;
        assert!(shelf.lock().unwrap().upload.is_none(), "{:?}", fake.asked());
        assert_eq!(fake.asked().last().unwrap().method, "DELETE");
    }

    // A registry that does not let it be cancelled says nothing about the push.
    for status in [401, 405, 500] {
        let fake = Fake::serve(move |asked| match asked.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => Reply::new(202, "").with("Location", "/up"),
            "PUT" => Reply::new(403, ""),
            _ => Reply::new(status, ""),
        })
        .await;
        let outcome = repository(&fake, ":1").push_blob(&digest, &self::source(BLOB, 0)).await;
        assert_eq!(outcome.unwrap_err().class(), Class::PermissionDenied);
        assert_eq!(fake.asked().last().unwrap().method, "DELETE");
    }
}

#[tokio::test]
async fn a_blob_is_mounted_alone() {
    let check = async |mount: u16, want: bool, asked_for: &[&str]| {
        let shelf = Mutex::new(Shelf::default());
        let odd = Odd { mount: Some(mount), ..Odd::default() };
        let fake = Fake::serve(move |asked| registry(odd, &shelf, asked)).await;
        let got =
            repository(&fake, ":1").mount_blob(&digest(BLOB), "b/other", &Begun::default()).await;
        assert_eq!(got, Ok(want), "{mount}");
        let asked: Vec<String> = fake.asked().into_iter().map(|asked| asked.method).collect();
        assert_eq!(asked, asked_for, "{mount}");
    };
    check(201, true, &["POST"]).await;
    // What was begun in its place is not left there.
    check(202, false, &["POST", "DELETE"]).await;
    for refusal in [400, 403, 404, 405] {
        check(refusal, false, &["POST"]).await;
    }
}

#[tokio::test]
async fn what_arrives_is_what_was_sent() {
    let odd = Odd { says_other_digest: true, ..Odd::default() };
    let (outcome, _, _) = push(odd, source(BLOB, 0), &[]).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Corrupt);
    // Damaged here: the registry finds out.
    let (outcome, blob, _) = push(Odd::default(), source(b"012345678x", 0), &[]).await;
    assert_eq!(outcome.unwrap_err().class(), Class::FailedPrecondition);
    assert_eq!(blob, None);
    // Cut short here.
    let mut short = source(b"0123", 0);
    short.blob.size = 10;
    let (outcome, blob, asked) = push(Odd::default(), short, &[]).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.message().contains("cannot be read"), "{error}");
    assert_eq!((blob, asked), (None, ["HEAD", "POST", "DELETE"].map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn refusals_have_classes() {
    let check = async |status: u16, want: Class, want_posts: usize| {
        let fake = Fake::serve(move |asked| match asked.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            _ => Reply::new(status, ""),
        })
        .await;
        let outcome = repository(&fake, ":1").push_blob(&digest(BLOB), &source(BLOB, 0)).await;
        assert_eq!(outcome.unwrap_err().class(), want, "{status}");
        assert_eq!(fake.asked().len(), 1 + want_posts, "{status}");
    };
    check(401, Class::PermissionDenied, 1).await;
    check(403, Class::PermissionDenied, 1).await;
    check(404, Class::NotFound, 1).await;
    check(405, Class::FailedPrecondition, 1).await;
    check(302, Class::FailedPrecondition, 1).await;
    check(429, Class::Unavailable, 3).await;
    check(503, Class::Unavailable, 3).await;
    // It takes the upload, and says no place.
    check(202, Class::FailedPrecondition, 1).await;
}

#[tokio::test]
async fn an_upload_may_be_at_another_host() {
    let store = Fake::serve(|_| Reply::new(201, "")).await;
    let place = format!("http://{}/store?sig=S", store.host);
    let fake = Fake::serve(move |asked| match asked.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        _ => Reply::new(202, "").with("Location", &place),
    })
    .await;
    let pushed = repository(&fake, ":1").push_blob(&digest(BLOB), &source(BLOB, 0)).await;
    assert_eq!(pushed, Ok(Pushed::Sent));
    let [asked] = store.asked().try_into().unwrap();
    assert_eq!(asked.path, format!("/store?sig=S&digest={}", digest(BLOB)));
    assert_eq!(asked.body, BLOB);
}

const DOCUMENT: &[u8] = br#"{"schemaVersion":2}"#;

fn document() -> Descriptor {
    Descriptor {
        media_type: OCI_MANIFEST.into(),
        digest: digest(DOCUMENT),
        size: DOCUMENT.len() as u64,
        platform: None,
    }
}

#[tokio::test]
async fn documents_are_put_under_tag_or_digest() {
    let fake = Fake::serve(|asked| match asked.number {
        0 => Reply::new(500, ""),
        _ => Reply::new(201, "").with("OCI-Subject", "sha256:0"),
    })
    .await;
    let bytes = Bytes::from_static(DOCUMENT);
    let subject = Subject {
        digest: digest(b"subject"),
        artifact_type: String::new(),
        annotations: Value::Null,
    };
    let repository = repository(&fake, ":1");
    repository.put_document(Some("1"), &document(), &bytes, Some(&subject)).await.unwrap();
    repository.put_document(None, &document(), &bytes, None).await.unwrap();
    let asked = fake.asked();
    assert_eq!(asked.len(), 3, "one that failed, and no list of what refers to the subject");
    assert_eq!(asked[1].path, "/v2/a/app/manifests/1");
    assert_eq!(asked[2].path, format!("/v2/a/app/manifests/{}", digest(DOCUMENT)));
    for asked in &asked {
        assert_eq!((asked.method.as_str(), asked.body.as_slice()), ("PUT", DOCUMENT));
        assert_eq!(asked.header("content-type"), OCI_MANIFEST);
    }
    let wrong = Fake::serve(|_| {
        Reply::new(201, "").with("Docker-Content-Digest", digest(b"other").as_str())
    })
    .await;
    let outcome =
        self::repository(&wrong, ":1").put_document(None, &document(), &bytes, None).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Corrupt);
}

/// OCI distribution-spec 1.1, "Pushing Manifests with Subject".
#[tokio::test]
async fn a_registry_without_referrers_gets_the_list() {
    let subject = Subject {
        digest: digest(b"subject"),
        artifact_type: "application/x".into(),
        annotations: json!({ "a": "b" }),
    };
    let tag = format!("/v2/a/app/manifests/sha256-{}", subject.digest.hex());
    let entry = json!({
        "mediaType": OCI_MANIFEST,
        "digest": digest(DOCUMENT).as_str(),
        "size": DOCUMENT.len(),
        "artifactType": "application/x",
        "annotations": { "a": "b" },
    });
    let other = json!({ "mediaType": OCI_MANIFEST, "digest": "sha256:1", "size": 1 });
    let index = |entries: &[&Value]| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let check = async |before: Reply, refused: usize, want: Result<Option<Value>, Class>| {
        let (list, refusals) = (tag.clone(), AtomicUsize::new(refused));
        let fake = Fake::serve(move |asked| match asked.method.as_str() {
            "GET" => before.clone(),
            _ if asked.path == list => {
                let is_refused =
                    refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    });
                Reply::new(if is_refused.is_ok() { 412 } else { 201 }, "")
            }
            _ => Reply::new(201, ""),
        })
        .await;
        let bytes = Bytes::from_static(DOCUMENT);
        let put = repository(&fake, ":1");
        let put = put.put_document(Some("1"), &document(), &bytes, Some(&subject)).await;
        let asked = fake.asked();
        let written = asked.iter().rfind(|asked| asked.method == "PUT" && asked.path == tag);
        let got = put.map_err(|error| error.class()).map(|()| {
            written.map(|asked| {
                assert_eq!(asked.header("content-type"), OCI_INDEX);
                serde_json::from_slice::<Value>(&asked.body).unwrap()
            })
        });
        assert_eq!(got, want);
        asked
    };
    let have = |index: &Value| Reply::new(200, index.to_string()).with("Content-Type", OCI_INDEX);
    check(Reply::new(404, ""), 0, Ok(Some(index(&[&entry])))).await;
    let asked = check(have(&index(&[&other])), 0, Ok(Some(index(&[&other, &entry])))).await;
    assert_eq!(asked.last().unwrap().header("if-match"), "");
    let tagged = have(&index(&[&other])).with("ETag", "\"1\"");
    let asked = check(tagged.clone(), 1, Ok(Some(index(&[&other, &entry])))).await;
    assert_eq!(asked.last().unwrap().header("if-match"), "\"1\"");
    check(tagged, 9, Err(Class::Unavailable)).await;
    check(have(&index(&[&other, &entry])), 0, Ok(None)).await;
    let manifest = Reply::new(200, DOCUMENT).with("Content-Type", OCI_MANIFEST);
    check(manifest, 0, Err(Class::FailedPrecondition)).await;
    check(have(&json!({ "manifests": 1 })), 0, Err(Class::FailedPrecondition)).await;
    let long = json!({ "digest": "x".repeat(850) });
    check(have(&index(&[&long])), 0, Err(Class::ResourceExhausted)).await;
}

#[tokio::test]
async fn objects_are_documents_or_blobs() {
    let reply = |asked: &Asked| {
        let name = asked.path.rsplit('/').next().unwrap();
        let is_blob = asked.path.contains("/blobs/");
        match name {
            "1" => Reply::new(200, DOCUMENT).with("Content-Type", "application/x+json; a=b"),
            _ if !is_blob && name == digest(DOCUMENT).as_str() => Reply::new(200, DOCUMENT),
            _ if !is_blob && name == digest(b"other").as_str() => Reply::new(200, DOCUMENT),
            "large" => Reply::new(200, vec![b' '; 1001]),
            _ if is_blob && name == digest(BLOB).as_str() => Reply::new(200, BLOB),
            _ if name == digest(BLOB).as_str() => Reply::new(500, ""),
            _ if !is_blob && name == digest(b"trouble").as_str() => Reply::new(500, ""),
            _ => Reply::new(404, ""),
        }
    };
    let check = async |suffix: &str, want: Result<Object, Class>| {
        let fake = Fake::serve(reply).await;
        let got = repository(&fake, suffix).object().await;
        assert_eq!(got.map_err(|error| error.class()), want, "{suffix}");
    };
    let named = |media_type: &str| {
        let descriptor = Descriptor { media_type: media_type.into(), ..document() };
        Ok(Object::Document(descriptor, Bytes::from_static(DOCUMENT)))
    };
    check(":1", named("application/x+json")).await;
    check(&format!("@{}", digest(DOCUMENT)), named("")).await;
    check(&format!("@{}", digest(b"other")), Err(Class::Corrupt)).await;
    check(":large", Err(Class::ResourceExhausted)).await;
    check(":none", Err(Class::NotFound)).await;
    check(&format!("@{}", digest(b"none")), Err(Class::NotFound)).await;
    check(&format!("@{}", digest(b"trouble")), Err(Class::Unavailable)).await;
    let blob = Descriptor {
        media_type: "application/octet-stream".into(),
        digest: digest(BLOB),
        size: 10,
        platform: None,
    };
    check(&format!("@{}", digest(BLOB)), Ok(Object::Blob(blob))).await;
}

/// A blob of many pieces, each sent once, and never all of them in memory.
#[tokio::test]
async fn a_large_blob_is_whole() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let got = Arc::new(Mutex::new(Vec::<u8>::new()));
    let taken = Arc::clone(&got);
    let fake = Fake::serve(move |asked| match asked.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").with("Location", "/up"),
        "PATCH" => {
            taken.lock().unwrap().extend(&asked.body);
            Reply::new(202, "")
        }
        _ => Reply::new(201, ""),
    })
    .await;
    let sent: Arc<AtomicU64> = Arc::default();
    let source = Source { sent: Arc::clone(&sent), ..source(&bytes, 1_000_000) };
    let pushed = repository(&fake, ":1").push_blob(&digest(&bytes), &source).await;
    assert_eq!(pushed, Ok(Pushed::Sent));
    assert!(*got.lock().unwrap() == bytes);
    assert_eq!(sent.load(Ordering::Relaxed), 3_000_000);
}
