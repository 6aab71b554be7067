//! References: the names of images, as people write them and as the store keeps them.
//!
//! ```text
//! reference  = host [":" port] "/" path [":" tag] ["@" digest]
//! host       = DNS name | IPv4 address | "[" IPv6 address "]"
//! path       = component *("/" component)
//! component  = 1*(a-z 0-9) *(separator 1*(a-z 0-9)),  separator = "." | "_" | "__" | 1*"-"
//! tag        = (A-Z a-z 0-9 "_") *127(A-Z a-z 0-9 "_" "." "-")
//! ```
//!
//! This is the grammar of the distribution project, made stricter where it lets one image have two
//! names: the host is in lower case, the port has no leading zero, an IPv6 address is in its
//! shortest form. Invariant: every part of a parsed reference can stand in a URL as it is.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Digest, Error, Result};

/// The most bytes of host and path together.
const MAX_NAME_BYTES: usize = 255;

/// The most bytes of a tag.
const MAX_TAG_BYTES: usize = 128;

/// The most bytes that are looked at: a name, a tag, and a SHA-512 digest.
const MAX_BYTES: usize = MAX_NAME_BYTES + 1 + MAX_TAG_BYTES + 1 + 135;

/// The tag of a reference that gives neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// The host of a familiar name without one.
pub const FAMILIAR_HOST: &str = "docker.io";

/// Where the familiar host keeps what has a name of one component.
const FAMILIAR_NAMESPACE: &str = "library";

/// Where the registry of the familiar host is reached.
const FAMILIAR_REGISTRY: &str = "registry-1.docker.io";

/// The familiar host in files of credentials.
pub const FAMILIAR_INDEX: &str = "index.docker.io";

/// Where the registry is reached that has `host` in references: there, but for the familiar host.
pub fn registry_host(host: &str) -> &str {
    if host == FAMILIAR_HOST { FAMILIAR_REGISTRY } else { host }
}

/// What `host` is in references: the same, but for the other names of the familiar host.
pub fn reference_host(host: &str) -> &str {
    match host {
        FAMILIAR_REGISTRY | FAMILIAR_INDEX => FAMILIAR_HOST,
        host => host,
    }
}

/// A checked reference. It has a tag, or a digest, or both; the digest is what counts then.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: Box<str>,
    repository: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a full reference: host and path are there, `:latest` is added if neither tag nor
    /// digest is.
    ///
    /// # Errors
    /// `InvalidArgument`, with what to write instead.
    pub fn parse(text: &str) -> Result<Self> {
        parse(text, Names::Full).map_err(|why| refusal(text, &why))
    }

    /// Parses what people type: like [`Reference::parse`], but `busybox` is
    /// `docker.io/library/busybox:latest`, and `someone/app:1` is `docker.io/someone/app:1`.
    ///
    /// The first component is a host if it has a `.` or a `:` or is `localhost`.
    ///
    /// # Errors
    /// `InvalidArgument`, with what to write instead.
    pub fn parse_familiar(text: &str) -> Result<Self> {
        parse(text, Names::Familiar).map_err(|why| refusal(text, &why))
    }

    /// What a tag means in the same repository.
    ///
    /// # Errors
    /// `InvalidArgument`: it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).map_err(|why| refusal(&format!("{}:{tag}", self.repository), &why))?;
        Ok(Self { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// What has this digest in the same repository.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// `host[:port]`; an IPv6 address stands in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path, such as `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

/// The full name, which is the name of the image in the store. It parses to the same reference.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which names are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Full,
    Familiar,
}

/// Why a text is no reference.
type Refused<T> = std::result::Result<T, String>;

fn refusal(text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::invalid(format!("reference {shown:?}: {why}"))
}

fn parse(text: &str, names: Names) -> Refused<Reference> {
    if text.len() > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} characters"));
    }
    if text.contains("://") {
        return Err("leave the scheme out (--plain-http asks for http)".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(Digest::parse(digest).map_err(|error| error.message().to_owned())?))
        }
        None => (text, None),
    };
    let (host, rest) = split_host(rest, names)?;
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, digest.is_none().then_some(DEFAULT_TAG)),
    };

    let host = check_host(host)?;
    check_path(path)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let repository = match host == FAMILIAR_HOST && !path.contains('/') && names == Names::Familiar
    {
        true => format!("{FAMILIAR_NAMESPACE}/{path}"),
        false => path.to_owned(),
    };
    if host.len() + 1 + repository.len() > MAX_NAME_BYTES {
        return Err(format!("host and path have more than {MAX_NAME_BYTES} characters"));
    }
    Ok(Reference {
        host: host.into(),
        repository: repository.into(),
        tag: tag.map(Into::into),
        digest,
    })
}

/// The host, and what comes behind its slash.
fn split_host(text: &str, names: Names) -> Refused<(&str, &str)> {
    if let Some((first, rest)) = text.split_once('/')
        && (first.contains(['.', ':']) || first == "localhost" || first.is_empty())
    {
        return Ok((first, rest));
    }
    match names {
        Names::Familiar => Ok((FAMILIAR_HOST, text)),
        Names::Full => Err("begin with the registry's host, such as 127.0.0.1:5000/app:1".into()),
    }
}

/// The host in the one way to write it.
fn check_host(host: &str) -> Refused<String> {
    let bad =
        || format!("host {host:?}: write a lower-case DNS name or an address, [IPv6] in brackets");
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(bad)?),
            };
            let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
            (format!("[{address}]"), port)
        }
        None => {
            let (name, port) = match host.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (host, None),
            };
            if !is_dns_name(name) {
                return Err(bad());
            }
            (name.to_owned(), port)
        }
    };
    let Some(port) = port else { return Ok(name) };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && number.to_string() == port => Ok(format!("{name}:{port}")),
        _ => Err(format!("port {port:?}: write a number from 1 to 65535")),
    }
}

/// Whether it is a DNS name or an IPv4 address. A name that ends in a number and is no address in
/// full is refused: resolvers read such names in surprising ways (`127.1`, `0x7f.1`).
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit()) {
        return name.parse::<Ipv4Addr>().is_ok();
    }
    name.split('.').all(is_label)
}

fn check_path(path: &str) -> Refused<()> {
    match path.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some(bad) if bad.bytes().any(|b| b.is_ascii_uppercase()) => {
            Err(format!("{bad:?} has upper-case letters; write it in lower case"))
        }
        Some(bad) => Err(format!("{bad:?} is no part of a name; write HOST[:PORT]/PATH[:TAG]")),
    }
}

/// Whether it is `alnum *(separator alnum)`.
fn is_component(text: &str) -> bool {
    let is_alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    text.starts_with(is_alnum)
        && text.ends_with(is_alnum)
        && text.split(is_alnum).filter(|run| !run.is_empty()).all(is_separator)
}

fn check_tag(tag: &str) -> Refused<()> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_good = tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
    match is_good {
        true => Ok(()),
        false => Err(format!(
            "tag {tag:?}: write 1 to {MAX_TAG_BYTES} letters, digits, '_', '.', '-', \
             the first one a letter, digit or '_'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    const D: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// `parts` is `[host, repository, tag, digest]`, the last two empty when absent; none for a
    /// text that is refused.
    fn check_parts(text: &str, parts: Option<[&str; 4]>) {
        let Some([host, repository, tag, digest]) = parts else {
            let error = Reference::parse(text).expect_err(text);
            assert_eq!(error.class(), Class::InvalidArgument, "{text}: {error}");
            return;
        };
        let reference = Reference::parse(text).unwrap();
        assert_eq!(reference.host(), host, "{text}");
        assert_eq!(reference.repository(), repository, "{text}");
        assert_eq!(reference.tag().unwrap_or_default(), tag, "{text}");
        assert_eq!(reference.digest().map_or("", Digest::as_str), digest, "{text}");
        assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference, "{text}");
    }

    #[test]
    fn another_tag_and_a_digest_in_the_same_repository() {
        let digest = Digest::parse(D).unwrap();
        for text in ["[::1]:5000/a/b:1", &format!("[::1]:5000/a/b@{D}")] {
            let reference = Reference::parse(text).unwrap();
            let tagged = reference.with_tag("v2").unwrap();
            assert_eq!(tagged, Reference::parse("[::1]:5000/a/b:v2").unwrap());
            let pinned = reference.with_digest(&digest);
            assert_eq!(pinned, Reference::parse(&format!("[::1]:5000/a/b@{D}")).unwrap());
            for tag in ["", "-a", "a b", "a/b", "a:b", "a@b", &"a".repeat(129)] {
                let error = reference.with_tag(tag).unwrap_err();
                assert_eq!(error.class(), Class::InvalidArgument, "{tag}: {error}");
            }
        }
    }

    #[test]
    fn the_familiar_host_has_other_names() {
        assert_eq!(registry_host("docker.io"), "registry-1.docker.io");
        assert_eq!(registry_host("registry.example:5000"), "registry.example:5000");
        assert_eq!(reference_host("registry-1.docker.io"), "docker.io");
        assert_eq!(reference_host("index.docker.io"), "docker.io");
        assert_eq!(reference_host("docker.io"), "docker.io");
        assert_eq!(reference_host("registry.example:5000"), "registry.example:5000");
    }

    /// The thirteen cases of the parser of 2017, with what a strict one makes of them: it dropped
    /// queries, took short digests, and let schemes and missing objects through.
    #[test]
    fn cases_of_2017() {
        let check = check_parts;
        check("docker.io/library/redis:foo?fooo=asdf", None);
        check("docker.io/library/redis:foo", Some(["docker.io", "library/redis", "foo", ""]));
        check(&format!("docker.io/library/redis:foo@{D}?fooo=asdf"), None);
        check(
            &format!("docker.io/library/redis:foo@{D}"),
            Some(["docker.io", "library/redis", "foo", D]),
        );
        check(&format!("docker.io/library/redis@{D}"), Some(["docker.io", "library/redis", "", D]));
        check("docker.io/library/redis@sha256:abcdef", None);
        check("docker.io/library/redis:obj@abcdef", None);
        check("localhost:5000/library/redis:obj@abcdef", None);
        check(
            "localhost:5000/library/redis:obj",
            Some(["localhost:5000", "library/redis", "obj", ""]),
        );
        check("/docker.io/library/redis:obj", None);
        check("docker.io/library/redis", Some(["docker.io", "library/redis", "latest", ""]));
        check(
            "sub-dom1.foo.com/bar/baz/quux:latest",
            Some(["sub-dom1.foo.com", "bar/baz/quux", "latest", ""]),
        );
        check(
            "sub-dom1.foo.com/bar/baz/quux:some-long-tag",
            Some(["sub-dom1.foo.com", "bar/baz/quux", "some-long-tag", ""]),
        );
        check(
            "b.gcr.io/test.example.com/my-app:test.example.com",
            Some(["b.gcr.io", "test.example.com/my-app", "test.example.com", ""]),
        );
        check(
            "xn--n3h.com/myimage:xn--n3h.com",
            Some(["xn--n3h.com", "myimage", "xn--n3h.com", ""]),
        );
        check("xn--7o8h.com/myimage:xn--7o8h.com@sha512:fffffff", None);
        check("http://xn--7o8h.com/myimage:xn--7o8h.com", None);
    }

    #[test]
    fn hosts() {
        let check = |host: &str, want: Option<&str>| {
            let text = format!("{host}/app:1");
            check_parts(&text, want.map(|want| [want, "app", "1", ""]));
        };
        check("localhost", Some("localhost"));
        check("localhost:1", Some("localhost:1"));
        check("127.0.0.1:5000", Some("127.0.0.1:5000"));
        check("registry:65535", Some("registry:65535"));
        check("registry.example", Some("registry.example"));
        check("[::1]:5000", Some("[::1]:5000"));
        check("[2001:db8::1]", Some("[2001:db8::1]"));
        check("[2001:0db8:0:0:0:0:0:1]", Some("[2001:db8::1]"));
        check("", None);
        check("registry", None);
        check("registry:", None);
        check("registry:0", None);
        check("registry:080", None);
        check("registry:+80", None);
        check("registry:65536", None);
        check("registry:http", None);
        check("a:1:2", None);
        check(":5000", None);
        check("Registry.example", None);
        check("foo_bar.example", None);
        check("-a.example", None);
        check("a-.example", None);
        check("a..example", None);
        check(".example", None);
        check("example.", None);
        check("127.1", None);
        check("0177.0.0.1", None);
        check("0x7f.1", None);
        check("127.0.0.0x1", None);
        check("2130706433:80", None);
        check("1.2.3.4.5", None);
        check("::1", None);
        check("[::1", None);
        check("[::1]5000", None);
        check("[::1]:", None);
        check("[fe80::1%eth0]:5000", None);
        check("[localhost]", None);
        check("user@registry.example", None);
        check("registry.example%2f", None);
    }

    #[test]
    fn paths() {
        let check = |path: &str, is_good: bool| {
            let text = format!("localhost/{path}:1");
            check_parts(&text, is_good.then_some(["localhost", path, "1", ""]));
        };
        check("a", true);
        check("0", true);
        check("a/b/c/d/e/f", true);
        check("a.b_c__d-e--f---g", true);
        check("v2/manifests", true);
        check("", false);
        check("/a", false);
        check("a/", false);
        check("a//b", false);
        check(".", false);
        check("..", false);
        check("a/../b", false);
        check("a..b", false);
        check("a___b", false);
        check("a._b", false);
        check("a-_b", false);
        check("-a", false);
        check("a-", false);
        check("_a", false);
        check("a_", false);
        check("App", false);
        check("a b", false);
        check("a%2e", false);
        check("a?b", false);
        check("a#b", false);
        check("a\\b", false);
        check("a\nb", false);
        check("\u{e9}", false);
    }

    #[test]
    fn tags_and_digests() {
        let check = |suffix: &str, want: Option<[&str; 2]>| {
            let text = format!("localhost/app{suffix}");
            check_parts(&text, want.map(|[tag, digest]| ["localhost", "app", tag, digest]));
        };
        let longest = "t".repeat(MAX_TAG_BYTES);
        let sha512 = format!("sha512:{}", "0f".repeat(64));
        check("", Some(["latest", ""]));
        check(":V1.0_rc-1", Some(["V1.0_rc-1", ""]));
        check(":_", Some(["_", ""]));
        check(&format!(":{longest}"), Some([&longest, ""]));
        check(&format!(":1@{D}"), Some(["1", D]));
        check(&format!("@{sha512}"), Some(["", &sha512]));
        check(&format!(":{longest}t"), None);
        check(":", None);
        check(":.a", None);
        check(":-a", None);
        check(":a:b", None);
        check(":a/b", None);
        check(":a b", None);
        check(":\u{e9}", None);
        check("@", None);
        check(&format!("@{D}:1"), None);
        check(&format!("@{D}@{D}"), None);
        check("@md5:0123456789abcdef0123456789abcdef", None);
    }

    #[test]
    fn names_have_a_length() {
        let check = |path_bytes: usize, is_good: bool| {
            let path = "a".repeat(path_bytes);
            check_parts(
                &format!("localhost/{path}:a-tag-that-does-not-count"),
                is_good.then_some(["localhost", &path, "a-tag-that-does-not-count", ""]),
            );
        };
        check(245, true);
        check(246, false);
        check(100_000, false);
    }

    #[test]
    fn familiar_names_are_completed() {
        let check = |text: &str, want: Option<&str>| {
            let got = Reference::parse_familiar(text);
            assert_eq!(got.as_ref().ok().map(ToString::to_string).as_deref(), want, "{got:?}");
        };
        check("busybox", Some("docker.io/library/busybox:latest"));
        check("busybox:1.36", Some("docker.io/library/busybox:1.36"));
        check("localhost", Some("docker.io/library/localhost:latest"));
        check(&format!("busybox@{D}"), Some(&format!("docker.io/library/busybox@{D}")));
        check("someone/app", Some("docker.io/someone/app:latest"));
        check("a/b/c", Some("docker.io/a/b/c:latest"));
        check("docker.io/busybox", Some("docker.io/library/busybox:latest"));
        check("docker.io/someone/app", Some("docker.io/someone/app:latest"));
        check("localhost/app", Some("localhost/app:latest"));
        check("registry:5000/app", Some("registry:5000/app:latest"));
        check("registry.example/app:1", Some("registry.example/app:1"));
        check("[::1]:5000/app", Some("[::1]:5000/app:latest"));
        check("", None);
        check("Busybox", None);
        check("/busybox", None);
        check("busybox:", None);
        check("https://busybox", None);
        check(&"a".repeat(255 - "docker.io/library/".len() + 1), None);
    }

    #[test]
    fn errors_say_what_to_write() {
        let check = |text: &str, want: &str| {
            assert_eq!(Reference::parse(text).unwrap_err().message(), want);
        };
        check(
            "http://localhost/app",
            "reference \"http://localhost/app\": leave the scheme out (--plain-http asks for http)",
        );
        check(
            "busybox",
            "reference \"busybox\": begin with the registry's host, such as 127.0.0.1:5000/app:1",
        );
        check(
            "localhost/App",
            "reference \"localhost/App\": \"App\" has upper-case letters; write it in lower case",
        );
        check(
            "localhost/a\u{1b}[2k",
            "reference \"localhost/a\\u{1b}[2k\": \"a\\u{1b}[2k\" is no part of a name; \
             write HOST[:PORT]/PATH[:TAG]",
        );
    }
}
