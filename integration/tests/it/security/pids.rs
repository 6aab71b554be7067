//! The number of a process that has ended is another's by now: no signal of ours reaches that one.

use std::fs;
use std::process::{Child, Command, Stdio};

use capstan_integration::{find, process};
use rustix::process::Signal;

use super::{RUNTIMES, Victim};

/// Set in the copy of this test that is alone in a pid namespace, where it says which number is the next.
const INSIDE: &str = "CAPSTAN_TEST_INSIDE";

#[test]
fn a_number_that_is_used_again_is_not_hit() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    // A shell is the first process there: it waits for orphans, whose numbers are free then.
    let script = "\"$0\" --exact security::pids::a_number_that_is_used_again_is_not_hit --nocapture & wait $!";
    let status = Command::new(find("unshare"))
        .args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "inside: {status}");
}

fn inside() {
    for runtime in RUNTIMES {
        let mut victim = Victim::new();
        let pid_of = |victim: &Victim| {
            let task = victim.host.json(&["tasks", "inspect", "c"]);
            u32::try_from(task["pid"].as_u64().unwrap()).unwrap()
        };
        // An exec that has ended and is still known: the daemon that would have forgotten it then was killed before.
        victim.start(runtime, "c", &[], &["sleep", "1000"]);
        victim.host.ok(&["tasks", "exec", "-d", "--exec-id", "e", "c", "sleep", "3"]);
        let ps = victim.host.json(&["tasks", "ps", "c"]);
        let of_exec = ps.as_array().unwrap().iter().find(|row| row["execId"] == "e").unwrap();
        let pid = u32::try_from(of_exec["pid"].as_u64().unwrap()).unwrap();
        victim.host.kill();
        victim.host.start();
        let mut canary = take(&victim, pid);
        let kill = ["tasks", "kill", "-s", "KILL", "--exec-id", "e", "c"];
        victim.host.fails(&kill, 6, "FailedPrecondition", &["ended"]);
        assert!(canary.try_wait().unwrap().is_none(), "{runtime}: an exec's number was hit");
        end(canary);

        // An init that has ended, and is deleted by force.
        let pid = pid_of(&victim);
        process::signal(pid, Signal::KILL);
        let mut canary = take(&victim, pid);
        victim.host.fails(
            &["tasks", "kill", "-s", "KILL", "c"],
            6,
            "FailedPrecondition",
            &["ended"],
        );
        victim.host.ok(&["tasks", "delete", "--force", "c"]);
        assert!(canary.try_wait().unwrap().is_none(), "{runtime}: an init's number was hit");
        end(canary);

        // An init that ended without a shim and without a daemon: there is only its number in a record.
        victim.host.ok(&["tasks", "start", "-d", "c"]);
        let (pid, shim) = (pid_of(&victim), victim.shim("c"));
        victim.host.kill();
        process::signal(shim, Signal::KILL);
        process::signal(pid, Signal::KILL);
        let mut canary = take(&victim, pid);
        victim.host.start();
        let inspect = || victim.host.json(&["tasks", "inspect", "c"]);
        victim.host.until("it is told as lost", || inspect()["status"] == "stopped");
        assert!(!inspect()["exit"]["lost"].as_str().unwrap_or_default().is_empty());
        victim.host.remove("c");
        assert!(canary.try_wait().unwrap().is_none(), "{runtime}: a lost init's number was hit");
        end(canary);
        victim.done();
    }
}

/// A process of ours with a number that another had, as soon as it is free.
fn take(victim: &Victim, pid: u32) -> Child {
    victim.host.until("the number is free", || !process::is_alive(pid));
    for _ in 0..1000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut sleep = Command::new(find("sleep"));
        let child = sleep.arg("1000").stdin(Stdio::null()).spawn().unwrap();
        if child.id() == pid {
            return child;
        }
        // Somebody else was quicker, or the number is not free yet.
        end(child);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the number {pid} cannot be had");
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
