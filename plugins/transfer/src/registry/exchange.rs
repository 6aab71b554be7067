//! One request and its final answer: redirects are followed, refusals become errors.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use capstan_sdk::{Class, Error, Result};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;

use super::pool::{Answer, Body, Pool, Sent, nothing};
use super::retry::Failure;

/// How we name ourselves.
const USER_AGENT: &str = concat!("capstan/", env!("CARGO_PKG_VERSION"));

/// The most bytes of a refusal that are looked at for what the registry says.
const MAX_REFUSAL_BYTES: u64 = 16 << 10;

/// The most characters of what the registry says that an error repeats.
const MAX_SAID_CHARS: usize = 200;

/// What a request wants to do, which is what credentials are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Read from the repository.
    Pull,
    /// Write to it.
    Push,
    /// Write to it what stands in this other repository of the same registry.
    Mount(String),
}

/// What a registry is asked.
pub(super) struct Ask<'a> {
    /// The words for it in errors.
    pub(super) what: &'a str,
    /// The registry's own host.
    pub(super) home: &'a Authority,
    /// What for.
    #[allow(dead_code, reason = "credentials are not given yet")]
    pub(super) scope: Scope,
    /// GET, unless it is said otherwise.
    pub(super) method: Method,
    /// Where it goes.
    pub(super) url: Url,
    /// Who named that place, if it was not our own choice.
    pub(super) led_by: Option<IpAddr>,
    /// Which media types will do; empty = all.
    pub(super) accept: &'static str,
    /// From which byte on; `None` for what has no parts.
    pub(super) offset: Option<u64>,
    /// More headers, such as the media type of what is sent.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Makes the body of each attempt.
    pub(super) body: Option<&'a (dyn Fn() -> Sent + Send + Sync)>,
    /// The status of an answer that is one.
    pub(super) good: &'static [StatusCode],
}

/// A place at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: Authority,
    pub(super) path: PathAndQuery,
}

impl<'a> Ask<'a> {
    /// A request for what is at a checked path of the registry's own host.
    pub(super) fn get(what: &'a str, home: &'a Authority, path: &str) -> Self {
        let path = path.parse().expect("a checked path");
        Self {
            what,
            home,
            scope: Scope::Pull,
            method: Method::GET,
            url: Url { host: home.clone(), path },
            led_by: None,
            accept: "",
            offset: None,
            headers: Vec::new(),
            body: None,
            good: &[StatusCode::OK],
        }
    }

    fn takes(&self, status: StatusCode) -> bool {
        self.good.contains(&status)
            || (status == StatusCode::PARTIAL_CONTENT && self.offset.is_some())
    }

    /// Whether a redirect may be followed: a body is not sent elsewhere unless that is what the status asks for.
    fn follows(&self, status: StatusCode) -> bool {
        let is_plain = self.method == Method::GET || self.method == Method::HEAD;
        match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => is_plain,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => false,
        }
    }
}

/// Asks, and follows redirects: an answer with a status that will do, or also 206 if there is an offset.
///
/// # Errors
/// As `Repository::resolve`, and `FailedPrecondition` for all that a registry should not answer.
pub(super) async fn send(pool: &Arc<Pool>, ask: &Ask<'_>) -> Result<Answer, Failure> {
    let mut url = ask.url.clone();
    let mut redirected_by = ask.led_by;
    for _ in 0..=pool.config().max_redirects {
        let request = || request(ask, &url);
        let answer = pool
            .ask(&url.host, &request, redirected_by)
            .await
            .map_err(|error| error.at(ask.what))?;
        let status = answer.head.status;
        if ask.takes(status) {
            return Ok(answer);
        }
        if !ask.follows(status) {
            return Err(refusal(ask, &url, answer).await);
        }
        url = url
            .follow(answer.head.headers.get(header::LOCATION))
            .map_err(|error| error.at(ask.what))?;
        redirected_by = Some(answer.peer);
        // Read to its end, the connection is kept; how that goes is of no interest.
        let _ = answer.body.read(MAX_REFUSAL_BYTES).await;
    }
    Err(Failure::from(Error::precondition(format!(
        "{}: the registry redirects more than {} times; it is set up wrong",
        ask.what,
        pool.config().max_redirects
    ))))
}

fn request(ask: &Ask<'_>, url: &Url) -> Request<Sent> {
    let mut request = Request::new(ask.body.map_or_else(nothing, |body| body()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = Uri::from(url.path.clone());
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(url.host.as_str()).expect("a host is a header value");
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    // Digests and ranges are those of the bytes as they are stored.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if !ask.accept.is_empty() {
        headers.insert(header::ACCEPT, HeaderValue::from_static(ask.accept));
    }
    if let Some(offset) = ask.offset.filter(|offset| *offset > 0) {
        let range = HeaderValue::from_str(&format!("bytes={offset}-"));
        headers.insert(header::RANGE, range.expect("digits are a header value"));
    }
    for (name, value) in &ask.headers {
        headers.insert(name, value.clone());
    }
    if ask.body.is_none() && ask.method != Method::GET && ask.method != Method::HEAD {
        // Some registries want to be told that nothing comes.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    // Credentials, once there are any, go in here, and only if `url.host` is `ask.home`.
    request
}

impl Url {
    /// Where a redirect leads. What it says beyond the host (often a signature) is not repeated
    /// in errors.
    pub(super) fn follow(&self, location: Option<&HeaderValue>) -> Result<Self> {
        let bad = |why: &str| {
            Error::precondition(format!("{} redirects {why}; it is set up wrong", self.host))
        };
        let text = location.ok_or_else(|| bad("without saying where to"))?;
        let uri = text.to_str().ok().filter(|text| !text.starts_with("//"));
        let uri: Uri = uri
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| bad("to something that is no URL"))?;
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        match (uri.scheme_str(), uri.authority()) {
            (None, None) if path.as_str().starts_with('/') => {
                Ok(Self { host: self.host.clone(), path })
            }
            (Some("http"), Some(host)) if is_plain(host) => Ok(Self { host: host.clone(), path }),
            (Some("https"), Some(host)) => Err(Error::unimplemented(format!(
                "{} redirects to https://{}, and https is not built in yet; \
                 use a registry that serves its blobs itself",
                self.host,
                host.host()
            ))),
            _ => Err(bad("to something that is no http URL")),
        }
    }
}

/// Whether it is a host and perhaps a port; no user, no password, no port that is no number.
fn is_plain(host: &Authority) -> bool {
    match host.port() {
        Some(port) => format!("{}:{port}", host.host()) == host.as_str(),
        None => host.host() == host.as_str(),
    }
}

/// Turns an answer that is none into an error.
async fn refusal(ask: &Ask<'_>, url: &Url, answer: Answer) -> Failure {
    let what = ask.what;
    let who = match url.host == *ask.home {
        true => "the registry".to_owned(),
        false => format!("{}, to which the registry redirects,", url.host),
    };
    let status = answer.head.status;
    let (class, text, todo) = match status.as_u16() {
        401 => (Class::PermissionDenied, "wants credentials", "this build cannot give any yet"),
        403 => (Class::PermissionDenied, "denies access", "check the name"),
        404 | 410 => (Class::NotFound, "does not have it", "check the name"),
        416 => (Class::Corrupt, "has fewer bytes of it than its manifest says", "push it again"),
        429 => (Class::Unavailable, "gets too many requests", "try again later"),
        408 | 500..=599 => (Class::Unavailable, "is in trouble", "try again later"),
        _ => (Class::FailedPrecondition, "does not do what a registry does", "check the host"),
    };
    let retry_after = retry_after(&answer.head.headers);
    let said = match said(&answer.head.headers, answer.body).await {
        Some(said) => format!(", {said:?}"),
        None => String::new(),
    };
    let error = Error::new(class, format!("{what}: {who} {text} ({status}{said}); {todo}"));
    Failure { error, retry_after }
}

/// The wait that is asked for, if it is given in seconds (the other form is a date, which nobody
/// sends).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What a registry says about a refusal: the first error of its document, or a line of plain text.
async fn said(headers: &HeaderMap, body: Body) -> Option<String> {
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
    fn redirects() {
        let from = Url {
            host: Authority::from_static("registry.example:5000"),
            path: PathAndQuery::from_static("/v2/app/blobs/x"),
        };
        let check = |location: &str, want: Result<(&str, &str), Class>| {
            let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
            let got = from.follow(Some(&value));
            let got = match &got {
                Ok(url) => Ok((url.host.as_str(), url.path.as_str())),
                Err(error) => Err(error.class()),
            };
            assert_eq!(got, want, "{location}");
        };
        check("/there?a=b", Ok(("registry.example:5000", "/there?a=b")));
        check("/there#part", Ok(("registry.example:5000", "/there")));
        check("http://b.example/there?a=b", Ok(("b.example", "/there?a=b")));
        check("http://b.example", Ok(("b.example", "/")));
        check("http://[::1]:80/x", Ok(("[::1]:80", "/x")));
        check("HTTP://b.example/x", Ok(("b.example", "/x")));
        check("https://b.example/there", Err(Class::Unimplemented));
        check("http://user:secret@b.example/there", Err(Class::FailedPrecondition));
        check("http://b.example:99999/x", Err(Class::FailedPrecondition));
        check("http://b.example:/x", Err(Class::FailedPrecondition));
        check("//b.example/there", Err(Class::FailedPrecondition));
        check("there", Err(Class::FailedPrecondition));
        check("b.example:80", Err(Class::FailedPrecondition));
        check("*", Err(Class::FailedPrecondition));
        check("", Err(Class::FailedPrecondition));
        check("file:///etc/passwd", Err(Class::FailedPrecondition));
        check("unix:/run/x.sock", Err(Class::FailedPrecondition));
        check("ftp://b.example/x", Err(Class::FailedPrecondition));
        check("http:///x", Err(Class::FailedPrecondition));
        check("http://b.example/\u{e9}", Err(Class::FailedPrecondition));
        assert!(from.follow(None).is_err());
    }

    #[test]
    fn signatures_stay_out_of_errors() {
        let from = Url {
            host: Authority::from_static("registry.example"),
            path: PathAndQuery::from_static("/"),
        };
        for location in ["https://b.example/x?signature=SECRET", "ftp://user:SECRET@b.example/x"] {
            let error = from.follow(Some(&HeaderValue::from_static(location))).err().unwrap();
            assert!(!error.message().contains("SECRET"), "{error}");
        }
    }
}
