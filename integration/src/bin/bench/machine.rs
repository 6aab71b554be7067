//! What the figures are of.

use std::process::Command;

use capstan_integration::{find, program};

use crate::peer;

/// The machine and the programs, as `(name, value)`.
#[derive(Debug)]
pub(crate) struct Machine(pub(crate) Vec<(&'static str, String)>);

impl Machine {
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
        Self(vec![
            ("cores", cores.to_string()),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("load before", load),
            ("capstan", revision()),
            ("containerd", version(Command::new(peer::program("containerd")).arg("--version"))),
            ("runc", version(Command::new(find("runc")).arg("--version"))),
            ("crun", version(Command::new(find("crun")).arg("--version"))),
        ])
    }
}

/// The first line that a program says.
fn version(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

/// What the client says of itself. It fails for want of a daemon after that, which is no matter.
fn revision() -> String {
    let mut command = Command::new(program("capstan"));
    command.args(["--address", "unix:///nowhere", "version"]);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    format!("{} {}", field("Version:"), field("Revision:"))
}
