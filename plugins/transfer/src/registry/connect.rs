//! A way to a host: addresses, a proxy where there is one, TLS.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use capstan_sdk::{Class, Error, Result};
use hyper::header::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::Config;
use super::hosts::tls_of;
use super::proxy::{Proxy, is_localhost};
use super::tls::{Configs, Tls, explain};
use super::url::{Scheme, Url};

/// The most bytes with which a proxy answers that it has connected.
const MAX_TUNNEL_BYTES: usize = 16 << 10;

/// What bytes go over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Wire for T {}

/// Where a connection leads, and by which rules. Two that are equal may share it.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Its path does not matter.
    pub(super) url: Url,
    pub(super) tls: Arc<Tls>,
    /// `None`: that of the client.
    pub(super) connect_timeout: Option<Duration>,
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.url.is_same_origin(&other.url) && self.tls == other.tls
    }
}

/// On whose word we go somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guide {
    /// The user's, or that of the settings.
    User,
    /// That of a host on this machine, or on its link.
    Inward,
    /// That of a host elsewhere.
    Outward,
}

impl Guide {
    /// That of a host, of which we know whether it is inward.
    pub(super) fn host(is_inward: bool) -> Self {
        if is_inward { Self::Inward } else { Self::Outward }
    }
}

/// A way that is open.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) wire: Box<dyn Wire>,
    /// Whether it leads to this machine, or to its link.
    pub(super) is_inward: bool,
    /// The proxy that is to pass requests on, rather than bytes.
    pub(super) forwarder: Option<Proxy>,
}

/// Opens a way.
///
/// # Errors
/// `Unavailable`: nobody answers in time. `PermissionDenied`: the guide has no business to send us
/// there; or the host, or the proxy, does not let us in. `FailedPrecondition`: TLS and its
/// certificates, or the settings, are not as they should be.
pub(super) async fn connect(
    config: &Config,
    configs: &Configs,
    route: &Route,
    guide: Guide,
) -> Result<Way> {
    let limit = route.connect_timeout.unwrap_or(config.connect_timeout);
    let dial = Dial { host: &route.url, limit, deadline: Instant::now() + limit };
    match timeout_at(dial.deadline, dial.open(config, configs, route, guide)).await {
        Ok(way) => way,
        Err(_) => Err(dial.late()),
    }
}

struct Dial<'a> {
    /// Whom errors name.
    host: &'a Url,
    limit: Duration,
    deadline: Instant,
}

impl Dial<'_> {
    async fn open(
        &self,
        config: &Config,
        configs: &Configs,
        route: &Route,
        guide: Guide,
    ) -> Result<Way> {
        let url = &route.url;
        let proxy = config.proxies.of(url)?;
        let (mut wire, is_inward) = match &proxy {
            None => {
                let (stream, address) = self.dial(url, |to| check_reach(url, to, guide)).await?;
                let wire: Box<dyn Wire> = Box::new(stream);
                (wire, is_inward(address.ip()))
            }
            Some(proxy) => {
                // A name is looked up by the proxy, and is a matter of its own rules.
                let is_inward = url.address().map_or(is_localhost(url.name()), is_inward);
                if is_inward {
                    refuse_inward(url, guide)?;
                }
                let wire = self.proxied(config, configs, proxy).await;
                (wire.map_err(|error| error.at("proxy"))?, is_inward)
            }
        };
        if url.scheme == Scheme::Https {
            let tls = configs.get(&route.tls).await?;
            wire = self.secure(url, tls, wire).await?;
        }
        let forwarder = proxy.filter(|_| url.scheme == Scheme::Http);
        Ok(Way { wire, is_inward, forwarder })
    }

    fn late(&self) -> Error {
        Error::unavailable(format!(
            "registry {}: no connection within {:?}; check the host, and the way to it",
            self.host.host, self.limit
        ))
    }

    async fn dial(
        &self,
        url: &Url,
        check: impl Fn(&[SocketAddr]) -> Result<()>,
    ) -> Result<(TcpStream, SocketAddr)> {
        let host = &url.host;
        let addresses: Vec<SocketAddr> = match lookup_host((url.name(), url.port())).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                return Err(Error::unavailable(format!(
                    "registry {host}: the name does not resolve ({error}); check how it is written"
                )));
            }
        };
        check(&addresses)?;
        let mut failure = self.late();
        for (index, address) in (0..).zip(&addresses) {
            // Each address gets its share of the time, so that one that is silent (IPv6 without a
            // way out) leaves some for the others.
            let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX) - index;
            let share = self.deadline.saturating_duration_since(Instant::now()) / left;
            let connected = match timeout(share, TcpStream::connect(address)).await {
                Ok(connected) => connected,
                Err(_) => continue,
            };
            // A request is one small packet, which must not wait for company.
            match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Ok((stream, *address)),
                Err(error) => {
                    failure = Error::unavailable(format!(
                        "registry {host}: {error}; is it running, and is the port right?"
                    ));
                }
            }
        }
        Err(failure)
    }

    /// A way to a proxy, and by it to a host that is spoken to in secret.
    async fn proxied(
        &self,
        config: &Config,
        configs: &Configs,
        proxy: &Proxy,
    ) -> Result<Box<dyn Wire>> {
        let (stream, _) = self.dial(&proxy.url, |_| Ok(())).await?;
        let mut wire: Box<dyn Wire> = Box::new(stream);
        if proxy.url.scheme == Scheme::Https {
            let tls = tls_of(&config.hosts_dir, proxy.url.host.as_str())?;
            let tls = configs.get(&Arc::new(tls)).await?;
            wire = self.secure(&proxy.url, tls, wire).await?;
        }
        if self.host.scheme == Scheme::Https {
            tunnel(&mut wire, self.host, proxy.authorization.as_ref())
                .await
                .map_err(|error| error.at(format_args!("{} to {}", proxy.url, self.host.host)))?;
        }
        Ok(wire)
    }

    async fn secure(
        &self,
        url: &Url,
        tls: Arc<ClientConfig>,
        wire: Box<dyn Wire>,
    ) -> Result<Box<dyn Wire>> {
        let host = &url.host;
        let name = ServerName::try_from(url.name().to_owned()).map_err(|error| {
            Error::invalid(format!("registry {host}: no certificate has such a name ({error})"))
        })?;
        match TlsConnector::from(tls).connect(name, wire).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(explain(url, &error).unwrap_or_else(|| {
                Error::unavailable(format!(
                    "registry {host}: the TLS handshake broke off ({error}); try again"
                ))
            })),
        }
    }
}

/// Asks a proxy to pass bytes on.
async fn tunnel(
    wire: &mut Box<dyn Wire>,
    to: &Url,
    authorization: Option<&HeaderValue>,
) -> Result<()> {
    let broke = |error: std::io::Error| Error::unavailable(format!("it broke off ({error})"));
    let host = match to.host.port() {
        Some(_) => to.host.to_string(),
        None => format!("{}:{}", to.host, to.port()),
    };
    let mut request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        request.extend(b"Proxy-Authorization: ");
        request.extend(authorization.as_bytes());
        request.extend(b"\r\n");
    }
    request.extend(b"\r\n");
    wire.write_all(&request).await.map_err(broke)?;
    wire.flush().await.map_err(broke)?;

    let mut head = Vec::new();
    // Byte by byte: what comes behind it is no longer the proxy's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_TUNNEL_BYTES {
            return Err(Error::precondition("it is no proxy for https; check the setting"));
        }
        head.push(wire.read_u8().await.map_err(broke)?);
    }
    let line = String::from_utf8_lossy(&head);
    let status = line.split(' ').nth(1).and_then(|status| status.get(..3)?.parse::<u16>().ok());
    let (class, why) = match status {
        Some(200..=299) => return Ok(()),
        Some(407) => (Class::PermissionDenied, "wants credentials; put them into its URL"),
        Some(403) => (Class::PermissionDenied, "refuses; ask who runs it, or use NO_PROXY"),
        Some(429 | 500..=599) => (Class::Unavailable, "cannot connect; try again later"),
        _ => (Class::FailedPrecondition, "is no proxy for https; check the setting"),
    };
    let status = status.map(|status| format!(" (status {status})")).unwrap_or_default();
    Err(Error::new(class, format!("it {why}{status}")))
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
fn check_reach(url: &Url, addresses: &[SocketAddr], guide: Guide) -> Result<()> {
    match addresses.iter().any(|to| is_inward(to.ip())) {
        true => refuse_inward(url, guide),
        false => Ok(()),
    }
}

/// Refuses to go to an address that is inward, on the word of somebody who is not.
pub(super) fn refuse_inward(url: &Url, guide: Guide) -> Result<()> {
    match guide {
        Guide::User | Guide::Inward => Ok(()),
        Guide::Outward => Err(Error::denied(format!(
            "a registry elsewhere sends us to {url}, an address of this machine or its link; refused"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_do_not_lead_inward() {
        let url = Url::parse("http://elsewhere.example").unwrap();
        let check = |to: &str, want_inward: bool| {
            let to = [SocketAddr::new(to.parse().unwrap(), 80)];
            assert_eq!(is_inward(to[0].ip()), want_inward, "{to:?}");
            check_reach(&url, &to, Guide::User).unwrap();
            check_reach(&url, &to, Guide::Inward).unwrap();
            assert_eq!(check_reach(&url, &to, Guide::Outward).is_err(), want_inward, "{to:?}");
        };
        check("192.0.2.2", false);
        check("10.0.0.1", false);
        check("fd00::1", false);
        check("2001:db8::2", false);
        check("127.0.0.1", true);
        check("127.8.8.8", true);
        check("0.0.0.0", true);
        check("169.254.169.254", true);
        check("::1", true);
        check("::", true);
        check("fe80::1", true);
        check("::ffff:127.0.0.1", true);
        let mixed = ["192.0.2.1:80".parse().unwrap(), "127.0.0.1:80".parse().unwrap()];
        let error = check_reach(&url, &mixed, Guide::host(false)).unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied);
        check_reach(&url, &mixed, Guide::host(true)).unwrap();
    }
}
