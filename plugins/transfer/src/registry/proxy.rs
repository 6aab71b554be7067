//! Proxies: through whom a host is reached.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capstan_sdk::contract::access::Secret;
use capstan_sdk::{Error, Result};
use hyper::header::HeaderValue;
use ipnet::IpNet;

use super::url::{Scheme, Url, decode};

/// What is known of proxies, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proxies {
    /// For all hosts, in place of the next two; empty: none.
    all: Secret,
    /// For hosts by http.
    http: Secret,
    /// For hosts by https.
    https: Secret,
    /// The hosts that are reached without one, as in the variable `NO_PROXY`.
    none: String,
}

/// One proxy.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) url: Url,
    /// What it is told: sensitive, so that it is not printed.
    pub(super) authorization: Option<HeaderValue>,
}

impl Proxies {
    /// The proxies of an environment, which are asked for by the names of variables; `proxy`, if it
    /// is not empty, comes before these.
    pub(crate) fn new(proxy: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let value = variable(&name.to_lowercase()).filter(|value| !value.is_empty());
            value.or_else(|| variable(name)).unwrap_or_default()
        };
        Self {
            all: Secret::new(proxy),
            http: Secret::new(either("HTTP_PROXY")),
            https: Secret::new(either("HTTPS_PROXY")),
            none: either("NO_PROXY"),
        }
    }

    /// Through whom a place is reached; `None`: directly, which holds for this machine itself
    /// always.
    ///
    /// # Errors
    /// `FailedPrecondition`: what is set is no URL of a proxy.
    pub(super) fn of(&self, url: &Url) -> Result<Option<Proxy>> {
        let by_scheme = match url.scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        let proxy = if self.all.is_empty() { by_scheme } else { &self.all };
        if proxy.is_empty() || is_this_machine(url) || self.excludes(url) {
            return Ok(None);
        }
        Proxy::parse(proxy.reveal()).map(Some).ok_or_else(|| {
            let name = match (self.all.is_empty(), url.scheme) {
                (false, _) => "proxy in [plugins.\"transfer.local\"]",
                (true, Scheme::Http) => "the daemon's variable HTTP_PROXY",
                (true, Scheme::Https) => "the daemon's variable HTTPS_PROXY",
            };
            Error::precondition(format!(
                "registry {}: {name} is no http[s]://[user:password@]host[:port]; correct it",
                url.host
            ))
        })
    }

    fn excludes(&self, url: &Url) -> bool {
        self.none.split(',').map(str::trim).any(|entry| covers(entry, url))
    }
}

impl Proxy {
    fn parse(text: &str) -> Option<Self> {
        let text = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, host) = match rest[..end].rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, &rest[..end]),
        };
        let url = Url::parse(&format!("{scheme}://{host}/"))?;
        let authorization = match user {
            None => None,
            Some(user) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                Some(basic(&decode(user)?, &decode(password)?))
            }
        };
        Some(Self { url, authorization })
    }
}

/// `Basic`, with what is to be told.
pub(super) fn basic(user: &str, secret: &str) -> HeaderValue {
    let told = STANDARD.encode(format!("{user}:{secret}"));
    let mut value = HeaderValue::from_str(&format!("Basic {told}")).expect("base64 is ASCII");
    value.set_sensitive(true);
    value
}

fn is_this_machine(url: &Url) -> bool {
    match url.address() {
        Some(address) => address.to_canonical().is_loopback(),
        None => is_localhost(url.name()),
    }
}

/// Whether a name always means this machine.
pub(super) fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether an entry of `NO_PROXY` speaks of a place: `*`, an address, a network, a name with all
/// below it, `.name` for what is below it only; each but the networks with a port, or not.
fn covers(entry: &str, url: &Url) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return url.address().is_some_and(|address| network.contains(&address.to_canonical()));
    }
    let (entry, port) = match entry.rsplit_once(':') {
        Some((host, port)) if entry.parse::<IpAddr>().is_err() => match port.parse::<u16>() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    };
    if port.is_some_and(|port| port != url.port()) {
        return false;
    }
    let entry = entry.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if let Some(address) = url.address() {
        return entry.parse() == Ok(address);
    }
    let name = url.name().trim_end_matches('.').to_ascii_lowercase();
    let below = entry.trim_start_matches('*');
    match below.strip_prefix('.') {
        Some(above) => !above.is_empty() && name.ends_with(below),
        None => {
            !below.is_empty()
                && name
                    .strip_suffix(below)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn proxies(proxy: &str, variables: &'static [(&str, &str)]) -> Proxies {
        Proxies::new(proxy, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn of(proxies: &Proxies, url: &str) -> Option<String> {
        let proxy = proxies.of(&Url::parse(url).unwrap()).unwrap();
        proxy.map(|proxy| proxy.url.to_string())
    }

    #[test]
    fn who_is_reached_through_whom() {
        let none = proxies("", &[]);
        assert_eq!(of(&none, "https://a.example"), None);
        let both = proxies(
            "",
            &[
                ("HTTP_PROXY", "http://plain.example:3128"),
                ("https_proxy", "secure.example:8080"),
                ("HTTPS_PROXY", "http://ignored.example"),
                ("NO_PROXY", "near.example"),
            ],
        );
        assert_eq!(of(&both, "http://a.example").unwrap(), "http://plain.example:3128");
        assert_eq!(of(&both, "https://a.example").unwrap(), "http://secure.example:8080");
        assert_eq!(of(&both, "https://near.example"), None);
        for this_machine in ["http://localhost:5000", "https://127.0.0.9", "https://[::1]:5000"] {
            assert_eq!(of(&both, this_machine), None, "{this_machine}");
        }
        let set = proxies("https://set.example", &[("HTTPS_PROXY", "http://ignored.example")]);
        assert_eq!(of(&set, "http://a.example").unwrap(), "https://set.example");
        assert_eq!(of(&set, "https://a.example").unwrap(), "https://set.example");
        let set = proxies("http://set.example", &[("no_proxy", "*")]);
        assert_eq!(of(&set, "https://a.example"), None);
    }

    #[test]
    fn exceptions() {
        let check = |entry: &str, url: &str, want: bool| {
            assert_eq!(covers(entry, &Url::parse(url).unwrap()), want, "{entry} {url}");
        };
        check("*", "http://a.example", true);
        check("a.example", "http://a.example", true);
        check("a.example", "http://A.example:5000", true);
        check("a.example", "http://b.a.example", true);
        check("a.example", "http://ba.example", false);
        check(".a.example", "http://b.a.example", true);
        check(".a.example", "http://a.example", false);
        check("*.a.example", "http://b.a.example", true);
        check("*.a.example", "http://a.example", false);
        check("a.example:5000", "http://a.example:5000", true);
        check("a.example:5000", "http://a.example", false);
        check("a.example:443", "https://a.example", true);
        check("10.0.0.0/8", "http://10.1.2.3:5000", true);
        check("10.0.0.0/8", "http://11.1.2.3", false);
        check("10.0.0.0/8", "http://a.example", false);
        check("fd00::/8", "http://[fd00::1]:5000", true);
        check("10.1.2.3", "http://10.1.2.3", true);
        check("10.1.2.3:80", "http://10.1.2.3", true);
        check("10.1.2.3:81", "http://10.1.2.3", false);
        check("fd00::1", "http://[fd00::1]", true);
        check("[fd00::1]:80", "http://[fd00::1]", true);
        check("1.2.3", "http://0.1.2.3", false);
        check("", "http://a.example", false);
        check(".", "http://a.example", false);
    }

    #[test]
    fn what_a_proxy_is_told_is_not_printed() {
        let proxies = proxies("http://us%65r:p%40ss@proxy.example:3128/", &[]);
        let proxy = proxies.of(&Url::parse("https://a.example").unwrap()).unwrap().unwrap();
        let told = proxy.authorization.as_ref().unwrap().to_str().unwrap();
        assert_eq!(STANDARD.decode(told.strip_prefix("Basic ").unwrap()).unwrap(), b"user:p@ss");
        let shown = format!("{proxies:?} {proxy:?}");
        assert!(!shown.contains("p%40ss") && !shown.contains(told), "{shown}");
        assert!(shown.contains("http://proxy.example:3128"), "{shown}");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_secrets() {
        let bad = [
            "socks5://user:SECRET@proxy.example",
            "http://user:SECRET%zz@proxy.example",
            "http://user:SECRET@",
            "http://user:SECRET@proxy.example:99999",
        ];
        for text in bad {
            let proxies = Proxies::new(text, |_| None);
            let error = proxies.of(&Url::parse("https://a.example").unwrap()).unwrap_err();
            assert_eq!(error.class(), Class::FailedPrecondition, "{text}");
            assert!(!error.message().contains("SECRET"), "{error}");
        }
    }
}
