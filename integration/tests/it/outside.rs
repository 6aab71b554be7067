//! Plugins from outside of the daemon's program, as somebody else would make them: good ones and bad ones.

mod bad_library;
mod misbehaved;
mod new_plugin;
mod other_compiler;
mod reflink;
pub(crate) mod third_party;

use capstan_integration::{DockerRegistry, Host};

/// With this a plugin that hangs is found out in less than a second.
const QUICK: &str = "[supervision]\nhealth_interval_ms = 200\nhealth_deadline_ms = 500\n";

/// State, restarts, source and last error of a plugin.
#[derive(Debug, PartialEq)]
struct Status {
    state: String,
    source: String,
    restarts: u64,
    last_error: String,
}

impl Status {
    fn of(host: &Host, id: &str) -> Self {
        let list = host.json(&["plugins", "ls"]);
        let plugins = list.as_array().expect("a list");
        let found = plugins.iter().find(|plugin| plugin["id"] == id);
        let found = found.unwrap_or_else(|| panic!("no plugin {id} in {list}"));
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Self {
            state: text("state"),
            source: text("source"),
            restarts: found["restarts"].as_u64().expect("a number"),
            last_error: text("lastError"),
        }
    }

    fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// A container that was there before something went wrong, and must not notice.
struct Bystander<'a> {
    host: &'a Host,
    pid: String,
    daemon: u32,
}

const BYSTANDER: &str = "bystander";

impl<'a> Bystander<'a> {
    fn start(host: &'a Host) -> Self {
        let registry = DockerRegistry::with(&["busybox"]);
        let image = registry.reference("busybox");
        host.ok(&["run", "-d", "--name", BYSTANDER, "--plain-http", &image, "sleep", "1000"]);
        Self { host, pid: pid(host), daemon: host.daemon_pid() }
    }

    /// The daemon is the same and answers, and so is and does the container.
    fn check(&self, what: &str) {
        assert_eq!(pid(self.host), self.pid, "{what}: the container is another one");
        let echo = self.host.ok(&["tasks", "exec", BYSTANDER, "echo", "here"]);
        assert_eq!(echo, "here\n", "{what}");
        let is_there = std::path::Path::new("/proc").join(self.daemon.to_string()).exists();
        assert!(is_there, "{what}: the daemon is another one");
    }

    fn end(self) {
        self.host.remove(BYSTANDER);
        self.host.assert_no_container();
    }
}

/// The process of the bystander, which runs.
fn pid(host: &Host) -> String {
    let list = host.ok(&["tasks", "ls"]);
    let row = list.lines().find(|line| line.split_whitespace().next() == Some(BYSTANDER));
    let words: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    assert_eq!(words.get(2), Some(&"running"), "{list}");
    words[1].to_owned()
}
