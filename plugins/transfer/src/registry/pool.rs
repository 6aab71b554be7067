//! Connections: made, used for one exchange at a time, and kept for the next one.
//!
//! hyper splits a connection into a sender of requests and a driver that moves the bytes. Here
//! the driver has no task of its own: whoever waits for an answer or for a piece of a body drives
//! it meanwhile.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use capstan_sdk::{Error, Result};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::http::response::Parts;
use hyper::http::uri::Authority;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::Config;

/// The most connections that wait for their next use, over all hosts.
const MAX_IDLE: usize = 8;

/// How long a connection waits for its next use. Short of what servers (60 s and more) and
/// address translators allow.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

/// The port of http.
const HTTP_PORT: u16 = 80;

/// The body of what we send.
pub(super) type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// No body.
pub(super) fn nothing() -> Sent {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
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

/// Connections that wait for their next use.
#[derive(Debug)]
pub(super) struct Pool {
    config: Config,
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
    /// Who gave it.
    pub(super) peer: IpAddr,
}

impl Pool {
    pub(super) fn new(config: Config) -> Self {
        Self { config, idle: Mutex::default() }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Asks a host. `redirected_by` is who sent us there, if somebody did.
    ///
    /// A kept connection that turns out to be dead costs nothing but the next try where what is asked changes
    /// nothing; anything else is not sent twice.
    ///
    /// # Errors
    /// `Unavailable`: no connection, or no answer. `PermissionDenied`: a redirect to an address
    /// that is none of the redirecting host's business.
    pub(super) async fn ask(
        self: &Arc<Self>,
        host: &Authority,
        request: &(dyn Fn() -> Request<Sent> + Send + Sync),
        redirected_by: Option<IpAddr>,
    ) -> Result<Answer> {
        let broke_off = |error: &hyper::Error| {
            Error::unavailable(format!(
                "registry {host} broke off before it answered ({}); try again",
                causes(error)
            ))
        };
        while let Some(mut connection) = self.take(host).await {
            check_reach(host, &[connection.peer], redirected_by)?;
            let request = request();
            let changes_nothing = request.method().is_safe();
            match self.exchange(&mut connection, request).await? {
                Ok(response) => return Ok(self.answer(connection, response)),
                Err(_) if changes_nothing => {}
                Err(error) => return Err(broke_off(&error)),
            }
        }
        let mut connection = self.connect(host, redirected_by).await?;
        match self.exchange(&mut connection, request()).await? {
            Ok(response) => Ok(self.answer(connection, response)),
            Err(error) => Err(broke_off(&error)),
        }
    }

    fn answer(self: &Arc<Self>, connection: Connection, response: Response<Incoming>) -> Answer {
        let peer = connection.peer.ip();
        let (head, incoming) = response.into_parts();
        let body = Body { incoming, connection: Some(connection), pool: Arc::clone(self) };
        Answer { head, body, peer }
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Sent>,
    ) -> Result<hyper::Result<Response<Incoming>>> {
        let host = connection.host.clone();
        let taken = Arc::new(AtomicU64::new(0));
        let request = request.map(|body| {
            let taken = Arc::clone(&taken);
            Counted { body, taken }.boxed_unsync()
        });
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

    /// A connection to `host` that waits and is still good.
    async fn take(&self, host: &Authority) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.retain(|idle| idle.since.elapsed() < MAX_IDLE_TIME);
                // The newest first: the others may become too old.
                let index = idle.iter().rposition(|idle| idle.connection.host == *host)?;
                idle.remove(index).connection
            };
            if connection.is_ready().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        if connection.driver.is_none() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { connection, since: Instant::now() });
    }

    async fn connect(&self, host: &Authority, redirected_by: Option<IpAddr>) -> Result<Connection> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let late = || {
            Error::unavailable(format!(
                "registry {host}: no connection within {:?}; check the host, and the way to it",
                self.config.connect_timeout
            ))
        };
        // A resolver wants an IPv6 address without its brackets.
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let port = host.port_u16().unwrap_or(HTTP_PORT);
        let addresses: Vec<SocketAddr> = match timeout_at(deadline, lookup_host((name, port))).await
        {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                return Err(Error::unavailable(format!(
                    "registry {host}: the name does not resolve ({error}); check how it is written"
                )));
            }
            Err(_) => return Err(late()),
        };
        check_reach(host, &addresses, redirected_by)?;

        let mut failure = late();
        for (index, address) in (0..).zip(&addresses) {
            // Each address gets its share of the time, so that one that is silent (IPv6 without a
            // way out) leaves some for the others.
            let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX) - index;
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            failure = match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Connection::open(host, *address, stream).await,
                Ok(Err(error)) => Error::unavailable(format!(
                    "registry {host}: {error}; is it running, and is the port right?"
                )),
                Err(_) => late(),
            };
        }
        Err(failure)
    }
}

/// Whether an address is reached only from this machine, or from the wire that it is on: what
/// listens there often trusts whoever can reach it.
fn is_inward(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

/// A host elsewhere must not send us to what only we can reach; one that is inward itself may.
fn check_reach(
    host: &Authority,
    addresses: &[SocketAddr],
    redirected_by: Option<IpAddr>,
) -> Result<()> {
    match redirected_by {
        Some(from) if !is_inward(from) && addresses.iter().any(|to| is_inward(to.ip())) => {
            Err(Error::denied(format!(
                "the registry at {from} redirects to {host}, an address of this machine or its \
                 link; refused"
            )))
        }
        _ => Ok(()),
    }
}

type Driver = http1::Connection<TokioIo<TcpStream>, Sent>;

/// One connection, with nothing under way on it but what its owner has begun.
#[derive(Debug)]
struct Connection {
    host: Authority,
    peer: SocketAddr,
    sender: http1::SendRequest<Sent>,
    /// None when the connection is closed.
    driver: Option<Driver>,
}

impl Connection {
    async fn open(host: &Authority, peer: SocketAddr, stream: TcpStream) -> Result<Self> {
        let failed = |error: &dyn StdError| {
            Error::unavailable(format!("registry {host}: {}; try again", causes(error)))
        };
        // A request is one small packet, which must not wait for company.
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        Ok(Self { host: host.clone(), peer, sender, driver: Some(driver) })
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
}

impl Body {
    /// How long it is, where the registry says so ahead.
    pub(super) fn size(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// `Unavailable`: the registry broke off, or is silent for too long. What came before is good.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn redirects_lead_inward_only_from_inward() {
        let host = Authority::from_static("elsewhere.example");
        let check = |from: &str, to: &str, is_allowed: bool| {
            let to = SocketAddr::new(to.parse().unwrap(), 80);
            let got = check_reach(&host, &[to], Some(from.parse().unwrap()));
            assert_eq!(got.is_ok(), is_allowed, "{from} -> {to}");
            check_reach(&host, &[to], None).unwrap();
        };
        check("192.0.2.1", "192.0.2.2", true);
        check("192.0.2.1", "10.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", true);
        check("127.0.0.1", "192.0.2.1", true);
        check("192.0.2.1", "127.0.0.1", false);
        check("192.0.2.1", "127.8.8.8", false);
        check("192.0.2.1", "0.0.0.0", false);
        check("192.0.2.1", "169.254.169.254", false);
        check("192.0.2.1", "::1", false);
        check("192.0.2.1", "::", false);
        check("192.0.2.1", "fe80::1", false);
        check("192.0.2.1", "::ffff:127.0.0.1", false);
        check("2001:db8::1", "2001:db8::2", true);
        check("2001:db8::1", "::1", false);
        let mixed = ["192.0.2.1:80".parse().unwrap(), "127.0.0.1:80".parse().unwrap()];
        let error = check_reach(&host, &mixed, Some("192.0.2.9".parse().unwrap())).unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied);
    }
}
