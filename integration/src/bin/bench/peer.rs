//! How things are said to containerd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use capstan_integration::find;

use crate::daemon::{Dialect, Place};

/// containerd: Debian's, or what is in `CONTAINERD_BIN`.
#[derive(Debug)]
pub(crate) struct Containerd;

/// The runtimes that it is measured with.
pub(crate) const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Names of its columns, in the order of [`RUNTIMES`].
pub(crate) const NAMES: [&str; 2] = ["containerd+runc", "containerd+crun"];

/// What we do not have either, or what does not work here: it would only cost the peer.
const DISABLED: [&str; 10] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.nri.v1.nri",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
];

/// One of its programs.
pub(crate) fn program(name: &str) -> PathBuf {
    std::env::var_os("CONTAINERD_BIN")
        .map_or_else(|| find(name), |dir| PathBuf::from(dir).join(name))
}

impl Containerd {
    /// `ctr run` up to the image. Everything that we have on the disk, the peer has on the disk.
    fn run_command(&self, place: &Place, runtime: &str) -> Command {
        let mut command = self.client(place, &["run", "--null-io", "--runc-binary"]);
        command.arg(find(runtime)).arg("--runc-root").arg(place.path("state/runtime"));
        command
    }
}

impl Dialect for Containerd {
    fn configure(&self, place: &Place) {
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {DISABLED:?}\n\
             [grpc]\n  address = {:?}\n",
            place.path("root"),
            place.path("state"),
            place.socket(),
        );
        fs::write(place.path("config.toml"), text).expect("write a configuration");
    }

    fn daemon(&self, place: &Place) -> Command {
        let containerd = program("containerd");
        let dir = containerd.parent().expect("it is in a directory").display().to_string();
        let mut command = Command::new(&containerd);
        // Its shim is found in PATH.
        command.env("PATH", format!("{dir}:/usr/sbin:/usr/bin:/sbin:/bin"));
        command.arg("--config").arg(place.path("config.toml")).args(["--log-level", "warn"]);
        command
    }

    fn client(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = Command::new(program("ctr"));
        command.args(args).env("CONTAINERD_ADDRESS", place.socket());
        command.env("CONTAINERD_NAMESPACE", "bench").env("CONTAINERD_SNAPSHOTTER", "overlayfs");
        command
    }

    fn pull(&self, place: &Place, image: &str) -> Command {
        self.client(place, &["images", "pull", "--plain-http", image])
    }

    fn run(&self, place: &Place, runtime: &str, image: &str, id: &str) -> Command {
        let mut command = self.run_command(place, runtime);
        let cgroup = format!("{}/{id}", place.cgroup());
        command.args(["--rm", "--cgroup", &cgroup, image, id, "/bin/true"]);
        command
    }

    fn detach(&self, place: &Place, runtime: &str, image: &str, id: &str) -> Command {
        let mut command = self.run_command(place, runtime);
        let cgroup = format!("{}/{id}", place.cgroup());
        command.args(["--detach", "--cgroup", &cgroup, image, id, "/bin/sleep", "3600"]);
        command
    }

    fn list(&self, place: &Place) -> Command {
        self.client(place, &["tasks", "ls"])
    }

    fn running(&self) -> &'static str {
        " RUNNING"
    }

    fn remove(&self, place: &Place, ids: &[String]) -> Vec<Command> {
        [["tasks", "delete", "--force"].as_slice(), &["containers", "delete"]]
            .into_iter()
            .map(|words| {
                let mut command = self.client(place, words);
                command.args(ids);
                command
            })
            .collect()
    }

    fn shim(&self) -> &'static str {
        "containerd-shim-runc-v2"
    }
}
