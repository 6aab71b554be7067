//! URLs of registries: a scheme, a host and a path, all of them parsed.

use std::fmt;
use std::net::IpAddr;

use capstan_sdk::{Error, Result};
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery};

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A place at a host. It prints without its path, in which a signature may stand.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    pub(super) host: Authority,
    pub(super) path: PathAndQuery,
}

impl Url {
    /// `http[s]://host[:port][/path]`; `None` for anything else, such as one with a user in it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let scheme = match uri.scheme_str()? {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let host = uri.authority().filter(|host| is_plain(host))?.clone();
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Some(Self { scheme, host, path })
    }

    /// The name or address of the host, an IPv6 address without its brackets.
    pub(super) fn name(&self) -> &str {
        self.host.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, said or not.
    pub(super) fn port(&self) -> u16 {
        self.host.port_u16().unwrap_or(self.scheme.port())
    }

    /// The address, where the host is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.name().parse().ok()
    }

    /// Whether scheme, host and port are the same.
    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.port() == other.port()
            && self.name().eq_ignore_ascii_case(other.name())
    }

    /// The same place with more behind its `?`.
    pub(super) fn with_query(&self, query: &str) -> Option<Self> {
        let path = match (query, self.path.query()) {
            ("", _) => self.path.clone(),
            (_, Some("")) => format!("{}{query}", self.path).parse().ok()?,
            (_, Some(_)) => format!("{}&{query}", self.path).parse().ok()?,
            (_, None) => format!("{}?{query}", self.path).parse().ok()?,
        };
        Some(Self { path, ..self.clone() })
    }

    /// Where an answer leads. What it says beyond the host (often a signature) is not repeated in
    /// errors.
    ///
    /// # Errors
    /// `FailedPrecondition`: it is no URL of http or https, or is http where we came by https.
    pub(super) fn follow(&self, location: Option<&HeaderValue>) -> Result<Self> {
        let bad = |why: &str| {
            Error::precondition(format!("{} redirects {why}; it is set up wrong", self.host))
        };
        let text = location.ok_or_else(|| bad("without saying where to"))?;
        let text = text.to_str().ok().filter(|text| !text.starts_with("//"));
        let text = text.ok_or_else(|| bad("to something that is no URL"))?;
        if text.starts_with('/') {
            let path = text.parse().map_err(|_| bad("to something that is no URL"))?;
            return Ok(Self { path, ..self.clone() });
        }
        let url = Self::parse(text).ok_or_else(|| bad("to something that is no http URL"))?;
        if self.scheme == Scheme::Https && url.scheme == Scheme::Http {
            return Err(bad(&format!("from https to http://{}, which is refused", url.host)));
        }
        Ok(url)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.host)
    }
}

/// Whether it is a host and perhaps a port; no user, no password, no port that is no number.
pub(super) fn is_plain(host: &Authority) -> bool {
    match host.port() {
        Some(port) => format!("{}:{port}", host.host()) == host.as_str(),
        None => host.host() == host.as_str(),
    }
}

/// The value of a query or of a form: all but letters, digits and `-._~` as `%XX`.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// What [`encode`] was given; `None` if it is not made so.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).expect("two digits"));
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn redirects() {
        let from = Url::parse("http://registry.example:5000/v2/app/blobs/x").unwrap();
        let check = |location: &str, want: Result<(&str, &str), Class>| {
            let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
            let got = from.follow(Some(&value));
            let got = match &got {
                Ok(url) => Ok((url.to_string(), url.path.as_str().to_owned())),
                Err(error) => Err(error.class()),
            };
            assert_eq!(got, want.map(|(url, path)| (url.into(), path.into())), "{location}");
        };
        let bad = Err(Class::FailedPrecondition);
        check("/there?a=b", Ok(("http://registry.example:5000", "/there?a=b")));
        check("/there#part", Ok(("http://registry.example:5000", "/there")));
        check("http://b.example/there?a=b", Ok(("http://b.example", "/there?a=b")));
        check("http://b.example", Ok(("http://b.example", "/")));
        check("http://[::1]:80/x", Ok(("http://[::1]:80", "/x")));
        check("HTTP://b.example/x", Ok(("http://b.example", "/x")));
        check("https://b.example/there", Ok(("https://b.example", "/there")));
        check("http://user:secret@b.example/there", bad);
        check("http://b.example:99999/x", bad);
        check("http://b.example:/x", bad);
        check("//b.example/there", bad);
        check("there", bad);
        check("b.example:80", bad);
        check("*", bad);
        check("", bad);
        check("file:///etc/passwd", bad);
        check("unix:/run/x.sock", bad);
        check("ftp://b.example/x", bad);
        check("http:///x", bad);
        check("http://b.example/\u{e9}", bad);
        assert!(from.follow(None).is_err());
    }

    #[test]
    fn nothing_leads_from_https_to_http() {
        let from = Url::parse("https://registry.example/x").unwrap();
        let to = |location: &'static str| from.follow(Some(&HeaderValue::from_static(location)));
        assert_eq!(to("/y").unwrap().to_string(), "https://registry.example");
        assert_eq!(to("https://b.example/y").unwrap().to_string(), "https://b.example");
        let error = to("http://registry.example/y").unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.message().contains("from https to http://registry.example"), "{error}");
    }

    #[test]
    fn signatures_stay_out_of_errors() {
        let from = Url::parse("https://registry.example/").unwrap();
        let locations = ["http://b.example/x?signature=SECRET", "ftp://user:SECRET@b.example/x"];
        for location in locations {
            let error = from.follow(Some(&HeaderValue::from_static(location))).unwrap_err();
            assert!(!error.message().contains("SECRET"), "{error}");
        }
        let url = Url::parse("https://b.example/x?signature=SECRET").unwrap();
        assert_eq!(format!("{url:?} {url}"), "https://b.example https://b.example");
    }

    #[test]
    fn origins() {
        let check = |a: &str, b: &str, want: bool| {
            let (a, b) = (Url::parse(a).unwrap(), Url::parse(b).unwrap());
            assert_eq!(a.is_same_origin(&b), want, "{a} {b}");
        };
        check("https://a.example/x", "https://A.example:443/y", true);
        check("http://a.example", "http://a.example:80/", true);
        check("http://[::1]", "http://[::1]:80/", true);
        check("https://a.example", "http://a.example", false);
        check("https://a.example", "https://a.example:444", false);
        check("https://a.example", "https://b.example", false);
    }

    #[test]
    fn queries() {
        let check = |url: &str, query: &str, want: &str| {
            let got = Url::parse(url).unwrap().with_query(query).unwrap();
            assert_eq!(got.path.as_str(), want);
        };
        check("http://a.example/x", "", "/x");
        check("http://a.example/x", "a=b", "/x?a=b");
        check("http://a.example/x?", "a=b", "/x?a=b");
        check("http://a.example/x?c", "a=b", "/x?c&a=b");
        assert_eq!(encode("a b&c=d/\u{e9}~"), "a%20b%26c%3Dd%2F%C3%A9~");
        assert_eq!(decode("a%20b%26c%3Dd%2F%C3%A9~").unwrap(), "a b&c=d/\u{e9}~");
        assert_eq!(
            [decode("%"), decode("%2"), decode("%zz"), decode("%ff")],
            [None, None, None, None]
        );
    }
}
