//! Registries that only a proxy knows the way to.

use capstan_client::schema::{FAMILIAR_HOST, registry_host};
use capstan_integration::{Authority, DockerRegistry, Guard, Host, PASSWORD, Tunnel, USER};

use crate::archive::digest_of;
use crate::distribution::{assert_quiet, assert_there, small, transfer_section, write_hosts};

/// What the proxy is told: a canary, too.
const TOLD: &str = "canary-proxy-52e8";

/// `me` and [`TOLD`] in base64.
const BASIC: &str = "Basic bWU6Y2FuYXJ5LXByb3h5LTUyZTg=";

/// A name that is nobody's.
const AWAY: &str = "registry.example";

/// The proxy is reached by https, and believed by a root that its own directory of settings has; images come and go
/// through it, from registries by https and by http.
#[test]
fn a_proxy_by_https_has_a_root_of_its_own() {
    let (ours, of_proxy) = (Authority::new(), Authority::new());
    let open = DockerRegistry::empty();
    let image = small(91);
    image.push_to(&open.address(), "app", "latest");
    let guard = Guard::new().https(&ours).password();
    let guarded = DockerRegistry::guarded(open.storage(), &guard);
    let proxy = Tunnel::by_https(&of_proxy, &guarded.address(), &open.address());
    let address = proxy.address();

    let mut host = Host::without_daemon(1024);
    let hosts = host.path("certs.d");
    write_hosts(&hosts, AWAY, &ours, None);
    host.configure(&transfer_section(&hosts, "attempts = 2\n"));
    for name in ["HTTPS_PROXY", "HTTP_PROXY"] {
        host.set_variable(name, &format!("https://me:{TOLD}@{address}"));
    }
    host.start();
    let secure = format!("{AWAY}/app:latest");
    let login = format!("{USER}:{PASSWORD}");
    let pull = ["images", "pull", "--no-unpack", "--user", &login, &secure];

    // Nobody vouches for it, or another one does: it is told nothing.
    let parts = ["proxy", &address, "certificate", "hosts.toml"];
    host.fails(&pull, 6, "FailedPrecondition", &parts);
    write_hosts(&hosts, &address, &ours, None);
    host.fails(&pull, 6, "FailedPrecondition", &parts);
    assert_eq!(proxy.passed(), []);

    // The root is read at the next use.
    write_hosts(&hosts, &address, &of_proxy, None);
    host.ok(&pull);
    assert_eq!(digest_of(&host, &secure), image.manifest);
    let pushed = format!("{AWAY}/pushed:1");
    host.ok(&["images", "push", "--user", &login, &pushed, &secure]);
    assert_there(&open.address(), "pushed", &image);
    let told = Some(BASIC.to_owned());
    let passed = proxy.passed();
    assert!(!passed.is_empty());
    let connect = format!("CONNECT {AWAY}:443 HTTP/1.1");
    assert!(passed.iter().all(|one| *one == (connect.clone(), told.clone())), "{passed:?}");

    // By http it passes requests on, rather than bytes.
    let plain = format!("{AWAY}:5000/app:latest");
    host.ok(&["images", "pull", "--no-unpack", "--plain-http", &plain]);
    let pushed = format!("{AWAY}:5000/plain:1");
    host.ok(&["images", "push", "--plain-http", &pushed, &plain]);
    assert_there(&open.address(), "plain", &image);
    let asked = proxy.passed().split_off(passed.len());
    let first = format!("http://{AWAY}:5000/v2/");
    assert!(asked.iter().all(|(line, by)| line.contains(&first) && *by == told), "{asked:?}");

    // This machine is reached without it.
    let before = proxy.passed().len();
    host.ok(&["images", "pull", "--no-unpack", "--plain-http", &open.reference("app")]);
    assert_eq!(proxy.passed().len(), before);
    assert_quiet(&host, &[TOLD, PASSWORD, BASIC]);
}

/// The key of the settings goes before the variables.
#[test]
fn the_settings_name_a_proxy_too() {
    let authority = Authority::new();
    let open = DockerRegistry::empty();
    let image = small(92);
    image.push_to(&open.address(), "app", "latest");
    let proxy = Tunnel::by_https(&authority, "127.0.0.1:1", &open.address());
    let mut host = Host::without_daemon(1024);
    let hosts = host.path("certs.d");
    write_hosts(&hosts, &proxy.address(), &authority, None);
    let key = format!("proxy = \"https://{}\"\nattempts = 1\n", proxy.address());
    host.configure(&transfer_section(&hosts, &key));
    host.set_variable("HTTP_PROXY", "http://127.0.0.1:1");
    host.start();
    let name = format!("{AWAY}:5000/app:latest");
    host.ok(&["images", "pull", "--no-unpack", "--plain-http", &name]);
    assert_eq!(digest_of(&host, &name), image.manifest);
    assert!(proxy.passed().iter().all(|(_, told)| told.is_none()));
    // Where it cannot connect, it is named.
    let output = host.capstan(&["images", "pull", "--no-unpack", &format!("{AWAY}/app")]);
    assert_eq!(output.code, 7, "{}", output.stderr);
    assert!(output.stderr.contains("proxy") && output.stderr.contains(&proxy.address()));
}

/// Where names lead: those of the familiar host to its registry, and each to https unless it is said otherwise, that of
/// this machine too (F-146).
#[test]
fn names_lead_where_they_should() {
    let authority = Authority::new();
    let open = DockerRegistry::empty();
    let image = small(93);
    image.push_to(&open.address(), "library/app", "latest");
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().https(&authority));
    let proxy = Tunnel::by_https(&authority, &guarded.address(), &open.address());
    let mut host = Host::without_daemon(1024);
    let hosts = host.path("certs.d");
    write_hosts(&hosts, &proxy.address(), &authority, None);
    let key = format!("proxy = \"https://{}\"\nattempts = 1\n", proxy.address());
    host.configure(&transfer_section(&hosts, &key));
    host.start();
    let familiar = format!("CONNECT {}:443 HTTP/1.1", registry_host(FAMILIAR_HOST));
    // The certificate is for another host, which ends the pull; where it went is seen before.
    let (full, other) = (format!("{FAMILIAR_HOST}/library/app:latest"), format!("{AWAY}:5000/app"));
    for (name, want) in [
        ("app", familiar.clone()),
        (full.as_str(), familiar.clone()),
        (other.as_str(), format!("CONNECT {AWAY}:5000 HTTP/1.1")),
    ] {
        let before = proxy.passed().len();
        host.fails(&["images", "pull", name], 6, "FailedPrecondition", &["certificate"]);
        let lines: Vec<String> =
            proxy.passed().split_off(before).into_iter().map(|(line, _)| line).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| *line == want), "{name}: {lines:?}");
    }
    let name = guarded.reference("library/app").replace("127.0.0.1", "localhost");
    host.fails(&["images", "pull", &name], 6, "FailedPrecondition", &["certificate"]);
    host.ok(&["images", "pull", "--no-unpack", "-k", &name]);
    assert_eq!(digest_of(&host, &name), image.manifest);
    let plain = open.reference("library/app").replace("127.0.0.1", "localhost");
    assert_ne!(host.capstan(&["images", "pull", &plain]).code, 0, "http, and nobody asked for it");
    host.ok(&["images", "pull", "--no-unpack", "--plain-http", &plain]);
}
