//! How things are said to capstan.

use std::fs;
use std::process::Command;

use capstan_integration::program;

use crate::daemon::{Dialect, Place};

/// capstan, as `cargo xtask build` made it.
#[derive(Debug)]
pub(crate) struct Capstan;

/// Its runtimes; the first is what a user gets who does not choose.
pub(crate) const RUNTIMES: [&str; 3] = ["embedded", "runc", "crun"];

impl Dialect for Capstan {
    fn configure(&self, place: &Place) {
        // As quiet as the peer is told to be.
        let text = format!(
            "root = {:?}\nstate = {:?}\naddress = \"unix://{}\"\nlog_level = \"warn\"\n\
             [plugins.\"containers.local\"]\ncgroup_parent = {:?}\n",
            place.path("root"),
            place.path("state"),
            place.socket().display(),
            place.cgroup(),
        );
        fs::write(place.path("config.toml"), text).expect("write a configuration");
    }

    fn daemon(&self, place: &Place) -> Command {
        let mut command = Command::new(program("capstand"));
        command.arg("--config").arg(place.path("config.toml"));
        command
    }

    fn client(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = Command::new(program("capstan"));
        let address = format!("unix://{}", place.socket().display());
        command.args(args).env("CAPSTAN_ADDRESS", address).env_remove("CAPSTAN_NAMESPACE");
        command
    }

    fn pull(&self, place: &Place, image: &str) -> Command {
        self.client(place, &["images", "pull", "--plain-http", image])
    }

    fn run(&self, place: &Place, runtime: &str, image: &str, _id: &str) -> Command {
        let args = ["run", "--rm", "--null-io", "--runtime", runtime, image, "/bin/true"];
        self.client(place, &args)
    }

    fn detach(&self, place: &Place, runtime: &str, image: &str, id: &str) -> Command {
        let mut command = self.client(place, &["run", "--detach", "--null-io", "--name", id]);
        command.args(["--runtime", runtime, image, "/bin/sleep", "3600"]);
        command
    }

    fn list(&self, place: &Place) -> Command {
        self.client(place, &["tasks", "ls"])
    }

    fn running(&self) -> &'static str {
        " running "
    }

    fn remove(&self, place: &Place, ids: &[String]) -> Vec<Command> {
        let mut commands: Vec<Command> =
            ids.iter().map(|id| self.client(place, &["tasks", "delete", "--force", id])).collect();
        let mut last = self.client(place, &["containers", "rm"]);
        last.args(ids);
        commands.push(last);
        commands
    }

    fn shim(&self) -> &'static str {
        "capstan-shim"
    }
}
