//! A verifier that dies, hangs, forgets or is late: nothing gets a name by that, and the daemon goes on.

use std::cell::Cell;
use std::process::Child;
use std::time::{Duration, Instant};

use capstan_integration::process::signal;
use capstan_integration::{FakeRegistry, Host, Image, Layer};
use rustix::process::Signal;
use serde_json::Value;

use crate::outside::third_party::{build, place};

const ID: &str = "verifier.misbehaved";

/// A daemon that must ask the verifier.
struct Ward {
    host: Host,
    registry: FakeRegistry,
    /// How the daemon is told to load it.
    load: String,
    pulls: Cell<u32>,
    daemon: u32,
}

impl Ward {
    /// `more` belongs to the section that loads the plugin.
    fn new(supervision: &str, more: &str) -> Self {
        let mut host = Host::without_daemon(1024);
        let library = place(&host, &build("misbehaved").join("examples/libverifier.so"));
        let load = format!("{supervision}[load.{ID:?}]\nlibrary = {library:?}\n{more}");
        host.configure(&section(&load, "behave", 30));
        host.start();
        let daemon = host.daemon_pid();
        Self { host, registry: FakeRegistry::start(), load, pulls: Cell::new(0), daemon }
    }

    /// Has it do something from now on, for which it has so many seconds.
    fn tell(&self, what: &str, seconds: u32) {
        self.host.configure(&section(&self.load, what, seconds));
        self.host.ok(&["plugins", "reload"]);
        assert_eq!(self.status()["state"], "running", "{what}: {}", self.status());
    }

    fn status(&self) -> Value {
        self.host.json(&["plugins", "inspect", ID])
    }

    fn restarts(&self) -> u64 {
        self.status()["restarts"].as_u64().unwrap()
    }

    fn pid(&self) -> u32 {
        self.status()["pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap()
    }

    /// An image that nobody has seen, offered by the registry.
    fn offer(&self) -> (String, Image) {
        let number = self.pulls.replace(self.pulls.get() + 1).to_string();
        let image = Image::new(vec![Layer::new().file("what", 0o644, number.as_bytes())]);
        (self.registry.offer(&format!("app{number}"), &image), image)
    }

    /// Begins to pull something.
    fn begin(&self, name: &str) -> Child {
        self.host.command(&["images", "pull", "--plain-http", name]).spawn().unwrap()
    }

    /// Waits until it has a question in its hands.
    fn until_asked(&self) {
        self.host.until("it is asked", || self.status()["mailbox"].as_u64() > Some(0));
    }

    /// Nothing has a name or came that had none before, and all others go on.
    fn assert_nothing_came(&self, image: &Image) {
        let digests = self.host.ids(&["content", "ls"]);
        for digest in image.blobs.keys() {
            assert!(!digests.contains(digest), "{digest} is here");
        }
        let named = self.host.json(&["images", "ls"]).to_string();
        assert!(!named.contains(&image.manifest), "{named}");
        assert_eq!(self.host.ids(&["content", "active"]), Vec::<String>::new());
        assert_eq!(self.host.daemon_pid(), self.daemon);
    }

    /// A pull is refused in one line; the same pull works as soon as the verifier is well.
    fn refuses(&self, what: &str, seconds: u32, code: i32, class: &str, parts: &[&str]) {
        self.tell(what, seconds);
        let (name, image) = self.offer();
        let mut all = vec![name.as_str(), ID];
        all.extend(parts);
        let begun = Instant::now();
        self.host.fails(&["images", "pull", "--plain-http", &name], code, class, &all);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", begun.elapsed());
        self.assert_nothing_came(&image);
        self.tell("behave", 30);
        self.lets(&name, &image);
    }

    fn lets(&self, name: &str, image: &Image) {
        self.host.ok(&["images", "pull", "--plain-http", name]);
        assert_eq!(crate::archive::digest_of(&self.host, name), image.manifest);
    }
}

fn section(load: &str, what: &str, seconds: u32) -> String {
    format!(
        "{load}[plugins.{ID:?}]\nwhat = {what:?}\n\
         [plugins.\"images.local\"]\nverifiers = [{ID:?}]\nverifier_timeout_seconds = {seconds}\n"
    )
}

/// It fails, in one line that says why.
fn assert_fails(pull: Child, class: &str, parts: &[&str]) {
    let output = pull.wait_with_output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with(&format!("capstan: {class}: ")), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

const SILENT: &str = "could not be asked, so it is refused";

const BROKE_OFF: &str = "broke off while it handled a call";

#[test]
fn one_that_fails_or_dies_or_says_nothing_refuses() {
    let ward = Ward::new("", "");
    ward.refuses("fail", 30, 1, "Internal", &[SILENT, "out of order, as it was told to"]);
    for what in ["panic-in-call", "panic-in-ask"] {
        let before = ward.restarts();
        ward.refuses(what, 30, 7, "Unavailable", &[SILENT, BROKE_OFF]);
        assert!(ward.restarts() > before, "{what}: it has another instance");
        let log = ward.host.log();
        assert!(log.contains("panicked: it panicked in a call, as it was told to"), "{log}");
    }
    // It is well otherwise, so nobody ends it.
    let before = ward.restarts();
    ward.refuses("forget", 1, 7, "Unavailable", &[SILENT, "no answer within 1s"]);
    assert_eq!(ward.restarts(), before);
    // On its thread it hears nobody any more: who waits for an answer is told before anybody ends it.
    ward.refuses("hang", 1, 7, "Unavailable", &[SILENT, "no answer within 1s"]);
}

#[test]
fn an_answer_that_comes_too_late_gives_no_name() {
    let ward = Ward::new("", "");
    ward.tell("late", 1);
    let (name, image) = ward.offer();
    let parts = [name.as_str(), ID, SILENT, "no answer within 1s", "verifier_timeout_seconds"];
    ward.host.fails(&["images", "pull", "--plain-http", &name], 7, "Unavailable", &parts);
    // Its answer would have come by now.
    std::thread::sleep(Duration::from_millis(2500));
    ward.assert_nothing_came(&image);
    // Who gives it longer has its answer.
    ward.tell("late", 30);
    let begun = Instant::now();
    ward.lets(&name, &image);
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was asked");
}

#[test]
fn one_that_hangs_is_ended_and_those_who_wait_are_told() {
    let ward =
        Ward::new("[supervision]\nhealth_interval_ms = 100\nhealth_deadline_ms = 1000\n", "");
    let before = ward.restarts();
    ward.refuses("hang", 60, 7, "Unavailable", &[SILENT, BROKE_OFF]);
    assert!(ward.restarts() > before);
    assert!(ward.host.log().contains("it hangs: no answer within 1s"), "{}", ward.host.log());
}

#[test]
fn a_process_that_is_killed_refuses_what_it_was_asked() {
    let ward = Ward::new("", "isolated = true\n");
    assert_eq!(ward.status()["source"], "remote");
    ward.refuses("abort", 30, 7, "Unavailable", &[SILENT, BROKE_OFF]);
    assert!(ward.host.log().contains("signal: 6"), "{}", ward.host.log());

    // The next instance is asked once more, and is killed as well.
    ward.tell("forget", 60);
    let (name, image) = ward.offer();
    let pull = ward.begin(&name);
    ward.until_asked();
    let (first, before) = (ward.pid(), ward.restarts());
    signal(first, Signal::KILL);
    ward.host.until("there is another one", || ward.restarts() > before);
    ward.until_asked();
    let second = ward.pid();
    assert_ne!(first, second);
    signal(second, Signal::KILL);
    assert_fails(pull, "Unavailable", &[&name, ID, SILENT, BROKE_OFF]);
    ward.assert_nothing_came(&image);
    ward.tell("behave", 30);
    ward.lets(&name, &image);

    // One that is killed between two questions is there again for the next one: nobody is refused for that.
    for _ in 0..3 {
        let (name, image) = ward.offer();
        signal(ward.pid(), Signal::KILL);
        ward.lets(&name, &image);
    }
}

#[test]
fn one_that_was_given_up_refuses_until_it_is_well() {
    let ward = Ward::new("", "");
    let broken = ward.host.path("broken");
    let what = "what = \"panic-in-call\"\n";
    let section = section(&ward.load, "panic-in-call", 30);
    ward.host.configure(&section.replace(what, &format!("{what}broken_by = {broken:?}\n")));
    ward.host.ok(&["plugins", "reload"]);
    std::fs::write(&broken, "").unwrap();
    let (name, image) = ward.offer();
    let pull = ["images", "pull", "--plain-http", &name];
    // It dies of the question, and there is no other one for now.
    ward.host.fails(&pull, 7, "Unavailable", &[&name, ID, SILENT]);
    ward.host.until("it is given up", || ward.status()["state"] == "failed");
    let parts = [ID, "failed", "it is broken, as it was told to", "restart it"];
    ward.host.fails(&pull, 6, "FailedPrecondition", &parts);
    ward.assert_nothing_came(&image);
    std::fs::remove_file(&broken).unwrap();
    ward.host.ok(&["plugins", "restart", ID]);
    ward.tell("behave", 30);
    ward.lets(&name, &image);
}

#[test]
fn one_that_never_came_up_refuses() {
    let mut ward = Ward::new("", "");
    let broken = ward.host.path("broken");
    std::fs::write(&broken, "").unwrap();
    let what = "what = \"behave\"\n";
    // It need not be in the list of those that must be asked: it is set up.
    let section = section(&ward.load, "behave", 30).replace("verifiers =", "# verifiers =");
    ward.host.configure(&section.replace(what, &format!("{what}broken_by = {broken:?}\n")));
    ward.host.kill();
    ward.host.start();
    ward.daemon = ward.host.daemon_pid();
    let (name, image) = ward.offer();
    let parts = [ID, "failed", "it is broken, as it was told to"];
    let pull = ["images", "pull", "--plain-http", &name];
    ward.host.fails(&pull, 6, "FailedPrecondition", &parts);
    ward.assert_nothing_came(&image);
    std::fs::remove_file(&broken).unwrap();
    ward.host.ok(&["plugins", "restart", ID]);
    ward.lets(&name, &image);
}
