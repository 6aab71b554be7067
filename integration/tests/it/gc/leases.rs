//! Leases, which have a name and may expire, and holds, which end with the connection that has them.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use capstan_client::Client;
use capstan_client::schema::leases_capnp::{hold, leases};
use capstan_integration::process::signal;
use capstan_integration::{FakeRegistry, Host, digest};
use rustix::process::Signal;

use super::{as_resources, assert_sound, blobs, collect, content, image, pull, snapshots, top_of};

/// Stores bytes that nothing names; answers their digest.
fn ingest(host: &Host, bytes: &[u8]) -> String {
    let name = digest(bytes);
    let output = host.capstan_with_input(&["content", "ingest", &name], bytes);
    assert_eq!(output.code, 0, "{}", output.stderr);
    name
}

#[test]
fn a_lease_keeps_what_was_added_to_it_until_it_is_removed() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    let (layers, top) = (image("a").layers, top_of(&host));
    assert_eq!(host.ok(&["leases", "create", "--id", "one"]), "one\n");
    host.fails(&["leases", "create", "--id", "one"], 4, "AlreadyExists", &["one"]);
    host.ok(&["leases", "add", "one", &format!("content/{}", layers[1])]);
    host.ok(&["leases", "add", "one", &format!("snapshot/overlay/{top}")]);
    host.ok(&["leases", "create", "--id", "two"]);
    host.ok(&["leases", "add", "two", &format!("image/{a}")]);

    let list = host.ok(&["leases", "ls"]);
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "CREATED", "EXPIRES"]);
    assert_eq!((rows[1][0], rows[1].last(), rows[2][0]), ("one", Some(&"never"), "two"), "{list}");
    assert_eq!(host.ids(&["leases", "ls"]), ["one", "two"]);
    let mut kept = [format!("content/{}", layers[1]), format!("snapshot/overlay/{top}")];
    kept.sort();
    let resources = host.ok(&["leases", "resources", "one"]);
    assert_eq!(resources.lines().collect::<Vec<_>>(), kept);
    let why = host.ok(&["system", "why", &layers[1]]);
    assert!(why.contains("lease/one") && why.contains(&format!("image/{a}")), "{why}");

    // An image is a name, which goes when it is told to, whatever keeps it.
    host.ok(&["images", "rm", &a]);
    let mut gone = as_resources(&blobs("a"));
    gone.remove(&format!("content/{}", layers[1]));
    assert_eq!(collect(&host), gone);
    assert_eq!(snapshots(&host).len(), 2, "the layer that is named, and what it stands on");

    host.ok(&["leases", "rm", "one", "two"]);
    host.fails(&["leases", "rm", "one"], 3, "NotFound", &["one"]);
    host.fails(&["leases", "resources", "one"], 3, "NotFound", &["one"]);
    host.fails(&["leases", "add", "one", &format!("content/{top}")], 3, "NotFound", &["one"]);
    assert_eq!(collect(&host).len(), 3);
    assert_eq!((content(&host), snapshots(&host)), Default::default());
    assert_sound(&host);
    let events = host.ok(&["events", "--no-follow", "/leases/"]);
    for topic in ["/leases/create", "/leases/delete"] {
        assert_eq!(events.lines().filter(|line| line.contains(topic)).count(), 2, "{events}");
    }
}

#[test]
fn a_lease_that_has_expired_keeps_nothing_and_is_gone() {
    let mut host = Host::new();
    let blob = ingest(&host, b"kept for a while");
    host.ok(&["leases", "create", "--id", "short", "--expire", "3s"]);
    host.ok(&["leases", "add", "short", &format!("content/{blob}")]);
    host.ok(&["leases", "create", "--id", "long", "--expire", "1h"]);
    assert_eq!(collect(&host), BTreeSet::new());
    // It is in the metadata: a daemon that was killed has not forgotten it, nor when it ends.
    host.kill();
    host.start();
    assert_eq!(host.ids(&["leases", "ls"]), ["long", "short"]);
    host.until("it expires", || host.ids(&["leases", "ls"]) == ["long"]);
    host.fails(&["leases", "resources", "short"], 3, "NotFound", &["short"]);
    host.fails(&["leases", "rm", "short"], 3, "NotFound", &["short"]);
    assert_eq!(collect(&host), as_resources(&BTreeSet::from([blob])));
    // Its name is free.
    host.ok(&["leases", "create", "--id", "short"]);
    assert_sound(&host);
}

#[test]
fn leases_are_of_a_namespace_and_refuse_what_is_none() {
    let host = Host::new();
    let blob = ingest(&host, b"in one of them");
    let resource = format!("content/{blob}");
    host.ok(&["namespaces", "create", "other"]);
    host.ok(&["--namespace", "other", "leases", "create", "--id", "l"]);
    host.ok(&["--namespace", "other", "leases", "add", "l", &resource]);
    host.fails(&["leases", "resources", "l"], 3, "NotFound", &["l"]);
    assert_eq!(collect(&host), BTreeSet::from([resource.clone()]), "another namespace's lease");
    host.ok(&["leases", "create", "--id", "l"]);
    for wrong in ["", "content/x", "pod/x", "snapshot/overlay", "container/web", "ingest/x"] {
        host.fails(&["leases", "add", "l", wrong], 5, "InvalidArgument", &[]);
    }
    for wrong in ["a/b", "..", "-"] {
        let id = format!("--id={wrong}");
        host.fails(&["leases", "create", &id], 5, "InvalidArgument", &["lease"]);
    }
    assert_eq!(host.ok(&["leases", "resources", "l"]), "");
    // One without a name gets one.
    let made = host.ok(&["leases", "create"]);
    assert!(host.ids(&["leases", "ls"]).contains(&made.trim().to_owned()));
    // What it keeps need not be there yet.
    host.ok(&["leases", "add", "l", &resource]);
    ingest(&host, b"in one of them");
    assert_eq!(collect(&host), BTreeSet::new());
}

fn in_session<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn take_hold(client: &Client, owner: &str) -> hold::Client {
    let service: leases::Client = client.open("leases", "default");
    let mut request = service.hold_request();
    request.get().set_owner(owner);
    let response = client.call(request.send().promise).await.unwrap();
    capstan_client::check!(response.get().unwrap()).unwrap().get_hold().unwrap()
}

#[test]
fn while_a_hold_is_held_what_is_used_meanwhile_is_kept() {
    let host = Host::new();
    let old = ingest(&host, b"before");
    let found = ingest(&host, b"before, and found meanwhile");
    in_session(async {
        let client = Client::connect(&host.address()).await.unwrap();
        let (first, second) =
            (take_hold(&client, "the first").await, take_hold(&client, "b").await);
        let new = ingest(&host, b"meanwhile");
        ingest(&host, b"before, and found meanwhile");
        assert_eq!(collect(&host), as_resources(&BTreeSet::from([old])));
        let kept = BTreeSet::from([new, found]);
        assert_eq!(content(&host), kept);
        let why = host.ok(&["system", "why", kept.first().unwrap()]);
        assert!(why.contains("the first"), "{why}");
        // The capability is dropped: that is an end, and the other one began before both were used.
        drop(first);
        client.call(async { Ok(()) }).await.unwrap();
        assert_eq!(collect(&host), BTreeSet::new());
        drop(second);
        // The daemon hears of it when the connection has its turn.
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if !collect(&host).is_empty() {
                break;
            }
        }
        assert_eq!(content(&host), BTreeSet::new());
    });
    assert_sound(&host);
}

/// What the test does in a process of its own, so that it can be killed: it holds, says so, and waits.
const HOLDER: &str = "CAPSTAN_TEST_HOLDS_AT";

struct Holder(Child);

impl Holder {
    fn start(host: &Host) -> Self {
        let name = "gc::leases::a_hold_ends_with_its_client_even_if_that_is_killed";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env(HOLDER, host.address());
        command.env("CAPSTAN_TEST_HOLDS", host.path("held"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let holder = Self(command.spawn().expect("start a client"));
        host.until("it is held", || host.path("held").exists());
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hold_until_killed(address: &str) -> ! {
    in_session(async {
        let client = Client::connect(address).await.unwrap();
        let hold = take_hold(&client, "a client that is killed").await;
        std::fs::write(std::env::var_os("CAPSTAN_TEST_HOLDS").unwrap(), "").unwrap();
        // It answers when the hold is broken, or nobody is there any more.
        let _ = hold.broken_request().send().promise.await;
    });
    std::process::exit(1);
}

#[test]
fn a_hold_ends_with_its_client_even_if_that_is_killed() {
    if let Ok(address) = std::env::var(HOLDER) {
        hold_until_killed(&address);
    }
    let host = Host::new();
    let mut holder = Holder::start(&host);
    let blob = ingest(&host, b"meanwhile");
    assert_eq!(collect(&host), BTreeSet::new());
    signal(holder.0.id(), Signal::KILL);
    holder.0.wait().unwrap();
    host.until("the hold has ended", || !collect(&host).is_empty());
    assert_eq!(content(&host), BTreeSet::new());
    assert_ne!(blob, "");
    assert_sound(&host);
}

/// The plugin that holds are in is restarted: whoever holds hears that it must begin anew.
#[test]
fn a_hold_is_broken_when_its_plugin_ends() {
    let host = Host::new();
    in_session(async {
        let client = Client::connect(&host.address()).await.unwrap();
        let hold = take_hold(&client, "a").await;
        let broken = hold.broken_request().send().promise;
        tokio::pin!(broken);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut broken).await;
        assert!(early.is_err(), "it is held");
        host.ok(&["plugins", "restart", "leases.local"]);
        let told = tokio::time::timeout(Duration::from_secs(20), broken).await;
        told.expect("it is told").expect("as an answer, not as a broken connection");
        take_hold(&client, "b").await;
    });
}
