//! A daemon at work, watched.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::sleep;
use std::time::Duration;

use capstan_integration::{DockerRegistry, Host, process, program};
use rustix::process::Signal;

use crate::functions::Program;
use crate::script::PARTS;
use crate::trace::{self, Hit};

/// The last phase, of which nothing is kept: the daemon ends.
const END: usize = PARTS.len();

/// How long it is left alone after boot.
const IDLE: Duration = Duration::from_secs(6);

/// Runs the daemon; answers which functions it used, and when.
pub(crate) fn observe(program: &Program) -> Vec<Hit> {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::without_daemon(1024);
    let phase = AtomicUsize::new(0);
    let (tell, started) = mpsc::channel();
    std::thread::scope(|scope| {
        // Who starts it traces it, and waits for it alone.
        let tracer = scope.spawn(|| trace::trace(daemon(&host), program, &phase, &tell));
        let ender = Ender(started.recv().expect("the daemon starts"));
        let socket = host.path("capstan.sock");
        host.until("the daemon listens", || socket.exists());
        host.until("the daemon answers", || host.capstan(&["health"]).code == 0);
        // Some of its plugins start a little later, and some look after things once they have started.
        sleep(IDLE);
        phase.store(1, Ordering::Relaxed);
        work(&host, &registry.reference("busybox"));
        phase.store(END, Ordering::Relaxed);
        drop(ender);
        tracer.join().expect("the tracer does not panic")
    })
}

/// Ends the daemon, also when what it was asked did not work.
struct Ender(u32);

impl Drop for Ender {
    fn drop(&mut self) {
        process::signal(self.0, Signal::TERM);
    }
}

/// A daemon that waits to be traced before it is one.
fn daemon(host: &Host) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\" --log-level warn --config \"$1\""]);
    command.arg(program("capstand")).arg(host.config());
    command.stdin(Stdio::null());
    command
}

/// What users do every day.
fn work(host: &Host, image: &str) {
    for args in [&["version"][..], &["info"], &["plugins", "ls"]] {
        host.ok(args);
    }
    host.ok(&["images", "pull", "--plain-http", image]);
    host.ok(&["run", "--rm", image, "--", "echo", "hello"]);
    let names = ["one", "two", "three"];
    for name in names {
        host.ok(&["run", "--detach", "--null-io", "--name", name, image, "--", "sleep", "1000"]);
    }
    host.ok(&["tasks", "exec", names[0], "true"]);
    let lists = ["images", "content", "snapshots", "containers", "tasks", "namespaces", "leases"];
    for list in lists {
        host.ok(&[list, "ls"]);
    }
    host.ok(&["containers", "inspect", names[0]]);
    host.ok(&["metrics"]);
    host.ok(&["events", "--since", "0", "--no-follow"]);
    host.ok(&["tasks", "kill", "--signal", "KILL", names[0]]);
    host.capstan(&["tasks", "wait", names[0]]);
    for name in names {
        host.remove(name);
    }
    host.ok(&["gc"]);
}
