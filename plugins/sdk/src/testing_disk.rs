//! A file system in a file, for tests of drivers that need a certain one. Feature `testing`.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{mount, tool};

/// A mounted one; it goes when it is dropped.
#[derive(Debug)]
pub struct LoopDisk {
    path: PathBuf,
    /// Holds the file and the mount point.
    _dir: tempfile::TempDir,
}

impl LoopDisk {
    /// A fresh one of `mib` MiB, made by `mkfs.<kind>`. The file is sparse.
    ///
    /// # Panics
    /// If it cannot be made or mounted: it needs root, loop devices and the program.
    pub fn new(kind: &str, mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("capstan-").tempdir().expect("a directory");
        let (image, path) = (dir.path().join("disk.img"), dir.path().join("d"));
        std::fs::create_dir(&path).expect("a mount point");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        let mkfs = tool::find(&format!("mkfs.{kind}"), "its tools").expect("mkfs");
        tool::run(&mkfs, [Path::new("-q"), &image]).expect("make a file system");
        let mount = tool::find("mount", "mount").expect("mount");
        let words = ["-o", "loop"].map(Path::new);
        tool::run(&mount, words.into_iter().chain([image.as_path(), path.as_path()]))
            .expect("mount it");
        Self { path, _dir: dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = mount::detach(&self.path);
    }
}
