//! A file system in a file, for tests of drivers that need a certain one. Feature `testing`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
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
        Self::with(kind, mib, &[])
    }

    /// The same, where `mkfs.<kind>` is given these words too.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn with(kind: &str, mib: u64, words: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("capstan-").tempdir().expect("a directory");
        let (image, path) = (dir.path().join("disk.img"), dir.path().join("d"));
        std::fs::create_dir(&path).expect("a mount point");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        let mkfs = tool::find(&format!("mkfs.{kind}"), "its tools").expect("mkfs");
        let words = ["-q"].iter().chain(words).map(Path::new);
        tool::run(&mkfs, words.chain([image.as_path()])).expect("make a file system");
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

/// A file system on an image that lies on a tmpfs, which can be filled to the last page: then a write is taken, its sync
/// fails, and the page cache goes on to show what the disk has not.
#[derive(Debug)]
pub struct ThinDisk {
    path: PathBuf,
    /// The tmpfs.
    store: PathBuf,
    _dir: tempfile::TempDir,
}

impl ThinDisk {
    /// A fresh one, made by `mkfs.<kind>`.
    ///
    /// # Panics
    /// If it cannot be made or mounted, as [`LoopDisk::new`].
    pub fn new(kind: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("capstan-").tempdir().expect("a directory");
        let (path, store) = (dir.path().join("d"), dir.path().join("store"));
        for place in [&path, &store] {
            fs::create_dir(place).expect("a mount point");
        }
        let disk = Self { path, store, _dir: dir };
        call("mount", &["-t", "tmpfs", "-o", "size=96m", "none"], &[&disk.store]);
        File::create(disk.image()).and_then(|file| file.set_len(320 << 20)).expect("an image");
        let journal: &[&str] = if kind == "ext4" { &["-J", "size=4"] } else { &[] };
        call(&format!("mkfs.{kind}"), &[&["-q"], journal].concat(), &[&disk.image()]);
        disk.mount();
        // The file system's own journal is written all over: it is not what fails.
        let file = disk.path.join("warm");
        for _ in 0..600 {
            let warm = File::create(&file).expect("a file");
            (&warm).write_all(&[1; 4096]).and_then(|()| warm.sync_all()).expect("there is room");
            fs::remove_file(&file).expect("remove it");
        }
        disk
    }

    fn image(&self) -> PathBuf {
        self.store.join("disk.img")
    }

    fn mount(&self) {
        call("mount", &["-o", "loop"], &[&self.image(), &self.path]);
        // A loop device takes a write for whole of which a part was: page by page there are no parts.
        let limit = self.limit().expect("it is mounted");
        fs::write(limit, "4").expect("set a limit of the loop device");
    }

    /// The longest write that its loop device takes at once, in KiB.
    fn limit(&self) -> Option<PathBuf> {
        let device = mount::of(&self.path).ok()?.source;
        let name = device.strip_prefix("/dev/").filter(|name| name.starts_with("loop"))?;
        Some(Path::new("/sys/block").join(name).join("queue/max_sectors_kb"))
    }

    /// Gives the loop device back as it was: a limit outlives what the device was made for, and makes whoever has it next
    /// many times slower.
    fn unlimit(&self) -> Option<()> {
        let limit = self.limit()?;
        let most = fs::read_to_string(limit.with_file_name("max_hw_sectors_kb")).ok()?;
        fs::write(limit, most.trim()).ok()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets go of what only the page cache has.
    ///
    /// # Panics
    /// If it is in use.
    pub fn remount(&self) {
        self.unlimit().expect("end the limit of the loop device");
        call("umount", &[], &[&self.path]);
        self.mount();
    }

    /// From here on it takes nothing for which it has no block yet.
    ///
    /// # Panics
    /// If there is no file to fill it with.
    pub fn fill(&self) {
        let mut ballast = File::create(self.store.join("ballast")).expect("a file");
        while ballast.write_all(&[7; 4096]).is_ok() {}
    }

    /// There is room again.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn empty(&self) {
        fs::remove_file(self.store.join("ballast")).expect("it was filled");
    }

    /// Nothing can be read from it any more, but for what is in memory.
    ///
    /// # Panics
    /// If its image cannot be read.
    pub fn take_away(&self) -> Taken {
        let image = self.image();
        let bytes = fs::read(&image).expect("read the image");
        File::options().write(true).open(&image).and_then(|file| file.set_len(0)).expect("cut it");
        Taken { image, bytes }
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        self.unlimit();
        for place in [&self.path, &self.store] {
            let _ = mount::detach(place);
        }
    }
}

/// What [`ThinDisk::take_away`] took.
#[derive(Debug)]
pub struct Taken {
    image: PathBuf,
    bytes: Vec<u8>,
}

impl Taken {
    /// The disk has it again.
    ///
    /// # Panics
    /// If it does not take it.
    pub fn give_back(&self) {
        let file = File::options().write(true).open(&self.image).expect("open the image");
        file.set_len(self.bytes.len() as u64).expect("its old size");
        for (page, at) in self.bytes.chunks(4096).zip((0..).step_by(4096)) {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, at).expect("write the image");
            }
        }
    }
}

fn call(program: &str, options: &[&str], paths: &[&Path]) {
    let found = tool::find(program, "its tools").expect(program);
    tool::run(&found, options.iter().map(Path::new).chain(paths.iter().copied())).expect(program);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_disk_leaves_its_loop_device_as_it_was() {
        let disk = ThinDisk::new("ext4");
        let limit = disk.limit().expect("it is a loop device");
        let read = |path: &Path| fs::read_to_string(path).expect("read a limit");
        assert_eq!(read(&limit), "4\n");
        drop(disk);
        assert_eq!(read(&limit), read(&limit.with_file_name("max_hw_sectors_kb")));
    }
}
