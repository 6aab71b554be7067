//! Who asks: challenges, tokens, and to whom credentials are not given.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use capstan_sdk::contract::access::{Login, Secret, WhoAmI};
use futures::future::join_all;
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;

use super::super::exchange::{Ask, send};
use super::super::hosts::Capability;
use super::super::proxy::{Proxies, basic};
use super::super::url::Url;
use super::*;

const PASSWORD: &str = "CANARY";

pub(super) fn me() -> Login {
    Login { user: "me".into(), secret: Secret::new(PASSWORD), ..Login::default() }
}

pub(super) fn told() -> String {
    basic("me", PASSWORD).to_str().unwrap().to_owned()
}

/// Access of a client that knows `login`, and who it was asked about.
pub(super) fn knowing(login: Option<Login>) -> (Access, Arc<Mutex<Vec<String>>>) {
    let (client, mut questions) = mpsc::unbounded_channel::<WhoAmI>();
    let hosts = Arc::new(Mutex::<Vec<String>>::default());
    let log = Arc::clone(&hosts);
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            log.lock().unwrap().push(question.host);
            question.answer.send(Ok(login.clone())).unwrap();
        }
    });
    (Access { credentials: Some(client), ..http() }, hosts)
}

pub(super) fn of(fake: &Fake, access: &Access) -> Repository {
    repository_by(config(), &fake.host, ":1", access)
}

pub(super) fn challenge(text: &str) -> Reply {
    Reply::new(401, "").with("WWW-Authenticate", text)
}

/// What there is for whoever says `authorization`; others get `refusal`.
pub(super) fn guarded(asked: &Asked, authorization: &str, refusal: Reply) -> Reply {
    match asked.header("authorization") == authorization {
        false => refusal,
        true if asked.path.contains("/manifests/") => manifest(),
        true => Reply::part(asked, BLOB),
    }
}

/// A registry that takes tokens of `tokens`, as long as these are `good`.
pub(super) async fn by_token(
    tokens: &Fake,
    good: impl Fn(&Asked, &str) -> bool + Send + Sync + 'static,
) -> Fake {
    let challenge = challenge(&format!(
        "Basic realm=x, Bearer realm=\"http://{}/token\",service=\"us\",scope=\"repository:a/app:pull\"",
        tokens.host
    ));
    Fake::serve(move |asked| match asked.header("authorization").strip_prefix("Bearer ") {
        Some(token) if good(asked, token) => {
            guarded(asked, asked.header("authorization"), Reply::new(500, ""))
        }
        _ => challenge.clone(),
    })
    .await
}

/// A server that gives the tokens `1`, `2`, and so on.
async fn counting() -> Fake {
    Fake::serve(|asked| Reply::new(200, format!(r#"{{"token":"{}"}}"#, asked.number + 1))).await
}

#[tokio::test]
async fn basic_credentials_are_told_when_they_are_wanted() {
    let fake = Fake::serve(|asked| guarded(asked, &told(), challenge("Basic realm=\"x\""))).await;
    let (access, hosts) = knowing(Some(me()));
    let repository = of(&fake, &access);
    repository.resolve().await.unwrap();
    assert_eq!(read(&repository, 0).await.unwrap(), BLOB);
    let told: Vec<bool> =
        fake.asked().iter().map(|a| !a.header("authorization").is_empty()).collect();
    assert_eq!(told, [false, true, true], "only the first time without");
    assert_eq!(*hosts.lock().unwrap(), [&*fake.host], "asked once");
}

#[tokio::test]
async fn without_the_right_credentials_access_is_denied() {
    let check = async |login: Option<Login>,
                       challenges: &'static [&'static str],
                       asked: usize,
                       want: &str| {
        let fake = Fake::serve(|_| {
            challenges
                .iter()
                .fold(Reply::new(401, ""), |reply, text| reply.with("WWW-Authenticate", text))
        })
        .await;
        let (access, _) = knowing(login);
        let error = of(&fake, &access).resolve().await.unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied, "{error}");
        assert!(error.message().replace(&fake.host, "HOST").contains(want), "{error}");
        assert_eq!(fake.asked().len(), asked, "{error}");
    };
    let token = Login { identity_token: Secret::new("x"), ..Login::default() };
    let basic = &["Basic realm=x"];
    check(None, basic, 1, "wants credentials (401 Unauthorized); run `capstan login HOST`").await;
    check(Some(me()), basic, 2, "does not accept the credentials of user \"me\"").await;
    check(Some(token), basic, 1, "takes a user and a password only").await;
    check(Some(me()), &[], 1, "does not say how").await;
    check(Some(me()), &["Digest realm=x", "Negotiate"], 1, r#"by ["digest", "negotiate"] only"#)
        .await;
}

#[tokio::test]
async fn a_token_is_fetched_and_kept() {
    let tokens = counting().await;
    let fake = by_token(&tokens, |_, token| token == "1").await;
    let repository = of(&fake, &http());
    repository.resolve().await.unwrap();
    read(&repository, 0).await.unwrap();
    assert_eq!(
        tokens.asked_for(),
        ["/token?service=us&scope=repository%3Aa%2Fapp%3Apull"],
        "anonymously, and once"
    );
    assert_eq!(tokens.asked()[0].method, "GET");
    assert_eq!(tokens.asked()[0].header("authorization"), "");
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn a_login_is_given_for_a_token() {
    let check = async |login: Login, statuses: &'static [u16], want: &[&str]| {
        let tokens = Fake::serve(|asked| match statuses[asked.number] {
            200 => Reply::new(200, r#"{"access_token":"1","token":"no"}"#),
            status => Reply::new(status, ""),
        })
        .await;
        let fake = by_token(&tokens, |_, token| token == "1").await;
        let (access, hosts) = knowing(Some(login));
        let got = of(&fake, &access).resolve().await;
        let last = statuses.last().unwrap();
        assert_eq!(got.is_ok(), *last == 200, "{got:?}");
        let line = |asked: &Asked| {
            let path = asked.path.replace("scope=repository%3Aa%2Fapp%3Apull", "SCOPE");
            let body = asked.text().replace("scope=repository%3Aa%2Fapp%3Apull", "SCOPE");
            format!("{} {path} {} {body}", asked.method, asked.header("authorization"))
        };
        let asked: Vec<String> = tokens.asked().iter().map(line).collect();
        assert_eq!(asked, want);
        assert_eq!(*hosts.lock().unwrap(), [&*fake.host]);
    };
    let form = "POST /token  service=us&SCOPE&client_id=capstan&grant_type=password&username=me&password=CANARY";
    let query = format!("GET /token?service=us&SCOPE&account=me {} ", told());
    let refresh = "POST /token  service=us&SCOPE&client_id=capstan&grant_type=refresh_token&refresh_token=a%2Fb";
    check(me(), &[200], &[form]).await;
    check(me(), &[405, 200], &[form, &query]).await;
    check(me(), &[404, 200], &[form, &query]).await;
    check(me(), &[400, 200], &[form, &query]).await;
    check(me(), &[401, 401], &[form, &query]).await;
    // Trouble passes, and says nothing about forms.
    check(me(), &[503, 200], &[form, form]).await;
    check(me(), &[429, 200], &[form, form]).await;
    let token = Login { identity_token: Secret::new("a/b"), ..Login::default() };
    check(token.clone(), &[200], &[refresh]).await;
    check(token, &[401], &[refresh]).await;
}

#[tokio::test]
async fn an_identity_token_stands_for_the_password_from_then_on() {
    // Each token is for one request; the second identity token is not taken when its turn comes.
    let tokens = Fake::serve(|asked| {
        let token = |identity: &str| {
            let number = asked.number;
            let document = format!(r#"{{"access_token":"{number}","refresh_token":"{identity}"}}"#);
            Reply::new(200, document)
        };
        match asked.text() {
            text if text.contains("refresh_token=CANARY1") => token("CANARY2"),
            text if text.contains("refresh_token=CANARY2") => Reply::new(401, ""),
            text if text.contains("grant_type=password") => token("CANARY1"),
            _ => Reply::new(500, ""),
        }
    })
    .await;
    let served = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let fake =
        by_token(&tokens, move |_, token| served.lock().unwrap().insert(token.to_owned())).await;
    let (access, _) = knowing(Some(me()));
    let repository = of(&fake, &access);
    for _ in 0..3 {
        repository.resolve().await.unwrap();
    }
    let grants: Vec<String> = tokens
        .asked()
        .iter()
        .map(|asked| {
            let grant = asked.text().split("grant_type=").nth(1).unwrap();
            grant.split("&username").next().unwrap().to_owned()
        })
        .collect();
    let want = ["password", "CANARY1", "CANARY2", "password"];
    let want = want.map(|grant| grant.replace("CANARY", "refresh_token&refresh_token=CANARY"));
    assert_eq!(grants, want);
    assert!(tokens.asked().iter().all(|asked| !asked.text().contains("offline")), "not asked for");
}

#[tokio::test]
async fn what_is_no_token_is_an_error() {
    let check = async |reply: Reply, class: Class, want: &str, asked: usize| {
        let tokens = Fake::serve(move |_| reply.clone()).await;
        let fake = by_token(&tokens, |_, _| true).await;
        let error = of(&fake, &http()).resolve().await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(
            error.message().contains(&format!("token server http://{}", tokens.host)),
            "{error}"
        );
        assert!(error.message().contains(want), "{error}");
        assert_eq!(tokens.asked().len(), asked, "{error}");
    };
    let wrong = Class::FailedPrecondition;
    check(Reply::new(200, "{}"), wrong, "sends no token", 1).await;
    check(Reply::new(200, r#"{"token":"","access_token":""}"#), wrong, "sends no token", 1).await;
    check(Reply::new(200, "<html>"), wrong, "something other than a token", 1).await;
    check(Reply::new(200, r#"{"token":"a\nb"}"#), wrong, "fits into no header", 1).await;
    check(Reply::new(302, ""), wrong, "does not give a token", 1).await;
    let denied = Class::PermissionDenied;
    check(
        Reply::new(401, ""),
        denied,
        "wants credentials (401 Unauthorized); run `capstan login",
        1,
    )
    .await;
    check(Reply::new(403, ""), denied, "wants credentials", 1).await;
    check(Reply::new(503, ""), Class::Unavailable, "is in trouble", 3).await;
    check(
        Reply::new(429, "").with("Retry-After", "99"),
        Class::Unavailable,
        "asks to wait 99 s",
        1,
    )
    .await;
}

#[tokio::test]
async fn a_bad_challenge_is_an_error() {
    let check = async |text: &'static str, class: Class| {
        let fake = Fake::serve(move |_| challenge(text)).await;
        let error = of(&fake, &http()).resolve().await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert_eq!(fake.asked().len(), 1);
    };
    check("Bearer", Class::FailedPrecondition).await;
    check("Bearer realm=\"\"", Class::FailedPrecondition).await;
    check("Bearer realm=\"file:///etc/passwd\"", Class::FailedPrecondition).await;
    check("Bearer realm=\"http://me:you@a.example/\"", Class::FailedPrecondition).await;
    check("Bearer realm=\"/token\"", Class::FailedPrecondition).await;
}

#[tokio::test]
async fn a_token_is_renewed_when_it_expires() {
    let tokens = Fake::serve(|asked| {
        Reply::new(200, format!(r#"{{"token":"{}","expires_in":1}}"#, asked.number + 1))
    })
    .await;
    let fake = by_token(&tokens, |_, _| true).await;
    let repository = of(&fake, &http());
    repository.resolve().await.unwrap();
    repository.resolve().await.unwrap();
    assert_eq!(tokens.asked().len(), 1);
    tokio::time::sleep(Duration::from_millis(950)).await;
    repository.resolve().await.unwrap();
    assert_eq!(tokens.asked().len(), 2);
    assert_eq!(fake.asked().len(), 4, "the renewal costs no refusal");
}

#[tokio::test]
async fn a_token_that_is_refused_in_the_middle_is_renewed() {
    let tokens = counting().await;
    // The first token is good for one manifest and one blob, which breaks off.
    let challenge = challenge(&format!("Bearer realm=\"http://{}/\"", tokens.host));
    let fake = Fake::serve(move |asked| match (asked.number, asked.header("authorization")) {
        (1, "Bearer 1") => manifest(),
        (2, "Bearer 1") => Reply::part(asked, BLOB).cut(4),
        (_, "Bearer 2") => Reply::part(asked, BLOB),
        _ => challenge.clone(),
    })
    .await;
    let repository = of(&fake, &http());
    repository.resolve().await.unwrap();
    assert_eq!(download(&repository, 0).await.unwrap(), BLOB);
    assert_eq!(tokens.asked().len(), 2);
    let ranges: Vec<_> =
        fake.asked().iter().map(|asked| asked.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "", "", "bytes=4-", "bytes=4-"]);
}

#[tokio::test]
async fn a_new_token_that_is_refused_is_final() {
    let tokens = counting().await;
    let realm = format!("Bearer realm=\"http://{}/\"", tokens.host);
    let fake = Fake::serve(move |asked| match asked.header("authorization") {
        "" => challenge(&realm),
        _ => challenge(&format!(
            "{realm},error=\"insufficient_scope\",error_description=\"nothing for you\""
        )),
    })
    .await;
    let error = of(&fake, &http()).resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::PermissionDenied);
    let want = format!("run `capstan login {}`, and check the name", fake.host);
    assert!(error.message().contains(&want), "{error}");
    assert!(error.message().contains("insufficient_scope: nothing for you"), "{error}");
    assert_eq!((fake.asked().len(), tokens.asked().len()), (2, 1));

    // It asks for something else each time: that ends too.
    let realm = format!("Bearer realm=\"http://{}/\"", tokens.host);
    let fake =
        Fake::serve(move |asked| challenge(&format!("{realm},scope=\"a:{}:pull\"", asked.number)))
            .await;
    let error = of(&fake, &http()).resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::PermissionDenied);
    assert!(error.message().contains("again and again"), "{error}");
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test]
async fn those_who_want_the_same_token_fetch_it_once() {
    let tokens = counting().await;
    let fake = by_token(&tokens, |_, token| token == "1").await;
    let repository = of(&fake, &http());
    let all = join_all((0..8).map(|_| read(&repository, 0))).await;
    assert!(all.iter().all(|bytes| bytes.as_deref() == Ok(BLOB)));
    assert_eq!(tokens.asked().len(), 1);
}

/// What `POST`, or `GET`, of a path wants from the token server.
async fn scope(method: Method, path: &str, is_push: bool) -> String {
    let tokens = counting().await;
    let realm = format!("Bearer realm=\"http://{}/\"", tokens.host);
    let fake = Fake::serve(move |asked| match asked.header("authorization") {
        "" => challenge(&realm),
        _ => Reply::new(200, ""),
    })
    .await;
    let repository = of(&fake, &http());
    let endpoint = match is_push {
        true => repository.pushed_to().unwrap().clone(),
        false => repository.endpoints(Capability::Pull).remove(0),
    };
    send(&repository.pool, &Ask { method, ..Ask::get("it", &endpoint, path) }).await.unwrap();
    tokens.asked()[0].path.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",")
}

#[tokio::test]
async fn tokens_are_for_what_is_done() {
    let check = async |method: Method, path: &str, is_push: bool, want: &str| {
        assert_eq!(scope(method, path, is_push).await, want, "{path}");
    };
    check(Method::GET, "/v2/a/app/blobs/x", false, "/?scope=repository:a/app:pull").await;
    check(Method::HEAD, "/v2/a/app/blobs/x", true, "/?scope=repository:a/app:pull,push").await;
    check(Method::POST, "/v2/a/app/blobs/uploads/", false, "/?scope=repository:a/app:pull,push")
        .await;
    check(
        Method::PUT,
        "/v2/a/blobs/app/manifests/1",
        false,
        "/?scope=repository:a/blobs/app:pull,push",
    )
    .await;
    check(Method::GET, "/v2/a/app/referrers/x", false, "/?scope=repository:a/app:pull").await;
    check(
        Method::POST,
        "/v2/a/app/blobs/uploads/?mount=x&from=b%2Fother",
        false,
        "/?scope=repository:a/app:pull,push&scope=repository:b/other:pull",
    )
    .await;
    check(Method::GET, "/v2/", false, "/").await;
}

#[tokio::test]
async fn credentials_go_to_no_other_host() {
    // The other one would love to know them.
    let other = Fake::serve(|asked| match asked.path.as_str() {
        "/open" => Reply::part(asked, BLOB),
        _ => challenge("Basic realm=\"x\""),
    })
    .await;
    let check = async |path: &'static str, is_good: bool| {
        let location = format!("http://{}{path}", other.host);
        let fake = Fake::serve(move |asked| match asked.header("authorization") == told() {
            true => Reply::new(307, "").with("Location", &location),
            false => challenge("Basic realm=\"x\""),
        })
        .await;
        let (access, hosts) = knowing(Some(me()));
        let got = read(&of(&fake, &access), 0).await;
        assert_eq!(got.is_ok(), is_good, "{got:?}");
        assert_eq!(fake.asked().len(), 2);
        assert_eq!(*hosts.lock().unwrap(), [&*fake.host]);
        got.err()
    };
    assert_eq!(check("/open", true).await, None);
    let error = check("/closed", false).await.unwrap();
    assert_eq!(error.class(), Class::PermissionDenied);
    assert!(
        error.message().contains("to which the registry redirects, wants credentials"),
        "{error}"
    );
    assert_eq!(other.asked().len(), 2);
    assert!(other.asked().iter().all(|asked| asked.header("authorization").is_empty()));
}

#[tokio::test]
async fn who_was_led_away_does_not_come_back_with_credentials() {
    let back = Arc::new(Mutex::new(String::new()));
    let location = Arc::clone(&back);
    let other =
        Fake::serve(move |_| Reply::new(307, "").with("Location", &location.lock().unwrap())).await;
    let away = format!("http://{}/", other.host);
    let fake =
        Fake::serve(move |asked| match (asked.path.as_str(), asked.header("authorization")) {
            ("/deleted", _) => Reply::part(asked, BLOB),
            (_, "") => challenge("Basic realm=x"),
            _ => Reply::new(307, "").with("Location", &away),
        })
        .await;
    *back.lock().unwrap() = format!("http://{}/deleted", fake.host);
    let (access, _) = knowing(Some(me()));
    read(&of(&fake, &access), 0).await.unwrap();
    let [_, asked, back] = fake.asked().try_into().unwrap();
    assert_eq!(asked.header("authorization"), told());
    assert_eq!(back.header("authorization"), "");
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    let other = Fake::serve(|_| Reply::new(200, "")).await;
    let fake = Fake::serve(|asked| guarded(asked, &told(), challenge("Basic realm=x"))).await;
    let (access, _) = knowing(Some(me()));
    let repository = of(&fake, &access);
    repository.resolve().await.unwrap();
    let endpoint = repository.pushed_to().unwrap().clone();
    let url = Url::parse(&format!("http://{}/upload/1", other.host)).unwrap();
    let ask = Ask { method: Method::PUT, url, ..Ask::get("it", &endpoint, "/v2/") };
    send(&repository.pool, &ask).await.unwrap();
    assert_eq!(other.asked()[0].header("authorization"), "");
}

/// A registry elsewhere, by a proxy that answers for it.
async fn elsewhere(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Fake, Repository) {
    let fake = Fake::serve(reply).await;
    let proxies = Proxies::new(&fake.host, |_| None);
    let (access, _) = knowing(Some(me()));
    let config = Config { proxies, ..config() };
    (fake, repository_by(config, "registry.example", ":1", &access))
}

#[tokio::test]
async fn a_registry_elsewhere_does_not_lead_inward() {
    let target = Fake::serve(|_| Reply::new(200, r#"{"token":"1"}"#)).await;
    let port = target.host.rsplit(':').next().unwrap().to_owned();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let place = format!("http://{host}:{port}/");
        let realm = challenge(&format!("Bearer realm=\"{place}\""));
        let (fake, repository) = elsewhere(move |_| realm.clone()).await;
        let error = repository.resolve().await.unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied, "{host} {error}");
        assert!(error.message().contains("an address of this machine or its link"), "{error}");
        assert_eq!(fake.asked().len(), 1);

        let (_, repository) =
            elsewhere(move |_| Reply::new(307, "").with("Location", &place)).await;
        let error = repository.resolve().await.unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied, "{host} {error}");
    }
    assert_eq!(target.asked().len(), 0);
}

#[tokio::test]
async fn secrets_are_not_printed() {
    // Both repeat what they are told.
    let echo = |asked: &Asked, status: u16| {
        let said = format!("I got {} {}", asked.header("authorization"), asked.text());
        Reply::new(status, said).with("Content-Type", "text/plain")
    };
    let tokens = Fake::serve(move |asked| match asked.number {
        0 => Reply::new(200, r#"{"token":"TOKEN-CANARY"}"#),
        _ => echo(asked, 401),
    })
    .await;
    let realm = format!("Bearer realm=\"http://{}/\"", tokens.host);
    let fake = Fake::serve(move |asked| match asked.header("authorization") {
        "" => challenge(&realm),
        "Bearer TOKEN-CANARY" if asked.path.contains("manifests") => echo(asked, 400),
        _ => challenge(&realm),
    })
    .await;
    let login = Login { user: "me".into(), secret: Secret::new(PASSWORD), ..Login::default() };
    let (access, _) = knowing(Some(login));
    let reference = Reference::parse(&format!("{}/a/app", fake.host)).unwrap();
    let registry = Registry::new(config());
    let repository = registry.repository(&reference, &access).unwrap();
    let first = repository.resolve().await.unwrap_err();
    let second = read(&repository, 0).await.unwrap_err();
    assert!(first.message().contains("I got Bearer ***"), "{first}");
    assert_eq!(second.class(), Class::PermissionDenied, "{second}");
    let shown = format!("{first} {second} {registry:?} {repository:?} {access:?}");
    let secret = told();
    for secret in ["CANARY", secret.strip_prefix("Basic ").unwrap()] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn heads_become_gets_where_they_are_not_known() {
    let fake = Fake::serve(|asked| match asked.method.as_str() {
        "HEAD" => Reply::new(405, ""),
        _ => manifest(),
    })
    .await;
    let repository = repository(&fake);
    let [endpoint] = repository.endpoints(Capability::Pull).try_into().unwrap();
    let ask = Ask { method: Method::HEAD, ..Ask::get("it", &endpoint, "/v2/a/app/manifests/1") };
    let answer = send(&repository.pool, &ask).await.unwrap();
    assert_eq!(answer.head.status, StatusCode::OK);
    let methods: Vec<_> = fake.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["HEAD", "GET"]);
}

#[tokio::test]
async fn few_connections_to_a_host_are_used_at_once() {
    let fake = Fake::serve(|asked| Reply::part(asked, BLOB)).await;
    let config = Config { max_connections_per_host: 2, ..config() };
    let first = Registry::new(config);
    let second = first.another();
    let reference = Reference::parse(&format!("{}/a/app", fake.host)).unwrap();
    let [first, second] =
        [first, second].map(|registry| registry.repository(&reference, &http()).unwrap());
    let [a, b] = [first.blob(&blob(), 0).await.unwrap(), second.blob(&blob(), 0).await.unwrap()];
    let done = AtomicUsize::new(0);
    let third = async {
        read(&second, 0).await.unwrap();
        done.store(1, Ordering::Relaxed);
    };
    let free = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((done.load(Ordering::Relaxed), fake.asked().len()), (0, 2));
        drop(a);
    };
    tokio::join!(third, free);
    drop(b);
}
