//! A file system of our own: ext4 in a file, mounted by a loop device.
//!
//! The root file system of a machine under test may be slow, full or odd; this one is new each time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::find;

/// A mounted one; it goes when it is dropped.
#[derive(Debug)]
pub struct Disk {
    /// Holds the image and the mount point.
    _dir: TempDir,
    path: PathBuf,
}

impl Disk {
    /// A fresh ext4 of `mib` MiB. The file is sparse: only what is written takes space.
    pub fn ext4(mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("capstan-").tempdir().expect("make a directory");
        let image = dir.path().join("disk.img");
        File::create(&image)
            .and_then(|file| file.set_len(mib << 20))
            .unwrap_or_else(|error| panic!("make {}: {error}", image.display()));
        let path = dir.path().join("d");
        std::fs::create_dir(&path).expect("make a mount point");
        succeed(Command::new(find("mkfs.ext4")).args(["-q", "-F"]).arg(&image));
        succeed(Command::new(find("mount")).args(["-o", "loop"]).arg(&image).arg(&path));
        Self { _dir: dir, path }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::empty()) {
            eprintln!("unmount {}: {error}; it is detached", self.path.display());
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
    }
}

/// Runs a command that must succeed.
pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
