//! Tests in namespaces of their own, for what could do harm to the machine if it went wrong.

use std::process::Command;

use crate::disk::succeed;
use crate::find;

/// Set inside.
const INSIDE: &str = "CAPSTAN_TEST_IS_SECLUDED";

/// Runs the body of a test in a pid and a mount namespace of its own: no process outside can be reached
/// from there, and what is left inside ends with it.
///
/// The test runs itself once more to get there. `name` is that of the test, with its module.
///
/// # Panics
/// The body did.
pub fn secluded(name: &str, body: impl FnOnce()) {
    inside(name, &[], body);
}

/// The same, with a network of its own: the loopback, which also has these addresses. To whomever talks to them, they
/// are elsewhere.
///
/// # Panics
/// The body did.
pub fn secluded_from_networks(name: &str, addresses: &[&str], body: impl FnOnce()) {
    inside(name, &["--net"], || {
        let ip = |args: &[&str]| succeed(Command::new(find("busybox")).arg("ip").args(args));
        ip(&["link", "set", "lo", "up"]);
        for address in addresses {
            ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        body();
    });
}

fn inside(name: &str, more: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    // The shell is the first process there, and takes in those that lose their parents.
    let status = Command::new(find("unshare"))
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(more)
        .args(["sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(std::env::current_exe().expect("find our own program"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("run unshare");
    assert!(status.success(), "{name}, in namespaces of its own: {status}");
}
