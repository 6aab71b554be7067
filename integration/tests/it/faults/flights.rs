//! Pulls that meet: what one fetches serves the other, as far as its own registry lets it in, and outlives who began.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use capstan_integration::{
    DockerRegistry, FaultProxy, Guard, Host, PASSWORD, TokenServer, Trouble, USER,
};

use super::{ALWAYS, Front, hasty, noisy};
use crate::archive::digest_of;

/// How much of a layer comes at once on a slow way.
const PIECE: usize = 100_000;

/// Begins a pull, and waits until some of the layer has come by `proxy`.
fn begin(host: &Host, proxy: &FaultProxy, layer: &str, args: &[&str]) -> Child {
    let mut command = host.command(args);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    host.until("some of the layer has come", || proxy.sent_of(layer) >= PIECE as u64);
    child
}

fn slow(proxy: &FaultProxy, layer: &str) {
    proxy.make(ALWAYS, "GET", layer, Trouble::Drip(PIECE, Duration::from_millis(150)));
}

/// Whoever its registry does not let in gets nothing of what is on its way to somebody else, nor of what came.
#[test]
fn who_is_denied_gets_nothing_of_anothers_fetch() {
    let open = DockerRegistry::empty();
    let image = noisy(1_500_000, 93);
    image.push_to(&open.address(), "app", "latest");
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().password());
    let proxy = FaultProxy::before(&guarded.address());
    let layer = image.layers[0].clone();
    slow(&proxy, &layer);
    let isolated = "[plugins.\"content.local\"]\nsharing = \"isolated\"\n";
    let host = hasty(isolated);
    let name = proxy.reference("app");
    let login = format!("{USER}:{PASSWORD}");
    let pull = ["images", "pull", "--plain-http", "--no-unpack"];
    let with_login = [&pull[..], &["--user", &login, &name]].concat();
    let mut first = begin(&host, &proxy, &layer, &with_login);

    let denied = |more: &[&str]| {
        let args = [more, &pull, &[&name]].concat();
        host.fails(&args, 8, "PermissionDenied", &["capstan login"]);
        let wrong = [more, &pull, &["--user", "me:wrong", &name]].concat();
        host.fails(&wrong, 8, "PermissionDenied", &[]);
    };
    let elsewhere = ["--namespace", "other"];
    denied(&[]);
    denied(&elsewhere);
    // Where the registry gives the document only, in another namespace.
    let half = FaultProxy::before(&open.address());
    half.make(ALWAYS, "GET", &layer, Trouble::Answer(403, Vec::new(), Vec::new()));
    let half_name = half.reference("app");
    let halfway = || {
        let args = [&elsewhere[..], &pull, &[&half_name]].concat();
        host.fails(&args, 8, "PermissionDenied", &["403"]);
        assert!(!host.ids(&[&elsewhere[..], &["content", "ls"]].concat()).contains(&layer));
        assert_eq!(host.ids(&[&elsewhere[..], &["images", "ls"]].concat()), Vec::<String>::new());
    };
    halfway();
    assert!(first.try_wait().unwrap().is_none(), "it was not slow enough");
    assert!(first.wait().unwrap().success());
    assert_eq!(digest_of(&host, &name), image.manifest);
    assert_eq!(proxy.count("GET", &layer), 1);
    denied(&[]);
    denied(&elsewhere);
    halfway();
}

/// Who began a fetch is killed: it goes on for the other one, and is still one.
#[test]
fn a_fetch_goes_on_when_who_began_it_is_killed() {
    let open = DockerRegistry::empty();
    let image = noisy(2_000_000, 94);
    image.push_to(&open.address(), "app", "latest");
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().password());
    let proxy = FaultProxy::before(&guarded.address());
    let layer = image.layers[0].clone();
    slow(&proxy, &layer);
    // It breaks, so that the rest is asked for when the first client is gone, with its credentials.
    proxy.make(1, "GET", &layer, Trouble::CutEvery(1_200_000));
    let host = hasty("");
    let name = proxy.reference("app");
    let login = format!("{USER}:{PASSWORD}");
    let pull = ["images", "pull", "--plain-http", "--user", &login, &name];
    let mut first = begin(&host, &proxy, &layer, &pull);
    let mut second = host.command(&pull).stderr(Stdio::inherit()).spawn().unwrap();
    let manifests =
        || proxy.exchanges().iter().filter(|one| one.target.contains("/manifests/")).count();
    let before = manifests();
    host.until("the second one is on its way", || manifests() > before);
    std::thread::sleep(Duration::from_millis(100));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(proxy.sent_of(&layer) < 1_200_000, "it was not slow enough");
    assert!(second.wait().unwrap().success());
    assert_eq!(digest_of(&host, &name), image.manifest);
    let (sent, size) = (proxy.sent_of(&layer), image.blobs[&layer].len() as u64);
    assert!(sent <= size + size / 10, "{sent} bytes of {size}");
    assert_eq!(proxy.count("GET", &layer), 2);
    assert_eq!(host.ids(&["snapshots", "ls"]), image.chain_ids());
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
}

/// The credentials with which a fetch was begun are gone with their client, and the registry wants to see some again:
/// another client's do.
#[test]
fn a_fetch_goes_on_with_the_credentials_of_who_is_left() {
    let open = DockerRegistry::empty();
    let image = noisy(2_000_000, 96);
    image.push_to(&open.address(), "app", "latest");
    let tokens = TokenServer::start();
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().tokens(&tokens));
    let proxy = FaultProxy::before(&guarded.address());
    let layer = image.layers[0].clone();
    slow(&proxy, &layer);
    proxy.make(1, "GET", &layer, Trouble::CutEvery(1_200_000));
    let host = hasty("");
    let name = proxy.reference("app");
    let login = format!("{USER}:{PASSWORD}");
    let pull = ["images", "pull", "--plain-http", "--user", &login, &name];
    let mut first = begin(&host, &proxy, &layer, &pull);
    let granted = || tokens.asked().len();
    let before = granted();
    let mut second = host.command(&pull).stderr(Stdio::inherit()).spawn().unwrap();
    host.until("the second one has its token", || granted() > before);
    std::thread::sleep(Duration::from_millis(100));
    first.kill().unwrap();
    first.wait().unwrap();
    let challenge = format!(
        "Bearer realm=\"{}\",service=\"{}\",scope=\"repository:app:pull\",error=\"invalid_token\"",
        tokens.realm(),
        TokenServer::SERVICE
    );
    let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
    proxy.make(1, "GET", &layer, Trouble::Answer(401, headers, Vec::new()));
    assert!(proxy.sent_of(&layer) < 1_200_000, "it was not slow enough");
    assert!(second.wait().unwrap().success());
    assert_eq!(digest_of(&host, &name), image.manifest);
    let layers = proxy.exchanges().into_iter().filter(|one| one.target.contains(&layer));
    let statuses: Vec<u16> = layers.map(|one| one.status).collect();
    assert_eq!(statuses, [200, 401, 206]);
    let (sent, size) = (proxy.sent_of(&layer), image.blobs[&layer].len() as u64);
    assert!(sent <= size + size / 10, "{sent} bytes of {size}");
}

/// A pull that is cancelled while nothing comes is over at once, also where it is unpacked meanwhile: the next one asks
/// anew, for what is missing, and does not wait with the first for what never comes.
#[test]
fn a_cancelled_pull_does_not_wait_for_bytes() {
    let front = Front::new(noisy(2_000_000, 98));
    let layer = front.image.layers[0].clone();
    let host = Host::new();
    let name = front.name();
    let pull = ["images", "pull", "--plain-http", &name];
    front.proxy.make(1, "GET", &layer, Trouble::Stall(1_000_000));
    let mut child = begin(&host, &front.proxy, &layer, &pull);
    host.until("it stands still", || front.proxy.sent_of(&layer) == 1_000_000);
    // The unpack waits for bytes by now.
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let begun = Instant::now();
    host.ok(&pull);
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert_eq!(front.proxy.count("GET", &layer), 2);
    front.assert_each_byte_once();
    assert_eq!(host.ids(&["snapshots", "ls"]), front.image.chain_ids());
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
}

/// Nor does a restart of the plugin: the pull goes on in the next instance, from where it was.
#[test]
fn a_restart_does_not_wait_for_bytes() {
    let front = Front::new(noisy(2_000_000, 99));
    let layer = front.image.layers[0].clone();
    let host = Host::new();
    let name = front.name();
    front.proxy.make(1, "GET", &layer, Trouble::Stall(1_000_000));
    let pull = ["images", "pull", "--plain-http", &name];
    let mut child = begin(&host, &front.proxy, &layer, &pull);
    host.until("it stands still", || front.proxy.sent_of(&layer) == 1_000_000);
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    host.ok(&["plugins", "restart", "transfer.local"]);
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert_eq!(digest_of(&host, &name), front.image.manifest);
    assert_eq!(front.proxy.count("GET", &layer), 2);
    front.assert_each_byte_once();
    assert_eq!(host.ids(&["snapshots", "ls"]), front.image.chain_ids());
}

/// Who is let in does not fail because somebody else, who is not, began to fetch the same.
#[test]
fn a_fetch_that_is_denied_is_begun_again_by_who_is_let_in() {
    let front = Front::new(noisy(300_000, 97));
    let layer = front.image.layers[0].clone();
    let closed = FaultProxy::before(&front.registry.address());
    closed.make(ALWAYS, "GET", &layer, Trouble::Delay(Duration::from_millis(800)));
    closed.make(ALWAYS, "GET", &layer, Trouble::Answer(403, Vec::new(), Vec::new()));
    let host = hasty("");
    let (denied, name) = (closed.reference("app"), front.name());
    let pull = |name| ["images", "pull", "--plain-http", "--no-unpack", name];
    let mut command = host.command(&pull(&denied));
    let mut first = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    host.until("it asks for the layer", || closed.count("GET", &layer) == 1);
    front.pull(&host);
    front.assert_each_byte_once();
    assert_eq!(closed.sent_of(&layer), 0);
    // In one namespace, what one may have all have.
    assert!(first.wait().unwrap().success());
    host.ok(&["content", "rm", &layer]);
    host.ok(&["images", "rm", &denied, &name]);
    host.fails(&pull(&denied), 8, "PermissionDenied", &["403"]);
}

/// The registry from which a fetch comes dies, and so does the client that named it: another client's registry has the
/// rest, from where the first one ended.
#[test]
fn a_fetch_is_taken_over_by_anothers_registry() {
    let front = Front::new(noisy(2_000_000, 95));
    let second = FaultProxy::before(&front.registry.address());
    let layer = front.image.layers[0].clone();
    slow(&front.proxy, &layer);
    front.proxy.make(1, "GET", &layer, Trouble::CutEvery(900_000));
    let host = hasty("attempts = 2\n");
    let (name, other) = (front.name(), second.reference("app"));
    let pull = |name| ["images", "pull", "--plain-http", name];
    let mut first = begin(&host, &front.proxy, &layer, &pull(&name));
    let mut waiting = host.command(&pull(&other)).stderr(Stdio::inherit()).spawn().unwrap();
    host.until("the second one is on its way", || second.count("GET", "/manifests/") > 0);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(second.count("GET", &layer), 0, "it is fetched twice");
    front.proxy.make(ALWAYS, "", "", Trouble::Reset);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(waiting.wait().unwrap().success());
    assert_eq!(digest_of(&host, &other), front.image.manifest);
    assert_eq!(host.ids(&["images", "ls"]), [other]);
    let (one, two) = (front.proxy.sent_of(&layer), second.sent_of(&layer));
    let size = front.image.blobs[&layer].len() as u64;
    assert!(one >= PIECE as u64 && two > 0, "{one} and {two}");
    assert!(one + two <= size + size / 10, "{one} and {two} bytes of {size}");
}
