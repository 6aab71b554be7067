//! A host as one repository is asked of it: the registry itself, or a mirror of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capstan_schema::reference_host;
use hyper::header::HeaderMap;
use hyper::http::uri::PathAndQuery;
use tokio::time::Instant;

use super::auth::Auth;
use super::connect::{Guide, Route};
use super::hosts::{Capability, Host};
use super::tls::Tls;
use super::url::{Url, encode};

/// How long a host that failed is asked after the others.
const SHUNNED_TIME: Duration = Duration::from_secs(30);

/// A host to ask. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    inner: Arc<Inner>,
    /// Whether tokens are to be good for pushes, whatever is asked.
    is_pushed_to: bool,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    tls: Arc<Tls>,
    /// For other hosts, which do not get to know who we are.
    anonymous_tls: Arc<Tls>,
    /// The host of references, which a mirror is told.
    namespace: Option<String>,
    /// Whether its word is final: it comes last in the settings.
    is_server: bool,
    auth: Arc<Auth>,
    /// Whether it is on this machine, or on its link, by its last answer.
    is_inward: AtomicBool,
    failed: Mutex<Option<Instant>>,
}

impl Endpoint {
    /// The host that stands for `of`, the one of references; `is_server`: its word is final.
    pub(super) fn new(host: Host, of: &str, is_server: bool, auth: Arc<Auth>) -> Self {
        let is_mirror = reference_host(host.url.host.as_str()) != of;
        let tls = Arc::new(host.tls.clone());
        let anonymous_tls = Arc::new(Tls { identities: Vec::new(), ..host.tls.clone() });
        let inner = Inner {
            host,
            tls,
            anonymous_tls,
            namespace: is_mirror.then(|| of.to_owned()),
            is_server,
            auth,
            is_inward: AtomicBool::new(false),
            failed: Mutex::default(),
        };
        Self { inner: Arc::new(inner), is_pushed_to: false }
    }

    /// The same one, for a push.
    pub(super) fn pushed_to(&self) -> Self {
        Self { is_pushed_to: true, ..self.clone() }
    }

    pub(super) fn is_pushed_to(&self) -> bool {
        self.is_pushed_to
    }

    pub(super) fn can(&self, capability: Capability) -> bool {
        self.inner.host.capabilities.contains(&capability)
    }

    /// The host itself.
    pub(super) fn origin(&self) -> &Url {
        &self.inner.host.url
    }

    /// The name by which credentials are known.
    pub(super) fn login_name(&self) -> &str {
        reference_host(self.origin().host.as_str())
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.inner.namespace.is_some()
    }

    pub(super) fn is_server(&self) -> bool {
        self.inner.is_server
    }

    pub(super) fn auth(&self) -> &Arc<Auth> {
        &self.inner.auth
    }

    /// What is said to it with everything.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.inner.host.headers
    }

    /// Where a checked path that begins with `/v2/` is here.
    pub(super) fn url(&self, path: &str) -> Url {
        let prefix = self.origin().path.as_str().trim_end_matches('/');
        let rest = path.strip_prefix("/v2").unwrap_or(path);
        let path: PathAndQuery = format!("{prefix}{rest}").parse().expect("a checked path");
        let url = Url { path, ..self.origin().clone() };
        match &self.inner.namespace {
            Some(namespace) => {
                let query = format!("ns={}", encode(namespace));
                url.with_query(&query).expect("it is encoded")
            }
            None => url,
        }
    }

    /// How a place is reached on the way from here.
    pub(super) fn route(&self, url: &Url) -> Route {
        let is_here = url.is_same_origin(self.origin());
        let tls = if is_here { &self.inner.tls } else { &self.inner.anonymous_tls };
        let connect_timeout = self.inner.host.connect_timeout.filter(|_| is_here);
        Route { url: url.clone(), tls: Arc::clone(tls), connect_timeout }
    }

    /// On whose word a place is gone to that this host names.
    pub(super) fn guide(&self, url: &Url) -> Guide {
        match url.is_same_origin(self.origin()) {
            true => Guide::User,
            false => Guide::host(self.inner.is_inward.load(Ordering::Relaxed)),
        }
    }

    /// It has answered.
    pub(super) fn answered(&self, is_inward: bool) {
        self.inner.is_inward.store(is_inward, Ordering::Relaxed);
    }

    /// It has broken off, or does not answer.
    pub(super) fn failed(&self) {
        *self.inner.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it is asked after the others for now.
    pub(super) fn is_shunned(&self) -> bool {
        let failed = *self.inner.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|failed| failed.elapsed() < SHUNNED_TIME)
    }
}
