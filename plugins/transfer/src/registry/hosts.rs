//! The settings of hosts, as users of containerd and of docker have them: a directory for each host
//! with a `hosts.toml` or with certificates.
//!
//! They are read whenever a registry is to be reached, so that a change needs no restart.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capstan_schema::registry_host;
use capstan_sdk::{Error, Result};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::tls::Tls;
use super::url::{Scheme, Url};

/// The largest `hosts.toml`, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The directory for hosts that have none of their own.
const DEFAULT: &str = "_default";

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    /// What has a digest.
    Pull,
    /// What a tag means.
    Resolve,
    /// To take something.
    Push,
    /// What refers to a manifest.
    Referrers,
}

impl Capability {
    /// As files have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Resolve => "resolve",
            Self::Push => "push",
            Self::Referrers => "referrers",
        }
    }
}

const ALL: [Capability; 4] =
    [Capability::Pull, Capability::Resolve, Capability::Push, Capability::Referrers];

/// A host to ask, by its settings.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Its path goes before what is asked for, and ends without a slash.
    pub(super) url: Url,
    pub(super) capabilities: Vec<Capability>,
    pub(super) tls: Tls,
    pub(super) headers: HeaderMap,
    /// `None`: that of the client.
    pub(super) connect_timeout: Option<Duration>,
}

/// The hosts that stand for `host` of a reference, first those to be asked first.
///
/// `is_plain_http` and `skips_verify` are what the user asks for; they hold for the registry itself,
/// not for others that a file names.
///
/// # Errors
/// `FailedPrecondition`: a file is not as it should be; the error says where.
pub(super) fn hosts(
    dir: &Path,
    host: &str,
    is_plain_http: bool,
    skips_verify: bool,
) -> Result<Vec<Host>> {
    let scheme = if is_plain_http { "http" } else { "https" };
    let own = format!("{scheme}://{host}");
    let mut hosts = match directory(dir, host) {
        None => vec![Host::new(&own, Settings::default(), Path::new(""))?],
        Some(dir) => match read(&dir.join("hosts.toml"))? {
            Some(text) => parse(&dir.join("hosts.toml"), &text, &own)?,
            None => {
                let mut host = Host::new(&own, Settings::default(), &dir)?;
                host.tls = docker(&dir)?;
                vec![host]
            }
        },
    };
    let own = registry_host(host);
    for found in hosts.iter_mut().filter(|found| found.url.host.as_str() == own) {
        found.tls.skips_verify |= skips_verify;
        if is_plain_http {
            found.url.scheme = Scheme::Http;
        }
    }
    Ok(hosts)
}

/// What is set for a host as such, such as a proxy, whoever else stands for it as a registry.
///
/// # Errors
/// As [`hosts`].
pub(super) fn tls_of(dir: &Path, host: &str) -> Result<Tls> {
    let hosts = hosts(dir, host, false, false)?;
    let own = hosts.into_iter().find(|found| found.url.host.as_str() == host);
    Ok(own.map(|found| found.tls).unwrap_or_default())
}

/// The directory of a host; `host_port_` is for file systems that take no colon.
fn directory(dir: &Path, host: &str) -> Option<PathBuf> {
    let plain = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names = [Some(host), plain.as_deref(), Some(DEFAULT)];
    names.into_iter().flatten().map(|name| dir.join(name)).find(|dir| dir.is_dir())
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::precondition(format!("{}: {why}; correct it", path.display()))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE_BYTES => Err(bad(path, "it is too large")),
        Ok(_) => fs::read_to_string(path).map(Some).map_err(|error| bad(path, error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(bad(path, error)),
    }
}

/// `*.crt` are roots, `x.cert` with `x.key` is for us.
fn docker(dir: &Path) -> Result<Tls> {
    let mut tls = Tls::default();
    let entries = fs::read_dir(dir).map_err(|error| bad(dir, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| bad(dir, error))?.path());
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.roots.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.is_file() {
                    return Err(bad(&path, format_args!("{} is missing", key.display())));
                }
                tls.identities.push((path, key));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// `hosts.toml`. What stands outside of `[host]` is of the server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    capabilities: Option<Vec<String>>,
    ca: Option<Roots>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
    header: Option<BTreeMap<String, Values>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Settings>,
}

/// What is set for one host.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<Roots>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
    header: Option<BTreeMap<String, Values>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, or a list of paths")]
enum Roots {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, a list of paths, or a list of [certificate, key]")]
enum Clients {
    One(PathBuf),
    Many(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Both(PathBuf),
    Pair(Vec<PathBuf>),
}

/// What a header says, which may be a secret: no error repeats it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected the value of a header, or a list of values")]
enum Values {
    One(String),
    Many(Vec<String>),
}

fn parse(path: &Path, text: &str, own: &str) -> Result<Vec<Host>> {
    let file: File = toml::from_str(text).map_err(|error| {
        // Not the whole error, which shows the line with what may be a secret.
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        bad(path, format_args!("line {line}: {}", error.message()))
    })?;
    let dir = path.parent().expect("a file is in a directory");
    let mut named: Vec<_> = file.host.into_iter().collect();
    named.sort_by_key(|(name, _)| name.span().start);
    let mut hosts = Vec::new();
    for (name, settings) in named {
        let host = Host::new(name.get_ref(), settings, dir);
        hosts.push(host.map_err(|error| bad(path, error.message()))?);
    }
    let settings = Settings {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
        header: file.header,
    };
    let server = file.server.as_deref().filter(|server| !server.is_empty()).unwrap_or(own);
    let server = Host::new(server, settings, dir).map_err(|error| bad(path, error.message()))?;
    // Who gives the server itself as a host says there how it is reached.
    let stands_for_it = |host: &Host| {
        let can = |capability| host.capabilities.contains(capability);
        host.url == server.url && server.capabilities.iter().all(can)
    };
    if !hosts.iter().any(stands_for_it) {
        hosts.push(server);
    }
    Ok(hosts)
}

impl Host {
    /// `dir` is where paths begin.
    fn new(name: &str, settings: Settings, dir: &Path) -> Result<Self> {
        let wrong = |why: String| Error::precondition(format!("host {name:?}: {why}"));
        let text = match name.contains("://") {
            true => name.to_owned(),
            false => format!("https://{name}"),
        };
        let url = Url::parse(&text).filter(|url| url.path.query().is_none());
        let mut url = url.ok_or_else(|| wrong("it is no http[s]://host[:port][/path]".into()))?;
        url.host = registry_host(url.host.as_str()).parse().expect("a host");
        let given = url.path.path().trim_end_matches('/');
        let prefix = match settings.override_path.unwrap_or(false) || given.ends_with("/v2") {
            true => given.to_owned(),
            false => format!("{given}/v2"),
        };
        url.path = if prefix.is_empty() { "/" } else { &prefix }.parse().expect("a checked path");

        let mut capabilities = Vec::new();
        for name in settings.capabilities.unwrap_or_default() {
            let known = ALL.into_iter().find(|known| known.name() == name);
            capabilities.push(known.ok_or_else(|| {
                wrong(format!("capabilities: {name:?} is none of pull, resolve, push, referrers"))
            })?);
        }
        if capabilities.is_empty() {
            capabilities.extend(ALL);
        }

        let mut headers = HeaderMap::new();
        for (key, values) in settings.header.unwrap_or_default() {
            let header: HeaderName =
                key.parse().map_err(|_| wrong(format!("header: {key:?} is no name of one")))?;
            let values = match values {
                Values::One(value) => vec![value],
                Values::Many(values) => values,
            };
            for value in values {
                let mut value = HeaderValue::from_str(&value)
                    .map_err(|_| wrong(format!("header {key}: its value is none")))?;
                value.set_sensitive(true);
                headers.append(header.clone(), value);
            }
        }

        let roots = match settings.ca {
            None => Vec::new(),
            Some(Roots::One(path)) => vec![path],
            Some(Roots::Many(paths)) => paths,
        };
        let clients = match settings.client {
            None => Vec::new(),
            Some(Clients::One(path)) => vec![Client::Both(path)],
            Some(Clients::Many(clients)) => clients,
        };
        let mut identities = Vec::new();
        for client in clients {
            let (certificate, key) = match client {
                Client::Both(path) => (path.clone(), path),
                Client::Pair(pair) => match pair.as_slice() {
                    [certificate] => (certificate.clone(), certificate.clone()),
                    [certificate, key] if key.as_os_str().is_empty() => {
                        (certificate.clone(), certificate.clone())
                    }
                    [certificate, key] => (certificate.clone(), key.clone()),
                    _ => return Err(wrong("client: a pair is [certificate, key]".into())),
                },
            };
            identities.push((dir.join(certificate), dir.join(key)));
        }
        let connect_timeout = match settings.dial_timeout.as_deref() {
            None | Some("") => None,
            Some(text) => Some(duration(text).ok_or_else(|| {
                wrong(format!("dial_timeout: {text:?} is nothing like \"10s\" or \"500ms\""))
            })?),
        };
        let tls = Tls {
            roots: roots.into_iter().map(|path| dir.join(path)).collect(),
            identities,
            skips_verify: settings.skip_verify.unwrap_or(false),
        };
        Ok(Self { url, capabilities, tls, headers, connect_timeout })
    }
}

/// A number with its unit: ms, s, m or h.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..end].parse().ok()?;
    match &text[end..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::{Class, Reference};

    /// The host of familiar names.
    fn familiar() -> String {
        Reference::parse_familiar("busybox").unwrap().host().to_owned()
    }

    /// The hosts of a file, each as `url capabilities roots identities skip`.
    fn shown(text: &str) -> Vec<String> {
        let text = text.replace("FAMILIAR", &familiar());
        let path = Path::new("/certs.d/a.example/hosts.toml");
        let hosts = parse(path, &text, "https://a.example");
        let paths = |paths: &[PathBuf]| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",")
        };
        let one = |host: Host| {
            let capabilities: Vec<_> = host.capabilities.iter().map(|one| one.name()).collect();
            let Tls { roots, identities, skips_verify } = &host.tls;
            let identities: Vec<_> = identities
                .iter()
                .map(|(certificate, key)| paths(&[certificate.clone(), key.clone()]))
                .collect();
            format!(
                "{}{} {} [{}] [{}] {skips_verify}",
                host.url,
                host.url.path,
                capabilities.join(","),
                paths(roots),
                identities.join(" "),
            )
        };
        hosts.unwrap().into_iter().map(one).collect()
    }

    const ALL_OF_THEM: &str = "pull,resolve,push,referrers";

    /// What the documents of containerd show, to the letter but for the hosts.
    #[test]
    fn the_files_of_containerd_are_read() {
        let own = format!("https://a.example/v2 {ALL_OF_THEM} [] [] false");
        assert_eq!(shown(""), [own]);
        assert_eq!(
            shown(
                r#"server = "https://registry-1.FAMILIAR"    # Exclude this to not use upstream

[host."https://public-mirror.example.com"]
  capabilities = ["pull"]                  # Requires less trust, won't resolve tag to digest from this host
[host."https://docker-mirror.internal"]
  capabilities = ["pull", "resolve"]
  ca = "docker-mirror.crt"                 # Or absolute path /etc/containerd/certs.d/FAMILIAR/docker-mirror.crt
"#
            ),
            [
                "https://public-mirror.example.com/v2 pull [] [] false",
                "https://docker-mirror.internal/v2 pull,resolve \
                 [/certs.d/a.example/docker-mirror.crt] [] false",
                &format!("https://registry-1.{}/v2 {ALL_OF_THEM} [] [] false", familiar()),
            ]
        );
        assert_eq!(
            shown(
                r#"server = "https://registry-1.FAMILIAR"

[host."http://192.168.31.250:5000"]
  capabilities = ["pull", "resolve", "push"]
  skip_verify = true
"#
            )[0],
            "http://192.168.31.250:5000/v2 pull,resolve,push [] [] true"
        );
        let many = shown(
            r#"server = "https://registry-1.FAMILIAR"

[host."https://mirror.registry"]
  capabilities = ["pull"]
  ca = "/etc/certs/mirror.pem"
  skip_verify = false
  [host."https://mirror.registry".header]
    x-custom-2 = ["value1", "value2"]

[host."https://mirror-bak.registry/us"]
  capabilities = ["pull"]
  skip_verify = true

[host."http://mirror.registry"]
  capabilities = ["pull"]

[host."https://test-1.registry"]
  capabilities = ["pull", "resolve", "push"]
  ca = ["/etc/certs/test-1-ca.pem", "/etc/certs/special.pem"]
  client = [["/etc/certs/client.cert", "/etc/certs/client.key"],["/etc/certs/client.pem", ""]]

[host."https://test-2.registry"]
  client = "/etc/certs/client.pem"

[host."https://test-3.registry"]
  client = ["/etc/certs/client-1.pem", "/etc/certs/client-2.pem"]

[host."https://non-compliant-mirror.registry/v2/upstream"]
  capabilities = ["pull"]
  override_path = true
"#,
        );
        assert_eq!(
            many[..7],
            [
                "https://mirror.registry/v2 pull [/etc/certs/mirror.pem] [] false",
                "https://mirror-bak.registry/us/v2 pull [] [] true",
                "http://mirror.registry/v2 pull [] [] false",
                "https://test-1.registry/v2 pull,resolve,push \
                 [/etc/certs/test-1-ca.pem,/etc/certs/special.pem] \
                 [/etc/certs/client.cert,/etc/certs/client.key /etc/certs/client.pem,/etc/certs/client.pem] \
                 false",
                &format!(
                    "https://test-2.registry/v2 {ALL_OF_THEM} [] \
                     [/etc/certs/client.pem,/etc/certs/client.pem] false"
                ),
                &format!(
                    "https://test-3.registry/v2 {ALL_OF_THEM} [] \
                     [/etc/certs/client-1.pem,/etc/certs/client-1.pem \
                     /etc/certs/client-2.pem,/etc/certs/client-2.pem] false"
                ),
                "https://non-compliant-mirror.registry/v2/upstream pull [] [] false",
            ]
        );
    }

    #[test]
    fn what_stands_outside_of_hosts_is_of_the_server() {
        let text = "server = \"b.example:5000/x/v2/\"\ncapabilities = [\"pull\"]\n\
                    ca = \"x.crt\"\nskip_verify = true\n[host.\"c.example\"]";
        let all = format!("https://c.example/v2 {ALL_OF_THEM} [] [] false");
        let server = "https://b.example:5000/x/v2 pull [/certs.d/a.example/x.crt] [] true";
        assert_eq!(shown(text), [&*all, server]);
        assert_eq!(
            shown("server = \"https://FAMILIAR\"")[0].split(' ').next().unwrap(),
            format!("https://registry-1.{}/v2", familiar())
        );
        assert_eq!(
            shown("override_path = true")[0].split(' ').next().unwrap(),
            "https://a.example/"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, want: &str| {
            let path = Path::new("/certs.d/a.example/hosts.toml");
            let error = parse(path, text, "https://a.example").unwrap_err();
            assert_eq!(error.class(), Class::FailedPrecondition, "{text}");
            assert!(error.message().starts_with("/certs.d/a.example/hosts.toml: "), "{error}");
            assert!(error.message().contains(want), "{error}");
            assert!(!error.message().contains("CANARY"), "{error}");
        };
        check("\nserver = 1", "line 2: invalid type");
        check("mirror = \"x\"", "line 1: unknown field `mirror`");
        check(
            "[host.\"https://b.example\"]\nskip_verfy = true",
            "line 2: unknown field `skip_verfy`",
        );
        check("[host.\"ftp://b.example\"]", "host \"ftp://b.example\": it is no http[s]://");
        check("[host.\"https://me:you@b.example\"]", "it is no http[s]://");
        check("[host.\"https://b.example/?x\"]", "it is no http[s]://");
        check(
            "[host.b]\ncapabilities = [\"pul\"]",
            "\"pul\" is none of pull, resolve, push, referrers",
        );
        check("[host.b]\nca = 1", "expected a path, or a list of paths");
        check("[host.b]\nclient = [[\"a\", \"b\", \"c\"]]", "a pair is [certificate, key]");
        check("[host.b]\nclient = [[]]", "a pair is [certificate, key]");
        check("[host.b]\ndial_timeout = \"soon\"", "dial_timeout: \"soon\"");
        check("[host.b.header]\n\"a b\" = \"CANARY\"", "\"a b\" is no name of one");
        check(
            "[host.b.header]\nAuthorization = \"CANARY\\n\"",
            "header Authorization: its value is none",
        );
        check("[host.b.header]\nAuthorization = [[\"CANARY\"]]", "expected the value of a header");
        check("[host.b.header]\nAuthorization = \"CANARY", "line 2: ");
    }

    #[test]
    fn a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let make = |name: &str, server: &str| {
            fs::create_dir(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("hosts.toml"), format!("server = \"{server}\"")).unwrap();
        };
        let server = |host: &str| {
            let hosts = hosts(dir, host, false, false).unwrap();
            hosts.last().unwrap().url.to_string()
        };
        assert_eq!(server("a.example"), "https://a.example");
        assert_eq!(server(&familiar()), format!("https://registry-1.{}", familiar()));
        make("a.example", "https://own.example");
        make("a.example_5000_", "https://port.example");
        assert_eq!(server("a.example"), "https://own.example");
        assert_eq!(server("a.example:5000"), "https://port.example");
        assert_eq!(server("b.example"), "https://b.example");
        make("_default", "https://default.example");
        assert_eq!(server("a.example"), "https://own.example");
        assert_eq!(server("b.example"), "https://default.example");
        make("a.example:5000", "https://colon.example");
        assert_eq!(server("a.example:5000"), "https://colon.example");
    }

    #[test]
    fn what_the_user_asks_for_is_of_the_registry_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.example");
        fs::create_dir(&path).unwrap();
        let text = "[host.\"https://mirror.example\"]\n[host.\"https://a.example\"]";
        fs::write(path.join("hosts.toml"), text).unwrap();
        let hosts = hosts(dir.path(), "a.example", true, true).unwrap();
        let shown: Vec<_> =
            hosts.iter().map(|host| format!("{} {}", host.url, host.tls.skips_verify)).collect();
        assert_eq!(
            shown,
            ["https://mirror.example false", "http://a.example true", "http://a.example true"]
        );
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3600)));
        let none =
            ["", "s", "10", "1.5s", "-1s", "10 s", "99999999999999999999h", "9999999999999999999h"];
        for text in none {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
