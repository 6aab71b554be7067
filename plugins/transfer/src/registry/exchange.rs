//! One request and its final answer: challenges are answered, redirects followed, refusals become errors.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use capstan_sdk::{Class, Error, Result};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::{Given, Verdict};
use super::connect::Guide;
use super::endpoint::Endpoint;
use super::pool::{Answer, Body, Pool, Sent, nothing};
use super::retry::Failure;
use super::url::{Url, decode};

/// How we name ourselves.
pub(super) const USER_AGENT: &str = concat!("capstan/", env!("CARGO_PKG_VERSION"));

/// The most bytes of a refusal that are looked at for what the registry says.
const MAX_REFUSAL_BYTES: u64 = 16 << 10;

/// The most characters of what the registry says that an error repeats.
const MAX_SAID_CHARS: usize = 200;

/// How often one request is repeated with what a challenge taught: once for the way, once for a token
/// that has expired, once for rights that it lacks.
const MAX_CHALLENGES: u32 = 3;

/// What a registry is asked.
pub(super) struct Ask<'a> {
    /// The words for it in errors.
    pub(super) what: &'a str,
    /// The registry, or its mirror. It alone is told who asks.
    pub(super) home: &'a Endpoint,
    /// The repository that it is about, if it is about one.
    pub(super) repository: Option<String>,
    /// Another one, of which a blob is to be mounted.
    pub(super) mounts_from: Option<String>,
    /// GET, unless it is said otherwise. HEAD becomes GET where a registry does not know it.
    pub(super) method: Method,
    /// Where it goes: at home, or where a `Location` of home says.
    pub(super) url: Url,
    /// Which media types will do; empty = all.
    pub(super) accept: &'static str,
    /// From which byte on; `None` for what has no parts.
    pub(super) offset: Option<u64>,
    /// Up to before which byte; `None` = to the end.
    pub(super) end: Option<u64>,
    /// More headers, such as the media type of what is sent.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Makes the body of each attempt.
    pub(super) body: Option<&'a (dyn Fn() -> Sent + Send + Sync)>,
    /// The status of an answer that is one.
    pub(super) good: &'static [StatusCode],
}

impl<'a> Ask<'a> {
    /// A request for what is at a checked path, which begins with `/v2/`. The rights that it takes are those to what the
    /// path names, wherever else it is sent afterwards.
    pub(super) fn get(what: &'a str, home: &'a Endpoint, path: &str) -> Self {
        let (place, query) = path.split_once('?').unwrap_or((path, ""));
        let from = query.split('&').find_map(|pair| pair.strip_prefix("from="));
        Self {
            what,
            home,
            repository: repository_of(place).map(str::to_owned),
            mounts_from: from.and_then(decode),
            method: Method::GET,
            url: home.url(path),
            accept: "",
            offset: None,
            end: None,
            headers: Vec::new(),
            body: None,
            good: &[StatusCode::OK],
        }
    }

    fn takes(&self, status: StatusCode) -> bool {
        self.good.contains(&status)
            || (status == StatusCode::PARTIAL_CONTENT && self.offset.is_some())
    }

    fn is_safe(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// Whether a redirect may be followed: a body is not sent elsewhere unless that is what the status asks for.
    fn follows(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                self.is_safe()
            }
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => false,
        }
    }

    /// The rights that it takes, in the words of token servers; first those to the repository itself.
    fn wanted(&self) -> String {
        let Some(repository) = &self.repository else { return String::new() };
        let actions =
            if self.home.is_pushed_to() || !self.is_safe() { "pull,push" } else { "pull" };
        let mut wanted = format!("repository:{repository}:{actions}");
        if let Some(from) = &self.mounts_from {
            wanted.push_str(&format!(" repository:{from}:pull"));
        }
        wanted
    }
}

/// The repository in a path below `/v2/`.
fn repository_of(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/v2/")?;
    // A repository may be called so too: the last one counts.
    let parts = ["/manifests/", "/blobs/", "/referrers/", "/tags/"];
    let end = parts.iter().filter_map(|part| path.rfind(part)).max()?;
    Some(&path[..end])
}

/// Asks, tells who asks, and follows redirects: an answer with a status that will do, or also 206 if there is an
/// offset.
///
/// # Errors
/// As `Repository::resolve`, and `FailedPrecondition` for all that a registry should not answer.
pub(super) async fn send(pool: &Arc<Pool>, ask: &Ask<'_>) -> Result<Answer, Failure> {
    match follow(pool, ask).await {
        Ok(Answer { head, body, is_inward }) => {
            Ok(Answer { head, body: body.from(ask.home), is_inward })
        }
        Err(failure) => {
            if failure.error.class() == Class::Unavailable {
                ask.home.failed();
            }
            Err(failure)
        }
    }
}

async fn follow(pool: &Arc<Pool>, ask: &Ask<'_>) -> Result<Answer, Failure> {
    let at = |error: Error| error.at(ask.what);
    let begun = Instant::now();
    let (home, auth) = (ask.home, ask.home.auth());
    let wanted = ask.wanted();
    let mut method = ask.method.clone();
    let mut url = ask.url.clone();
    let mut guide = home.guide(&url);
    let mut is_home = url.is_same_origin(home.origin());
    let (mut redirects, mut challenges) = (0, 0);
    loop {
        let given = match is_home {
            true => auth
                .authorize(pool, home, &wanted)
                .await
                .map_err(|failure| Failure { error: at(failure.error), ..failure })?,
            false => None,
        };
        let request = || request(ask, &method, &url, is_home, given.as_ref());
        let answer = pool.ask(&home.route(&url), &request, guide).await.map_err(at)?;
        if is_home {
            home.answered(answer.is_inward);
        }
        let status = answer.head.status;
        if ask.takes(status) {
            return Ok(answer);
        }
        // Another host, to which we were sent, has no right to ask who we are.
        if status == StatusCode::UNAUTHORIZED && is_home {
            let verdict = auth
                .challenged(home, &wanted, &answer.head.headers, given.as_ref(), begun)
                .await
                .map_err(at)?;
            match verdict {
                Verdict::Again if challenges < MAX_CHALLENGES => challenges += 1,
                Verdict::Again => {
                    let denied = ("asks again and again who asks", "check how it is set up");
                    return Err(refusal(ask, &url, answer, given.as_ref(), Some(denied)).await);
                }
                Verdict::Denied(text, todo) => {
                    let denied = Some((&*text, &*todo));
                    return Err(refusal(ask, &url, answer, given.as_ref(), denied).await);
                }
            }
            // Read to its end, the connection is kept; how that goes is of no interest.
            let _ = answer.body.read(MAX_REFUSAL_BYTES).await;
            continue;
        }
        if status == StatusCode::METHOD_NOT_ALLOWED && method == Method::HEAD {
            method = Method::GET;
            continue;
        }
        if !ask.follows(status) {
            return Err(refusal(ask, &url, answer, given.as_ref(), None).await);
        }
        if redirects == pool.config().max_redirects {
            return Err(Failure::from(Error::precondition(format!(
                "{}: the registry redirects more than {redirects} times; it is set up wrong",
                ask.what
            ))));
        }
        redirects += 1;
        url = url.follow(answer.head.headers.get(header::LOCATION)).map_err(at)?;
        guide = Guide::host(answer.is_inward);
        // Who has left does not come back as who asked: the way back is another host's choice.
        is_home = is_home && url.is_same_origin(home.origin());
        let _ = answer.body.read(MAX_REFUSAL_BYTES).await;
    }
}

fn request(
    ask: &Ask<'_>,
    method: &Method,
    url: &Url,
    is_home: bool,
    given: Option<&Given>,
) -> Request<Sent> {
    let mut request = Request::new(ask.body.map_or_else(nothing, |body| body()));
    *request.method_mut() = method.clone();
    *request.uri_mut() = Uri::from(url.path.clone());
    let headers = request.headers_mut();
    // What the settings say to this host is said to no other.
    if is_home {
        headers.clone_from(ask.home.headers());
    }
    let host = HeaderValue::from_str(url.host.as_str()).expect("a host is a header value");
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    // Digests and ranges are those of the bytes as they are stored.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if !ask.accept.is_empty() {
        headers.insert(header::ACCEPT, HeaderValue::from_static(ask.accept));
    }
    let range = match (ask.offset, ask.end) {
        (Some(offset), Some(end)) => Some(format!("bytes={offset}-{}", end - 1)),
        (Some(offset @ 1..), None) => Some(format!("bytes={offset}-")),
        _ => None,
    };
    if let Some(range) = range {
        let range = HeaderValue::from_str(&range);
        headers.insert(header::RANGE, range.expect("digits are a header value"));
    }
    for (name, value) in &ask.headers {
        headers.insert(name, value.clone());
    }
    if let Some(given) = given {
        headers.insert(header::AUTHORIZATION, given.value.clone());
    }
    if ask.body.is_none() && !ask.is_safe() {
        // Some registries want to be told that nothing comes.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    request
}

/// Turns an answer that is none into an error. `denied`: what is already known of it, and what to do.
async fn refusal(
    ask: &Ask<'_>,
    url: &Url,
    answer: Answer,
    given: Option<&Given>,
    denied: Option<(&str, &str)>,
) -> Failure {
    let what = ask.what;
    let is_home = url.is_same_origin(ask.home.origin());
    let who = match (is_home, ask.home.is_mirror()) {
        (true, false) => "the registry".to_owned(),
        (true, true) => format!("its mirror {}", url.host),
        (false, _) => format!("{}, to which the registry redirects,", url.host),
    };
    let log_in = format!("check the name, or run `capstan login {}`", ask.home.login_name());
    let status = answer.head.status;
    let (class, text, todo) = match (status.as_u16(), denied) {
        (_, Some((text, todo))) => (Class::PermissionDenied, text, todo),
        (401, None) => {
            (Class::PermissionDenied, "wants credentials", "it gets none; check the registry")
        }
        (403, None) if is_home => (Class::PermissionDenied, "denies access", &*log_in),
        (403, None) => (Class::PermissionDenied, "denies access", "check the registry"),
        (404 | 410, None) => (Class::NotFound, "does not have it", "check the name"),
        (407, None) => (
            Class::PermissionDenied,
            "is behind a proxy that wants credentials",
            "put them into its URL",
        ),
        (416, None) => {
            (Class::Corrupt, "has fewer bytes of it than its manifest says", "push it again")
        }
        (400 | 413 | 415 | 422, None) if !ask.is_safe() => {
            (Class::FailedPrecondition, "does not take it", "see what it says")
        }
        (405, None) if !ask.is_safe() => {
            (Class::FailedPrecondition, "does not take it", "the registry may be read-only")
        }
        (429, None) => (Class::Unavailable, "gets too many requests", "try again later"),
        (408 | 500 | 502..=599, None) => (Class::Unavailable, "is in trouble", "try again later"),
        _ => (Class::FailedPrecondition, "does not do what a registry does", "check the host"),
    };
    let retry_after = retry_after(&answer.head.headers);
    let said = match said(&answer.head.headers, answer.body).await {
        Some(said) => format!(", {said:?}"),
        None => String::new(),
    };
    let text = format!("{what}: {who} {text} ({status}{said}); {todo}");
    // Some repeat what they were told.
    let text = match given {
        Some(given) => given.hide(text),
        None => text,
    };
    Failure { error: Error::new(class, text), retry_after }
}

/// The wait that is asked for, in seconds or until a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // One that is over asks for nothing.
    date.duration_since(SystemTime::now()).ok()
}

/// What a registry says about a refusal: the first error of its document, or a line of plain text.
pub(super) async fn said(headers: &HeaderMap, body: Body) -> Option<String> {
    #[derive(Deserialize)]
    struct Document {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        code: String,
        #[serde(default)]
        message: String,
    }
    let bytes = body.read(MAX_REFUSAL_BYTES).await.ok()??;
    let text = match serde_json::from_slice::<Document>(&bytes) {
        Ok(document) => {
            let first = document.errors.into_iter().next()?;
            format!("{}: {}", first.code, first.message)
        }
        Err(_) => {
            let media_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
            media_type.starts_with("text/plain").then_some(())?;
            std::str::from_utf8(&bytes).ok()?.lines().next()?.trim().to_owned()
        }
    };
    Some(text.chars().take(MAX_SAID_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_asked_for_in_two_ways() {
        let check = |text: &str, min: Option<u64>, max: u64| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            let got = retry_after(&headers);
            assert_eq!(got.is_some(), min.is_some(), "{text}");
            let (Some(got), Some(min)) = (got, min) else { return };
            assert!((min..=max).contains(&got.as_secs()), "{text}: {got:?}");
        };
        check("0", Some(0), 0);
        check("7", Some(7), 7);
        check("99999999999999999", Some(99_999_999_999_999_999), 99_999_999_999_999_999);
        let soon = SystemTime::now() + Duration::from_secs(100);
        check(&httpdate::fmt_http_date(soon), Some(90), 100);
        check("Wed, 21 Oct 2015 07:28:00 GMT", None, 0);
        check("soon", None, 0);
        check("-1", None, 0);
        check("", None, 0);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
