//! Runtimes without any daemon: what is left when it costs nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use capstan_integration::{Disk, find};
use serde_json::{Value, json};

use crate::{seclusion, timed};

/// Names of their columns, in the order of [`peer::RUNTIMES`].
pub(crate) const NAMES: [&str; 2] = ["bare runc", "bare crun"];

/// A root filesystem with busybox in it, and a bundle for each of those who run at the same time.
#[derive(Debug)]
pub(crate) struct Bundles {
    disk: Disk,
}

impl Bundles {
    pub(crate) fn new(count: usize) -> Self {
        let disk = Disk::ext4(256);
        let rootfs = disk.path().join("rootfs");
        for dir in ["bin", "dev", "proc", "sys"] {
            fs::create_dir_all(rootfs.join(dir)).expect("make a root filesystem");
        }
        fs::copy(find("busybox"), rootfs.join("bin/busybox")).expect("copy busybox");
        symlink("busybox", rootfs.join("bin/true")).expect("make a link");
        let bundles = Self { disk };
        for number in 0..count {
            bundles.make(number);
        }
        bundles
    }

    fn bundle(&self, number: usize) -> PathBuf {
        self.disk.path().join(number.to_string())
    }

    /// runc's own default, with another command.
    fn make(&self, number: usize) {
        let dir = self.bundle(number);
        fs::create_dir(&dir).expect("make a bundle");
        timed::run(Command::new(find("runc")).args(["spec", "--bundle"]).arg(&dir))
            .expect("runc makes a specification");
        let path = dir.join("config.json");
        let text = fs::read(&path).expect("runc made it");
        let mut spec: Value = serde_json::from_slice(&text).expect("it is JSON");
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["root"] = json!({ "path": self.disk.path().join("rootfs"), "readonly": false });
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/bare-{number}", seclusion::cgroup()));
        fs::write(&path, spec.to_string()).expect("write a specification");
    }

    /// Runs the bundle of this number to its end.
    pub(crate) fn run(&self, runtime: &str, number: usize) -> Result<timed::Ended, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("bare{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(find(runtime));
        command.arg("--root").arg(self.disk.path().join("state")).arg("run");
        command.arg("--bundle").arg(self.bundle(number)).arg(id);
        timed::run(&mut command)
    }
}
