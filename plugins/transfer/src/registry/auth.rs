//! Who asks: challenges are answered, tokens fetched, kept and renewed.
//!
//! Nothing here is said to anybody but the registry's own host, and to the token server that this one
//! names: by https, or by http if the registry is plain http itself; and never to an address of this
//! machine if the registry is elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capstan_sdk::contract::access::{Credentials, Login, Secret};
use capstan_sdk::{Class, Error, Result};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio::time::Instant;
use tracing::debug;

use super::challenge::{Challenge, challenges};
use super::credentials::{ask_client, of_file};
use super::endpoint::Endpoint;
use super::exchange::{USER_AGENT, retry_after, said};
use super::pool::{Answer, Pool, Sent, all, nothing};
use super::proxy::basic;
use super::retry::Failure;
use super::url::{Scheme, Url, encode};

/// How we name ourselves to token servers.
const CLIENT_ID: &str = "capstan";

/// The largest answer of a token server, in bytes. Tokens with many rights have some 10 KiB.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// The shortest secret that is looked for in what others say.
const MIN_SECRET_BYTES: usize = 3;

/// How long a token is good if its server does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// The most of a token's life, and the longest, that is left when it is renewed.
const MARGIN: (u32, Duration) = (10, Duration::from_secs(10));

/// What is known of who asks, for as long as one thing is done.
#[derive(Debug)]
pub(super) struct Auth {
    client: Option<Credentials>,
    file: PathBuf,
    /// What the client says, by host: it is asked about each once.
    told: Mutex<HashMap<String, Known>>,
    /// What the file says, by host and repository.
    filed: Mutex<HashMap<(String, String), Known>>,
    /// What worked, by host and by what was wanted.
    ways: Mutex<HashMap<(String, String), Way>>,
    tokens: Mutex<HashMap<Realm, Arc<AsyncMutex<Option<Token>>>>>,
    /// What token servers gave to be told in place of a password, by realm without its scope.
    identities: Mutex<HashMap<Realm, Secret>>,
    /// Whether they are asked for such a token.
    wants_identity: AtomicBool,
}

/// A login, if there is one, once it was asked for.
type Known = Arc<OnceCell<Option<Login>>>;

/// How a host is told who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Basic,
    Bearer(Realm),
}

/// Where tokens come from, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Realm {
    url: String,
    service: String,
    scope: String,
    /// Whose credentials it wants.
    host: String,
    /// For which repository: there may be a login of its own for it.
    repository: String,
}

impl Realm {
    /// The same for any scope.
    fn without_scope(&self) -> Self {
        Self { scope: String::new(), ..self.clone() }
    }
}

#[derive(Clone, Debug)]
struct Token {
    value: HeaderValue,
    fetched: Instant,
    until: Instant,
}

/// What one request said.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// The header.
    pub(super) value: HeaderValue,
    way: Way,
    /// Of a token.
    fetched: Option<Instant>,
    /// What the header says in other words.
    secret: Secret,
}

impl Given {
    /// A text of somebody else, without what was said.
    pub(super) fn hide(&self, text: String) -> String {
        let told = self.value.to_str().ok().and_then(|told| told.split_once(' '));
        let secrets = [told.map_or("", |(_, told)| told), self.secret.reveal()];
        // What is shorter stands in other words by chance, and is no secret.
        let secrets = secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET_BYTES);
        secrets.fold(text, |text, secret| text.replace(secret, "***"))
    }
}

/// What becomes of a request that was refused with 401.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is asked again, with what is known now.
    Again,
    /// It is final. What to say, and what to do.
    Denied(String, String),
}

impl Auth {
    pub(super) fn new(client: Option<Credentials>, file: PathBuf) -> Self {
        Self {
            client,
            file,
            told: Mutex::default(),
            filed: Mutex::default(),
            ways: Mutex::default(),
            tokens: Mutex::default(),
            identities: Mutex::default(),
            wants_identity: AtomicBool::new(false),
        }
    }

    /// From now on token servers are asked for an identity token too.
    pub(super) fn want_identity(&self) {
        self.wants_identity.store(true, Ordering::Relaxed);
    }

    /// The identity token that one gave; it is told in place of the password from then on.
    pub(super) fn identity(&self) -> Option<Secret> {
        let identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        identities.values().next().cloned()
    }

    /// Whether it is for those who are asked by this channel.
    pub(super) fn is_for(&self, client: Option<&Credentials>) -> bool {
        match (&self.client, client) {
            (Some(own), Some(other)) => own.same_channel(other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether anybody wanted to know.
    pub(super) fn was_asked(&self) -> bool {
        !self.told.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What a request that wants `wanted` says to its host; `None`: nothing yet.
    ///
    /// # Errors
    /// Those of the token server, and of the credentials.
    pub(super) async fn authorize(
        &self,
        pool: &Arc<Pool>,
        endpoint: &Endpoint,
        wanted: &str,
    ) -> Result<Option<Given>, Failure> {
        let key = (endpoint.origin().to_string(), wanted.to_owned());
        let way = self.ways.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        match way {
            None => Ok(None),
            Some(Way::Basic) => {
                let login = self.login(endpoint, repository_of(wanted)).await?;
                Ok(login.map(|login| Given {
                    value: basic(&login.user, login.secret.reveal()),
                    way: Way::Basic,
                    fetched: None,
                    secret: login.secret,
                }))
            }
            Some(Way::Bearer(realm)) => {
                let token = self.token(pool, endpoint, &realm).await?;
                let way = Way::Bearer(realm);
                let (value, fetched) = (token.value, Some(token.fetched));
                Ok(Some(Given { value, way, fetched, secret: Secret::default() }))
            }
        }
    }

    /// Learns from a challenge. `since` is when it was first asked for what is refused now.
    ///
    /// # Errors
    /// `FailedPrecondition`: the challenge makes no sense. `PermissionDenied`: it is one that must not
    /// be answered. And those of the credentials.
    pub(super) async fn challenged(
        &self,
        endpoint: &Endpoint,
        wanted: &str,
        headers: &HeaderMap,
        given: Option<&Given>,
        since: Instant,
    ) -> Result<Verdict> {
        let challenges = challenges(headers);
        let host = endpoint.login_name();
        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let log_in = format!("run `capstan login {host}`");
        let way = if let Some(bearer) = find("bearer") {
            Way::Bearer(realm(endpoint, wanted, bearer)?)
        } else if find("basic").is_some() {
            Way::Basic
        } else {
            let schemes: Vec<_> = challenges.iter().map(|found| found.scheme.as_str()).collect();
            return Ok(Verdict::Denied(
                match schemes.is_empty() {
                    true => "wants credentials, and does not say how".to_owned(),
                    false => format!("wants credentials by {schemes:?} only"),
                },
                "check how it is set up".to_owned(),
            ));
        };
        let login = self.login(endpoint, repository_of(wanted)).await?;
        // The same again makes sense only with a token that is newer.
        if let Some(given) = given.filter(|given| given.way == way) {
            if given.fetched.is_none_or(|fetched| fetched >= since) {
                let error = find("bearer").map_or("", |bearer| bearer.parameter("error"));
                let detail =
                    find("bearer").map_or("", |bearer| bearer.parameter("error_description"));
                let more = [error, detail].map(shown).into_iter().filter(|text| !text.is_empty());
                let more = more.collect::<Vec<_>>().join(": ");
                let more = if more.is_empty() { more } else { format!(", by its word {more:?},") };
                return Ok(match login {
                    Some(login) if given.way == Way::Basic => Verdict::Denied(
                        format!("does not accept the credentials of {}", who(&login)),
                        log_in,
                    ),
                    None => Verdict::Denied(
                        format!("wants credentials{more} or does not have it"),
                        format!("{log_in}, and check the name"),
                    ),
                    Some(login) => Verdict::Denied(
                        format!("does not let {} do that{more}", who(&login)),
                        format!("check the name, and {log_in}"),
                    ),
                });
            }
            if let Way::Bearer(realm) = &way {
                self.forget(realm, given).await;
            }
        }
        if way == Way::Basic {
            match &login {
                None => return Ok(Verdict::Denied("wants credentials".to_owned(), log_in)),
                Some(login) if login.user.is_empty() => {
                    return Ok(Verdict::Denied(
                        "takes a user and a password only, and there is but a token".to_owned(),
                        log_in,
                    ));
                }
                Some(_) => {}
            }
        }
        let key = (endpoint.origin().to_string(), wanted.to_owned());
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).insert(key, way);
        Ok(Verdict::Again)
    }

    /// What the client says of the host, else what the daemon's file says of the repository.
    async fn login(&self, endpoint: &Endpoint, repository: &str) -> Result<Option<Login>> {
        let host = endpoint.login_name();
        let told = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(told.entry(host.to_owned()).or_default())
        };
        if let Some(login) = told.get_or_try_init(|| ask_client(self.client.as_ref(), host)).await?
        {
            return Ok(Some(login.clone()));
        }
        let filed = {
            let mut filed = self.filed.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(filed.entry((host.to_owned(), repository.to_owned())).or_default())
        };
        let known = async || of_file(&self.file, host, repository);
        filed.get_or_try_init(known).await.cloned()
    }

    /// A token that is good for a while. Those who want the same one wait for one fetch.
    async fn token(
        &self,
        pool: &Arc<Pool>,
        endpoint: &Endpoint,
        realm: &Realm,
    ) -> Result<Token, Failure> {
        let cell = self.cell(realm);
        let mut kept = cell.lock().await;
        if let Some(token) = kept.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.clone());
        }
        let login = self.login(endpoint, &realm.repository).await?;
        let (token, identity) = self.fetch(pool, endpoint, realm, login).await?;
        if let Some(identity) = identity {
            let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
            identities.insert(realm.without_scope(), identity);
        }
        *kept = Some(token.clone());
        Ok(token)
    }

    /// By the identity token that the server gave, as long as that is good, else as the login says.
    async fn fetch(
        &self,
        pool: &Arc<Pool>,
        endpoint: &Endpoint,
        realm: &Realm,
        login: Option<Login>,
    ) -> Result<(Token, Option<Secret>), Failure> {
        let is_offline = self.wants_identity.load(Ordering::Relaxed);
        let key = realm.without_scope();
        let identities = || self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = identities().get(&key).cloned();
        if let Some(identity_token) = identity {
            let by_identity = Login { identity_token, ..Login::default() };
            match fetch(pool, endpoint, realm, Some(&by_identity), is_offline).await {
                Err(failure) if failure.error.class() != Class::Unavailable => {
                    debug!(host = realm.host, "an identity token is not taken any more");
                    identities().remove(&key);
                }
                outcome => return outcome,
            }
        }
        fetch(pool, endpoint, realm, login.as_ref(), is_offline).await
    }

    /// Drops a token that is refused, unless there is a newer one.
    async fn forget(&self, realm: &Realm, given: &Given) {
        let cell = self.cell(realm);
        let mut kept = cell.lock().await;
        if kept.as_ref().is_some_and(|token| Some(token.fetched) == given.fetched) {
            *kept = None;
        }
    }

    fn cell(&self, realm: &Realm) -> Arc<AsyncMutex<Option<Token>>> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tokens.entry(realm.clone()).or_default())
    }
}

/// The user of a login, which is no secret.
fn who(login: &Login) -> String {
    match login.user.is_empty() {
        true => "this token".to_owned(),
        false => format!("user {:?}", login.user),
    }
}

/// What a server says, short.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// What a server says, without what we said to it.
fn hidden(said: &str, login: Option<&Login>) -> String {
    let Some(login) = login else { return said.to_owned() };
    let told = basic(&login.user, login.secret.reveal());
    let told = told.to_str().ok().and_then(|told| told.strip_prefix("Basic "));
    let secrets = [login.secret.reveal(), login.identity_token.reveal(), told.unwrap_or_default()];
    let secrets = secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET_BYTES);
    secrets.fold(said.to_owned(), |said, secret| said.replace(secret, "***"))
}

/// What a bearer challenge asks us to fetch, where that may be answered.
fn realm(endpoint: &Endpoint, wanted: &str, bearer: &Challenge) -> Result<Realm> {
    let host = &endpoint.origin().host;
    let url = bearer.parameter("realm");
    let parsed = Url::parse(url).ok_or_else(|| {
        Error::precondition(format!(
            "registry {host}: it names no URL to get a token from; check how it is set up"
        ))
    })?;
    if parsed.scheme == Scheme::Http && endpoint.origin().scheme == Scheme::Https {
        return Err(Error::denied(format!(
            "registry {host}: it wants credentials to go to {parsed} in the open; refused"
        )));
    }
    Ok(Realm {
        url: url.to_owned(),
        service: bearer.parameter("service").to_owned(),
        scope: merged(bearer.parameter("scope"), wanted),
        host: endpoint.login_name().to_owned(),
        repository: repository_of(wanted).to_owned(),
    })
}

/// The repository that a request is about, by the rights that it takes; empty: none.
fn repository_of(wanted: &str) -> &str {
    let first = wanted.split(' ').next().and_then(|first| first.strip_prefix("repository:"));
    first.and_then(|first| first.rsplit_once(':')).map_or("", |(repository, _)| repository)
}

/// The scope that a registry asks for, with what is wanted beyond: more to be done there, and other
/// repositories. If it says nothing, what is wanted, of which the first is the repository itself.
fn merged(asked: &str, wanted: &str) -> String {
    let split = |scope| str::rsplit_once(scope, ':').unwrap_or((scope, ""));
    let asked: Vec<_> = asked.split_whitespace().map(split).collect();
    let mut wanted = wanted.split_whitespace().map(split);
    // A registry behind another name knows itself what the repository is called there.
    let own = wanted
        .next()
        .filter(|(own, _)| asked.is_empty() || asked.iter().any(|(resource, _)| resource == own));
    let mut scopes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (resource, actions) in asked.iter().copied().chain(own).chain(wanted) {
        let actions = actions.split(',').filter(|action| !action.is_empty());
        scopes.entry(resource).or_default().extend(actions);
    }
    let one = |(resource, actions): (&str, BTreeSet<&str>)| match actions.is_empty() {
        true => resource.to_owned(),
        false => format!("{resource}:{}", actions.into_iter().collect::<Vec<_>>().join(",")),
    };
    scopes.into_iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Gets a token: for a login by a form (OAuth 2), and where that is not known by a query with the
/// login as basic; without one by a query. Also answers the identity token that comes along; `is_offline`: it is asked
/// for, as docker's token servers want it.
async fn fetch(
    pool: &Arc<Pool>,
    endpoint: &Endpoint,
    realm: &Realm,
    login: Option<&Login>,
    is_offline: bool,
) -> Result<(Token, Option<Secret>), Failure> {
    let Some(login) = login else {
        let answer = ask(pool, endpoint, realm, &query(realm, None, false), None).await?;
        return read(endpoint, realm, None, answer).await;
    };
    let form = match login.identity_token.is_empty() {
        false => [
            ("grant_type", "refresh_token"),
            ("refresh_token", login.identity_token.reveal()),
            ("", ""),
        ],
        true => [
            ("grant_type", "password"),
            ("username", &login.user),
            ("password", login.secret.reveal()),
        ],
    };
    let offline = if is_offline { "offline" } else { "" };
    let common = [
        ("service", &*realm.service),
        ("scope", &*realm.scope),
        ("client_id", CLIENT_ID),
        ("access_type", offline),
    ];
    let form = Secret::new(encoded(common.into_iter().chain(form)));
    let answer = ask(pool, endpoint, realm, "", Some((&form, None))).await?;
    let status = answer.head.status;
    // Some do not know forms, and say so in many ways.
    let is_unknown = status.is_client_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && status != StatusCode::REQUEST_TIMEOUT;
    if is_unknown && !login.user.is_empty() && !login.secret.is_empty() {
        debug!(%status, host = realm.host, "the token server takes no form");
        // Read to its end, the connection is kept; how that goes is of no interest.
        let _ = answer.body.read(MAX_TOKEN_BYTES).await;
        let told = basic(&login.user, login.secret.reveal());
        let query = query(realm, Some(&login.user), is_offline);
        let answer =
            ask(pool, endpoint, realm, &query, Some((&Secret::default(), Some(told)))).await?;
        return read(endpoint, realm, Some(login), answer).await;
    }
    read(endpoint, realm, Some(login), answer).await
}

fn query(realm: &Realm, account: Option<&str>, is_offline: bool) -> String {
    let scopes = realm.scope.split(' ').map(|scope| ("scope", scope));
    let service = ("service", &*realm.service);
    let account = ("account", account.unwrap_or_default());
    let offline = ("offline_token", if is_offline { "true" } else { "" });
    let client = ("client_id", if is_offline { CLIENT_ID } else { "" });
    encoded([service].into_iter().chain(scopes).chain([account, offline, client]))
}

/// `name=value&name=value`, without what is empty.
fn encoded<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = pairs.filter(|(_, value)| !value.is_empty());
    let pairs = pairs.map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Asks a token server. `told`: a form, or a header.
async fn ask(
    pool: &Arc<Pool>,
    endpoint: &Endpoint,
    realm: &Realm,
    query: &str,
    told: Option<(&Secret, Option<HeaderValue>)>,
) -> Result<Answer, Failure> {
    let url = Url::parse(&realm.url).and_then(|url| url.with_query(query));
    let url = url.ok_or_else(|| Error::precondition("a token server has no URL"))?;
    let request = || -> Request<Sent> {
        let mut request = Request::new(nothing());
        *request.uri_mut() = Uri::from(url.path.clone());
        let host = HeaderValue::from_str(url.host.as_str()).expect("a host is a header value");
        request.headers_mut().insert(header::HOST, host);
        let agent = HeaderValue::from_static(USER_AGENT);
        request.headers_mut().insert(header::USER_AGENT, agent);
        match &told {
            None => {}
            Some((_, Some(value))) => {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            Some((form, None)) => {
                *request.method_mut() = Method::POST;
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                request.headers_mut().insert(header::CONTENT_TYPE, kind);
                *request.body_mut() = all(form.reveal().to_owned());
            }
        }
        request
    };
    let answer = pool.ask(&endpoint.route(&url), &request, endpoint.guide(&url)).await;
    Ok(answer.map_err(|error| error.at(format_args!("token server {url}")))?)
}

async fn read(
    endpoint: &Endpoint,
    realm: &Realm,
    login: Option<&Login>,
    answer: Answer,
) -> Result<(Token, Option<Secret>), Failure> {
    #[derive(Deserialize)]
    struct Document {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
        refresh_token: Option<String>,
    }
    let server = Url::parse(&realm.url).map(|url| url.to_string()).unwrap_or_default();
    let host = endpoint.login_name();
    let Answer { head, body, .. } = answer;
    let status = head.status;
    if status != StatusCode::OK {
        let (class, text, todo) = match (status.as_u16(), login) {
            (401 | 403, Some(login)) => (
                Class::PermissionDenied,
                format!("does not accept the credentials of {}", who(login)),
                format!("run `capstan login {host}`"),
            ),
            (400, Some(login)) if login.user.is_empty() => (
                Class::PermissionDenied,
                "does not accept this token".to_owned(),
                format!("run `capstan login {host}`"),
            ),
            (401 | 403, None) => (
                Class::PermissionDenied,
                "wants credentials".to_owned(),
                format!("run `capstan login {host}`"),
            ),
            (408 | 429 | 500 | 502..=599, _) => {
                (Class::Unavailable, "is in trouble".to_owned(), "try again later".to_owned())
            }
            _ => (
                Class::FailedPrecondition,
                "does not give a token".to_owned(),
                "check how the registry is set up".to_owned(),
            ),
        };
        let retry_after = retry_after(&head.headers);
        let said = said(&head.headers, body).await;
        let said = said.map(|said| format!(", {:?}", hidden(&said, login))).unwrap_or_default();
        let error =
            Error::new(class, format!("token server {server} {text} ({status}{said}); {todo}"));
        return Err(Failure { error, retry_after });
    }
    let bad = |why: &str| {
        Failure::from(Error::precondition(format!(
            "token server {server} {why}; check how the registry is set up"
        )))
    };
    let fetched = Instant::now();
    let bytes = body.read(MAX_TOKEN_BYTES).await.map_err(|error| error.at("token server"))?;
    let bytes = bytes.ok_or_else(|| bad("sends more than a token"))?;
    let document: Document =
        serde_json::from_slice(&bytes).map_err(|_| bad("sends something other than a token"))?;
    let token = [document.access_token, document.token].into_iter().flatten();
    let token = token.into_iter().find(|token| !token.is_empty());
    let token = token.ok_or_else(|| bad("sends no token"))?;
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| bad("sends a token that fits into no header"))?;
    value.set_sensitive(true);
    let life = document.expires_in.filter(|life| *life > 0).map(Duration::from_secs);
    // A year is as good as for ever, and no clock overflows.
    let life = life.unwrap_or(DEFAULT_LIFE).min(Duration::from_secs(365 * 24 * 3600));
    let until = fetched + life - (life / MARGIN.0).min(MARGIN.1);
    // Whoever comes without a login has no identity.
    let identity = document.refresh_token.filter(|token| !token.is_empty() && login.is_some());
    Ok((Token { value, fetched, until }, identity.map(Secret::new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_merged() {
        let check = |asked: &str, wanted: &str, want: &str| {
            assert_eq!(merged(asked, wanted), want, "{asked} / {wanted}");
        };
        check("", "repository:a/b:pull", "repository:a/b:pull");
        check("repository:a/b:pull", "repository:a/b:pull", "repository:a/b:pull");
        check("repository:a/b:pull", "repository:a/b:pull,push", "repository:a/b:pull,push");
        check("repository:a/b:push,pull", "repository:a/b:pull", "repository:a/b:pull,push");
        check("repository:proxy/a/b:pull", "repository:a/b:pull", "repository:proxy/a/b:pull");
        check("registry:catalog:*", "repository:a/b:pull", "registry:catalog:*");
        check("aws", "repository:a/b:pull", "aws");
        check(
            "repository:a/b:pull,push",
            "repository:a/b:pull,push repository:c/d:pull",
            "repository:a/b:pull,push repository:c/d:pull",
        );
        check(
            "repository:a/b:pull repository:x.example:5000/c:pull",
            "repository:a/b:pull,push",
            "repository:a/b:pull,push repository:x.example:5000/c:pull",
        );
    }

    #[test]
    fn what_is_wanted_names_the_repository() {
        let check = |wanted: &str, want: &str| assert_eq!(repository_of(wanted), want, "{wanted}");
        check("repository:a/b:pull", "a/b");
        check("repository:a/b:pull,push repository:c/d:pull", "a/b");
        check("", "");
    }

    #[test]
    fn queries_have_what_there_is() {
        let realm = Realm {
            url: String::new(),
            service: "registry of us".into(),
            scope: "repository:a/b:pull repository:c:pull".into(),
            host: String::new(),
            repository: String::new(),
        };
        assert_eq!(
            query(&realm, Some("me&you"), false),
            "service=registry%20of%20us&scope=repository%3Aa%2Fb%3Apull\
             &scope=repository%3Ac%3Apull&account=me%26you"
        );
        let realm = Realm { service: String::new(), scope: String::new(), ..realm };
        assert_eq!(query(&realm, None, false), "");
        assert_eq!(
            query(&realm, Some("me"), true),
            "account=me&offline_token=true&client_id=capstan"
        );
    }
}
