//! A file system of our own: ext4 or xfs in a file, mounted by a loop device.
//!
//! The root file system of a machine under test may be slow, full or odd; this one is new each time.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use rustix::fs::{major, minor};
use tempfile::TempDir;

use crate::find;

/// The directories of written disks that nobody uses.
static WRITTEN: Mutex<Vec<TempDir>> = Mutex::new(Vec::new());

/// A mounted one; it goes when it is dropped.
#[derive(Debug)]
pub struct Disk {
    /// Holds the image and the mount point; `None`: they are kept for the next one.
    dir: Option<TempDir>,
    path: PathBuf,
    is_mounted: bool,
    is_written: bool,
}

impl Disk {
    /// A fresh ext4 of `mib` MiB. The file is sparse: only what is written takes space.
    pub fn ext4(mib: u64) -> Self {
        Self::try_ext4(mib).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A fresh ext4 on an image whose blocks are all written, as those of a disk are: what is measured on it is not how
    /// fast the file system below gives blocks to a file. The image of one that was dropped is used again, whatever its
    /// size: gigabytes of memory that were just let go of and taken again make all that follows slower on virtual machines.
    /// The last one stays when the process ends.
    pub fn written_ext4(mib: u64) -> Self {
        let mut mkfs = Command::new(find("mkfs.ext4"));
        mkfs.args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]);
        let kept = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut disk = match kept {
            Some(dir) => Self::in_dir(dir),
            None => Self::with_image(&|file| write_zeros(file, mib)),
        };
        disk.is_written = true;
        disk.make_and_mount(&mut mkfs).unwrap_or_else(|error| panic!("{error}"));
        disk.assert_is_quick();
        disk
    }

    /// A loop device keeps what was set of its queue when it gets another file: nothing can be measured on one that somebody
    /// before has slowed down.
    fn assert_is_quick(&self) {
        let device = std::fs::metadata(&self.path).expect("look at the disk").dev();
        let limit =
            format!("/sys/dev/block/{}:{}/queue/max_sectors_kb", major(device), minor(device));
        let kib: u64 = std::fs::read_to_string(&limit)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_else(|| panic!("read {limit}"));
        assert!(kib >= 64, "the loop device takes {kib} KiB at once; write 1280 to {limit}");
    }

    /// The same as [`Disk::ext4`], for those that can do without.
    ///
    /// # Errors
    /// What could not be done, such as a mount where there is no loop device.
    pub fn try_ext4(mib: u64) -> Result<Self, String> {
        Self::make(mib, Command::new(find("mkfs.ext4")).args(["-q", "-F"]))
    }

    /// A fresh xfs, on which files can share their data (reflinks).
    pub fn xfs(mib: u64) -> Self {
        let mut make = Command::new(find("mkfs.xfs"));
        Self::make(mib, make.args(["-q", "-m", "reflink=1"]))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// A fresh btrfs.
    pub fn btrfs(mib: u64) -> Self {
        Self::make(mib, Command::new(find("mkfs.btrfs")).arg("-q"))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// `make` gets the image as its last argument.
    fn make(mib: u64, make: &mut Command) -> Result<Self, String> {
        let mut disk = Self::with_image(&|file| file.set_len(mib << 20));
        disk.make_and_mount(make)?;
        Ok(disk)
    }

    /// With an image that got its size, and nothing on it.
    fn with_image(grow: &dyn Fn(&mut File) -> io::Result<()>) -> Self {
        let disk = Self::directory();
        let image = disk.image();
        File::create(&image)
            .and_then(|mut file| grow(&mut file))
            .unwrap_or_else(|error| panic!("make {}: {error}", image.display()));
        disk
    }

    fn image(&self) -> PathBuf {
        self.path.with_file_name("disk.img")
    }

    fn make_and_mount(&mut self, make: &mut Command) -> Result<(), String> {
        let image = self.image();
        attempt(make.arg(&image))?;
        attempt(Command::new(find("mount")).args(["-o", "loop"]).arg(&image).arg(&self.path))?;
        self.is_mounted = true;
        Ok(())
    }

    /// None: a directory on the machine's own, as slow and as full as that is.
    pub fn directory() -> Self {
        let dir = tempfile::Builder::new().prefix("capstan-").tempdir().expect("make a directory");
        std::fs::create_dir(dir.path().join("d")).expect("make a mount point");
        Self::in_dir(dir)
    }

    fn in_dir(dir: TempDir) -> Self {
        let path = dir.path().join("d");
        Self { dir: Some(dir), path, is_mounted: false, is_written: false }
    }

    /// What a power cut does: what is not on the disk by now is lost. Everything fails from here on.
    pub fn shut_down(&self) {
        // Without -f its log is not flushed (EXT4_GOING_FLAGS_NOLOGFLUSH, XFS_FSOP_GOING_FLAGS_NOLOGFLUSH).
        succeed(Command::new(find("xfs_io")).args(["-x", "-c", "shutdown"]).arg(&self.path));
    }

    /// Unmounts it and mounts it again, which replays its log. Nobody may use it.
    ///
    /// # Errors
    /// It is in use, or cannot be mounted any more.
    pub fn remount(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let tried = self.try_remount("loop");
            if tried.is_ok() {
                return tried;
            }
            if Instant::now() > deadline {
                return self.remount_copy().map_err(|error| format!("{error}; before: {tried:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As [`Disk::remount`], of a copy of all its blocks: for when a mount namespace of somebody else, such as
    /// that of a container in another test, keeps the file system that was shut down.
    fn remount_copy(&mut self) -> Result<(), String> {
        let image = self.image();
        let copy = self.path.with_file_name("disk.copy");
        attempt(Command::new(find("cp")).arg("--sparse=always").arg(&image).arg(&copy))?;
        std::fs::rename(&copy, &image).map_err(|error| format!("rename a disk: {error}"))?;
        // An xfs refuses to be mounted beside another one of its identity; no other system knows the word.
        self.try_remount("loop").or_else(|_| self.try_remount("loop,nouuid"))
    }

    fn try_remount(&mut self, options: &str) -> Result<(), String> {
        let place = self.path.display();
        if self.is_mounted {
            umount2(&self.path, MntFlags::empty())
                .map_err(|error| format!("unmount {place}: {error}"))?;
            self.is_mounted = false;
        }
        let image = self.image();
        attempt(Command::new(find("mount")).args(["-o", options]).arg(&image).arg(&self.path))?;
        self.is_mounted = true;
        // A mount namespace that somebody made meanwhile, in another test, may keep the old one alive for a
        // moment: then this is the same, still shut down.
        let probe = self.path.join("probe");
        let works = File::create(&probe).and_then(|_| std::fs::remove_file(&probe));
        works.map_err(|error| format!("mounted again, {place} does not work: {error}"))
    }

    /// Lets an ext4 turn read-only, as it does when it meets an error of its device.
    pub fn abort(&self) {
        succeed(Command::new(find("mount")).args(["-o", "remount,abort"]).arg(&self.path));
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_zeros(file: &mut File, mib: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    (0..mib).try_for_each(|_| file.write_all(&zeros))?;
    file.sync_all()
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.is_mounted {
            return;
        }
        if let Err(error) = umount2(&self.path, MntFlags::empty()) {
            eprintln!("unmount {}: {error}; it is detached", self.path.display());
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        } else if self.is_written {
            WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).extend(self.dir.take());
        }
    }
}

/// Runs a command that must succeed.
pub(crate) fn succeed(command: &mut Command) {
    attempt(command).unwrap_or_else(|error| panic!("{error}"));
}

fn attempt(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{}", output.status, errors.trim_end()))
}
