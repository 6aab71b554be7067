//! A plugin that does what it must not: it is contained on a thread of the daemon, and in a process of its own.

use capstan_integration::{Host, Output};

use super::third_party::{build, place};
use super::{Bystander, QUICK, Status};

const ID: &str = "metrics.misbehaved";
const GAUGE: &str = "capstan_misbehaved_leaked_bytes{";

/// A daemon with the plugin in it.
struct Ward<'a> {
    host: &'a Host,
    /// How the daemon is told to load it.
    load: String,
}

impl<'a> Ward<'a> {
    /// `more` belongs to the section that loads the plugin.
    fn new(host: &'a mut Host, supervision: &str, more: &str) -> Self {
        let library = place(host, &build("misbehaved").join("libmetrics_misbehaved.so"));
        let load = format!("{supervision}[load.{ID:?}]\nlibrary = {library:?}\n{more}");
        host.configure(&load);
        host.start();
        Self { host, load }
    }

    fn write(&self, what: &str) {
        self.host.configure(&format!("{}[plugins.{ID:?}]\nwhat = {what:?}\n", self.load));
    }

    /// Has it do something from now on.
    fn tell(&self, what: &str) {
        self.write(what);
        self.host.ok(&["plugins", "reload"]);
        assert!(self.status().is_running(), "{what}: {:?}", self.status());
    }

    /// It behaves, and is well.
    fn recover(&self) {
        self.tell("behave");
        assert!(self.host.ok(&["metrics"]).contains(GAUGE));
    }

    fn status(&self) -> Status {
        Status::of(self.host, ID)
    }

    /// Calls it, which fails, while others go on; answers what was said.
    fn call_fails(&self, what: &str) -> Output {
        let output = self.host.capstan(&["--timeout", "30s", "metrics"]);
        assert_eq!(output.code, 7, "{what}: {output:?}");
        assert!(output.stderr.contains(&format!("no metrics from {ID}")), "{what}: {output:?}");
        assert!(output.stdout.contains("capstan_process_resident_bytes"), "{what}: {output:?}");
        assert!(!output.stdout.contains(GAUGE), "{what}: {output:?}");
        output
    }

    /// It ends by a call, and is there again; the reason is told.
    fn ends_by_call(&self, what: &str, reason: &str) {
        self.tell(what);
        let before = self.status().restarts;
        self.call_fails(what);
        self.is_there_again(what, before, reason);
    }

    /// It takes more memory than it may in a call. That is looked at twice a second, so the call may have
    /// been answered.
    fn ends_by_leak(&self, reason: &str) {
        self.tell("leak");
        let before = self.status().restarts;
        let output = self.host.capstan(&["--timeout", "30s", "metrics"]);
        assert!([0, 7].contains(&output.code), "leak: {output:?}");
        assert!(output.stdout.contains("capstan_process_resident_bytes"), "leak: {output:?}");
        self.is_there_again("leak", before, reason);
    }

    fn is_there_again(&self, what: &str, before: u64, reason: &str) {
        self.host.until("it is there again", || {
            let status = self.status();
            status.is_running() && status.restarts > before
        });
        let status = self.status();
        assert!(status.last_error.contains(reason), "{what}: {status:?}");
    }

    /// The configuration is refused and the plugin goes on as before.
    fn is_refused(&self, what: &str, code: i32, class: &str, reason: &str) {
        self.write(what);
        let parts = [ID, "all is as before", reason];
        self.host.fails(&["plugins", "reload"], code, class, &parts);
        assert!(self.status().is_running(), "{what}: {:?}", self.status());
        assert!(self.host.ok(&["metrics"]).contains(GAUGE), "{what}");
    }
}

#[test]
fn on_a_thread_of_the_daemon_it_is_contained() {
    let mut host = Host::without_daemon(4096);
    let ward = Ward::new(&mut host, QUICK, "");
    let bystander = Bystander::start(ward.host);
    assert_eq!(ward.status().source, "cdylib");
    ward.recover();

    ward.ends_by_call("panic-in-call", "panicked: it panicked in a call, as it was told to");
    bystander.check("a panic in a call");
    ward.recover();

    ward.ends_by_call("hang", "it hangs");
    bystander.check("a call that never ends");
    ward.recover();

    ward.tell("huge");
    ward.call_fails("huge");
    bystander.check("a huge answer");
    ward.recover();

    let before = ward.status().restarts;
    ward.tell("unwell");
    ward.host.until("it is ended as unwell", || ward.status().restarts > before + 1);
    assert!(ward.status().last_error.contains("it is unwell"), "{:?}", ward.status());
    bystander.check("a plugin that is unwell");
    ward.recover();

    ward.is_refused("panic-in-build", 1, "Internal", "it panicked in build");
    ward.is_refused("refuse", 6, "FailedPrecondition", "it refused, as it was told to");
    ward.write("nonsense");
    ward.host.fails(&["plugins", "reload"], 5, "InvalidArgument", &[ID, "`nonsense`"]);
    assert!(ward.status().is_running());
    bystander.check("a plugin that cannot be made");

    ward.tell("panic-in-drop");
    assert!(ward.host.ok(&["metrics"]).contains(GAUGE));
    ward.recover();
    bystander.check("a panic on drop");
    bystander.end();
}

#[test]
fn in_a_process_of_its_own_it_is_contained() {
    let mut host = Host::without_daemon(4096);
    let supervision = "[supervision]\nhealth_interval_ms = 200\nhealth_deadline_ms = 3000\n";
    let limited = format!("isolated = true\nmemory_limit_bytes = {}\n", 256 << 20);
    let ward = Ward::new(&mut host, supervision, &limited);
    let bystander = Bystander::start(ward.host);
    assert_eq!(ward.status().source, "remote");
    ward.recover();

    ward.ends_by_call("abort", "signal: 6");
    bystander.check("an abort");
    ward.recover();

    ward.ends_by_leak("bytes of memory, and may take 268435456");
    bystander.check("a leak");
    ward.recover();

    ward.ends_by_call("panic-in-call", "it panicked in a call");
    bystander.check("a panic in a call");
    ward.recover();

    ward.ends_by_call("hang", "it hangs");
    bystander.check("a call that never ends");
    ward.recover();

    ward.is_refused("panic-in-build", 1, "Internal", "it panicked in build");
    ward.tell("panic-in-drop");
    ward.recover();
    bystander.check("a panic on drop");
    bystander.end();
}

#[test]
fn one_that_cannot_be_made_does_not_stop_the_boot() {
    let mut host = Host::without_daemon(512);
    let library = place(&host, &build("misbehaved").join("libmetrics_misbehaved.so"));
    let load = format!("[load.{ID:?}]\nlibrary = {library:?}\n");
    host.configure(&format!("{load}[plugins.{ID:?}]\nwhat = \"panic-in-build\"\n"));
    host.start();
    let status = Status::of(&host, ID);
    assert_eq!(status.state, "failed", "{status:?}");
    assert!(status.last_error.contains("it panicked in build"), "{status:?}");
    host.ok(&["images", "ls"]);
    host.configure(&load);
    host.ok(&["plugins", "reload"]);
    assert!(Status::of(&host, ID).is_running());
}
