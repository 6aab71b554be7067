//! Connections: made, used for one exchange at a time, and kept for the next one.
//!
//! hyper splits a connection into a sender of requests and a driver that moves the bytes. Here
//! the driver has no task of its own: whoever waits for an answer or for a piece of a body drives
//! it meanwhile.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use capstan_sdk::{Error, Result};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::http::response::Parts;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::Config;
use super::connect::{Guide, Route, Way, Wire, connect, refuse_inward};
use super::endpoint::Endpoint;
use super::proxy::Proxy;
use super::tls::{Configs, explain};
use super::url::Url;

/// The most connections that wait for their next use, over all hosts.
const MAX_IDLE: usize = 16;

/// How long a connection waits for its next use. Short of what servers (60 s and more) and
/// address translators allow.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

/// The body of what we send.
pub(super) type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// No body.
pub(super) fn nothing() -> Sent {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is known.
pub(super) fn all(bytes: impl Into<Bytes>) -> Sent {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Counts what is taken of a body, so that one that goes out slowly is told from one that does not go out.
struct Counted {
    body: Sent,
    taken: Arc<AtomicU64>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Limits how many connections to each host are used at once, and how many ranges are in memory, over all that goes on.
#[derive(Debug)]
pub(super) struct Limits {
    per_host: usize,
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
    /// One permit for each range that may be in memory.
    pub(super) ranges: Semaphore,
}

impl Limits {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            per_host: config.max_connections_per_host.max(1),
            hosts: Mutex::default(),
            ranges: Semaphore::new(config.range_connections.max(1) * 2),
        }
    }

    async fn take(&self, url: &Url) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.retain(|_, semaphore| semaphore.strong_count() > 0);
            let key = format!("{}:{}", url.name().to_ascii_lowercase(), url.port());
            let known = hosts.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let semaphore = Arc::new(Semaphore::new(self.per_host));
                hosts.insert(key, Arc::downgrade(&semaphore));
                semaphore
            })
        };
        semaphore.acquire_owned().await.expect("it is never closed")
    }
}

/// Connections that wait for their next use.
#[derive(Debug)]
pub(super) struct Pool {
    config: Config,
    limits: Arc<Limits>,
    configs: Configs,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// An answer, its body still to come.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Parts,
    pub(super) body: Body,
    /// Whether who gave it is on this machine, or on its link.
    pub(super) is_inward: bool,
}

impl Pool {
    pub(super) fn new(config: Config, limits: Arc<Limits>) -> Self {
        Self { config, limits, configs: Configs::default(), idle: Mutex::default() }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Asks a host, once there are not too many others who do.
    ///
    /// A kept connection that turns out to be dead costs nothing but the next try where what is asked changes
    /// nothing; anything else is not sent twice.
    ///
    /// # Errors
    /// As [`connect`]; `Unavailable` also: no answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        route: &Route,
        request: &(dyn Fn() -> Request<Sent> + Send + Sync),
        guide: Guide,
    ) -> Result<Answer> {
        let url = &route.url;
        let broke_off = |error: &hyper::Error| {
            explain(url, error).unwrap_or_else(|| {
                Error::unavailable(format!(
                    "registry {} broke off before it answered ({}); try again",
                    url.host,
                    causes(error)
                ))
            })
        };
        let mut permit = Some(self.limits.take(url).await);
        while let Some(mut connection) = self.take(route).await {
            if connection.is_inward {
                refuse_inward(url, guide)?;
            }
            let request = request();
            let changes_nothing = request.method().is_safe();
            match self.exchange(&mut connection, request).await? {
                Ok(response) => {
                    connection.permit = permit.take();
                    return Ok(self.answer(connection, response));
                }
                Err(_) if changes_nothing => {}
                Err(error) => return Err(broke_off(&error)),
            }
        }
        let way = connect(&self.config, &self.configs, route, guide).await?;
        let mut connection = Connection::open(route, way).await?;
        connection.permit = permit.take();
        match self.exchange(&mut connection, request()).await? {
            Ok(response) => Ok(self.answer(connection, response)),
            Err(error) => Err(broke_off(&error)),
        }
    }

    fn answer(self: &Arc<Self>, connection: Connection, response: Response<Incoming>) -> Answer {
        let is_inward = connection.is_inward;
        let (head, incoming) = response.into_parts();
        let pool = Arc::clone(self);
        let body = Body { incoming, connection: Some(connection), pool, from: None };
        Answer { head, body, is_inward }
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Sent>,
    ) -> Result<hyper::Result<Response<Incoming>>> {
        let host = connection.route.url.host.clone();
        let taken = Arc::new(AtomicU64::new(0));
        let request = request.map(|body| {
            let taken = Arc::clone(&taken);
            Counted { body, taken }.boxed_unsync()
        });
        let request = connection.addressed(request);
        let mut answer = pin!(connection.send(request));
        loop {
            let before = taken.load(Ordering::Relaxed);
            match timeout(self.config.stall_timeout, &mut answer).await {
                Ok(result) => return Ok(result),
                Err(_) if taken.load(Ordering::Relaxed) != before => {}
                Err(_) => {
                    return Err(Error::unavailable(format!(
                        "registry {host} did not answer within {:?}; try again",
                        self.config.stall_timeout
                    )));
                }
            }
        }
    }

    /// A connection by `route` that waits and is still good.
    async fn take(&self, route: &Route) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.retain(|idle| idle.since.elapsed() < MAX_IDLE_TIME);
                // The newest first: the others may become too old.
                let index = idle.iter().rposition(|idle| idle.connection.route == *route)?;
                idle.remove(index).connection
            };
            if connection.is_ready().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Connection) {
        connection.permit = None;
        if connection.driver.is_none() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { connection, since: Instant::now() });
    }
}

type Driver = http1::Connection<TokioIo<Box<dyn Wire>>, Sent>;

/// One connection, with nothing under way on it but what its owner has begun.
#[derive(Debug)]
struct Connection {
    route: Route,
    is_inward: bool,
    /// The proxy that passes requests on.
    forwarder: Option<Proxy>,
    sender: http1::SendRequest<Sent>,
    /// None when the connection is closed.
    driver: Option<Driver>,
    /// Held while it is used.
    permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    async fn open(route: &Route, way: Way) -> Result<Self> {
        let Way { wire, is_inward, forwarder } = way;
        let (sender, driver) = http1::handshake(TokioIo::new(wire)).await.map_err(|error| {
            Error::unavailable(format!(
                "registry {}: {}; try again",
                route.url.host,
                causes(&error)
            ))
        })?;
        let (route, driver) = (route.clone(), Some(driver));
        Ok(Self { route, is_inward, forwarder, sender, driver, permit: None })
    }

    /// A request as it goes over this connection: a proxy wants to know where to.
    fn addressed(&self, mut request: Request<Sent>) -> Request<Sent> {
        let Some(proxy) = &self.forwarder else { return request };
        let path = request.uri().path_and_query().cloned().expect("a request has a path");
        let mut uri = Uri::builder().scheme(self.route.url.scheme.name());
        uri = uri.authority(self.route.url.host.clone()).path_and_query(path);
        *request.uri_mut() = uri.build().expect("the parts are parsed");
        if let Some(authorization) = &proxy.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// Moves bytes both ways as far as they go. An error needs no care here: the end of the
    /// connection reaches whoever waits for an answer or a body.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Whether the next request may be sent.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(())
        })
        .await;
        self.driver.is_some() && self.sender.is_ready()
    }

    async fn send(&mut self, request: Request<Sent>) -> hyper::Result<Response<Incoming>> {
        let mut answer = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }
}

/// The body of an answer. Read to its end, it gives its connection back; dropped before, it
/// closes it.
#[derive(Debug)]
pub(super) struct Body {
    incoming: Incoming,
    connection: Option<Connection>,
    pool: Arc<Pool>,
    /// Who is not to be asked first any more, should it break off.
    from: Option<Endpoint>,
}

impl Body {
    /// How long it is, where the registry says so ahead.
    pub(super) fn size(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// The body as one that comes from an endpoint, which is not asked first any more if it breaks off.
    pub(super) fn from(self, endpoint: &Endpoint) -> Self {
        Self { from: Some(endpoint.clone()), ..self }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// `Unavailable`: the registry broke off, or is silent for too long. What came before is good.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.next().await;
        if let (Err(_), Some(from)) = (&chunk, &self.from) {
            from.failed();
        }
        chunk
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame =
                timeout(self.pool.config.stall_timeout, poll_fn(|cx| self.poll_frame(cx))).await;
            match frame {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(None) => {
                    if let Some(connection) = self.connection.take() {
                        self.pool.keep(connection);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    return Err(Error::unavailable(format!(
                        "the registry broke off ({}); try again",
                        causes(&error)
                    )));
                }
                Err(_) => {
                    return Err(Error::unavailable(format!(
                        "the registry sent nothing for {:?}; try again",
                        self.pool.config.stall_timeout
                    )));
                }
            }
        }
    }

    /// All of it; `None` if that is more than `limit` bytes. No more than these and one chunk
    /// (less than 1 MiB) are then read.
    ///
    /// # Errors
    /// As [`Body::chunk`].
    pub(super) async fn read(mut self, limit: u64) -> Result<Option<Bytes>> {
        if self.size().is_some_and(|size| size > limit) {
            return Ok(None);
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Ok(None);
            }
        }
        Ok(Some(bytes.freeze()))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // The first poll asks for bytes, the drive brings some, the second poll takes them.
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

/// An error with its causes, which hyper's text leaves out.
fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
