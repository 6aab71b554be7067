//! Terminal sessions, as a person has them: in tmux.

use std::path::PathBuf;
use std::process::Command;

use capstan_integration::{DockerRegistry, Host, find, program};

/// What the shell in the window asks with.
const PROMPT: &str = "HOST$ ";

/// A tmux server of our own with one window.
pub(crate) struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    pub(crate) fn new(host: &Host, name: &str) -> Self {
        let tmux = Self { socket: host.path(&format!("tmux-{name}")) };
        let address = format!("CAPSTAN_ADDRESS={}", host.address());
        let prompt = format!("PS1={PROMPT}");
        let args = ["new-session", "-d", "-x", "100", "-y", "30", "-e", &address, "-e", &prompt];
        // In one word it would be a command of the user's own shell, which takes the prompt away.
        tmux.run(&[&args[..], &["sh", "-i"]].concat());
        // What is typed before the shell asks is echoed above its prompt, and answered behind it.
        let asks = || tmux.screen().starts_with(PROMPT.trim_end());
        host.until_or("the shell asks", asks, || tmux.screen());
        tmux
    }

    pub(crate) fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(find("tmux"));
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(args);
        let output = command.output().expect("run tmux");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "tmux {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    pub(crate) fn type_line(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.run(&["send-keys", "Enter"]);
    }

    pub(crate) fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Whether this line is on the screen; the prompt does not count, which may come after what was typed.
    pub(crate) fn shows(&self, line: &str) -> bool {
        let screen = self.screen();
        let mut lines = screen.lines().map(|seen| seen.trim_end().trim_start_matches(PROMPT));
        lines.any(|seen| seen == line)
    }

    /// Waits for a whole line on the screen.
    pub(crate) fn sees(&self, host: &Host, line: &str) {
        host.until_or(&format!("{line:?} is on the screen"), || self.shows(line), || self.screen());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new(find("tmux"));
        let _ = command.arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

#[test]
fn a_session_has_its_size_interrupts_detaches_and_comes_back() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    for runtime in ["embedded", "runc"] {
        let tmux = Tmux::new(&host, runtime);
        let capstan = program("capstan");
        let capstan = capstan.display();
        tmux.type_line(&format!(
            "{capstan} run -it --name term --runtime {runtime} {image} sh -c \
             'stty size; PS1=IN# exec sh'; echo host=$?"
        ));
        // The size that it begins with is right, too.
        tmux.sees(&host, "30 100");
        tmux.run(&["resize-window", "-x", "90", "-y", "25"]);
        host.until("the terminal has the new size", || {
            tmux.type_line("stty size");
            tmux.shows("25 90")
        });
        tmux.type_line("sleep 1000");
        host.until("it sleeps", || host.ok(&["tasks", "ps", "term"]).lines().count() == 3);
        tmux.run(&["send-keys", "C-c"]);
        tmux.type_line("echo status=$?");
        tmux.sees(&host, "status=130");
        tmux.type_line("X=kept");
        tmux.run(&["send-keys", "C-p"]);
        tmux.run(&["send-keys", "C-q"]);
        tmux.sees(&host, "detached; term goes on, attach again with: capstan tasks attach term");
        tmux.sees(&host, "host=0");
        assert_eq!(host.json(&["tasks", "inspect", "term"])["status"], "running");
        tmux.type_line(&format!("{capstan} tasks attach term; echo end=$?"));
        host.until("it is attached", || {
            tmux.type_line("echo again=$X");
            tmux.shows("again=kept")
        });
        tmux.type_line("exit 4");
        tmux.sees(&host, "end=4");
        host.remove("term");
    }
    host.assert_no_container();
}

#[test]
fn an_exec_has_a_terminal_and_detaches() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    host.ok(&["run", "-d", "--name", "base", &image, "sleep", "1000"]);
    let tmux = Tmux::new(&host, "exec");
    let capstan = program("capstan");
    let exec = format!("{} tasks exec -it base sh -c 'tty; exec sh'", capstan.display());
    tmux.type_line(&format!("{exec}; echo end=$?"));
    tmux.sees(&host, "/dev/pts/0");
    tmux.type_line("exit 9");
    tmux.sees(&host, "end=9");
    host.remove("base");
    host.assert_no_container();
}
