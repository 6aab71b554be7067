//! Copies of trees: data, owner, mode, times, attributes, hard links, devices.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, ioctl_ficlone, lgetxattr,
    llistxattr, lsetxattr, mknodat, utimensat,
};

/// Copies the tree at `from` to `to`, which must not exist. `begin` is called with it when it is there, and still empty.
///
/// Sockets are left out: they mean nothing without the process that listens. Links are not followed.
///
/// # Errors
/// What the system says, with the path.
pub(crate) fn tree(from: &Path, to: &Path, begin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut begin = Some(begin);
    let mut links = HashMap::new();
    // Directories get their times last, when nothing changes in them any more.
    let mut directories: Vec<(PathBuf, Metadata)> = Vec::new();
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        let fail = |error: io::Error| Error::io(format!("copy {}", from.display()), error);
        let about = fs::symlink_metadata(&from).map_err(fail)?;
        if about.is_dir() {
            DirBuilder::new().mode(0o700).create(&to).map_err(fail)?;
            if let Some(begin) = begin.take() {
                begin(&to)?;
            }
            for entry in fs::read_dir(&from).map_err(fail)? {
                let name = entry.map_err(fail)?.file_name();
                open.push((from.join(&name), to.join(&name)));
            }
            describe(&from, &to, &about).map_err(fail)?;
            directories.push((to, about));
        } else if !about.file_type().is_socket() {
            entry(&from, &to, &about, &mut links).map_err(fail)?;
        }
    }
    for (path, about) in directories.iter().rev() {
        times(path, about)
            .map_err(|error| Error::io(format!("set the times of {}", path.display()), error))?;
    }
    Ok(())
}

/// Copies anything but a directory.
fn entry(
    from: &Path,
    to: &Path,
    about: &Metadata,
    links: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    if about.nlink() > 1 {
        if let Some(first) = links.get(&(about.dev(), about.ino())) {
            return fs::hard_link(first, to);
        }
        links.insert((about.dev(), about.ino()), to.to_owned());
    }
    let kind = about.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        let mut source = File::open(from)?;
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        // Shared blocks where the file system can, or else copy_file_range where the system has it.
        if ioctl_ficlone(&target, &source).is_err() {
            io::copy(&mut source, &mut target)?;
        }
    } else {
        let kind = if kind.is_block_device() {
            FileType::BlockDevice
        } else if kind.is_char_device() {
            FileType::CharacterDevice
        } else {
            FileType::Fifo
        };
        mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), about.rdev())?;
    }
    describe(from, to, about)?;
    times(to, about)
}

/// Owner, then mode (a change of owner clears setuid), then attributes.
fn describe(from: &Path, to: &Path, about: &Metadata) -> io::Result<()> {
    lchown(to, Some(about.uid()), Some(about.gid()))?;
    if !about.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(about.mode() & 0o7777))?;
    }
    attributes(from, to)
}

fn attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match llistxattr(from, &mut names) {
        // A file system without attributes has none.
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split_inclusive(|&byte| byte == 0) {
        let name = CStr::from_bytes_with_nul(name)
            .map_err(|_| io::Error::other("an attribute name without an end"))?;
        let size = lgetxattr(from, name, &mut value)?;
        lsetxattr(to, name, &value[..size], XattrFlags::empty())?;
    }
    Ok(())
}

fn times(path: &Path, about: &Metadata) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: about.atime(), tv_nsec: about.atime_nsec() },
        last_modification: Timespec { tv_sec: about.mtime(), tv_nsec: about.mtime_nsec() },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(from.join("d")).unwrap();
        fs::write(from.join("d/file"), "data").unwrap();
        fs::hard_link(from.join("d/file"), from.join("link")).unwrap();
        symlink("/nowhere", from.join("symlink")).unwrap();
        let null = rustix::fs::makedev(1, 3);
        mknodat(
            CWD,
            from.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            null,
        )
        .unwrap();
        mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        lchown(from.join("d/file"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(from.join("d/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        lsetxattr(from.join("d"), "user.key", b"value", XattrFlags::empty()).unwrap();
        let old = Timestamps {
            last_access: Timespec { tv_sec: 1, tv_nsec: 2 },
            last_modification: Timespec { tv_sec: 3, tv_nsec: 4 },
        };
        utimensat(CWD, from.join("d"), &old, AtFlags::empty()).unwrap();

        tree(&from, &to, |_| Ok(())).unwrap();

        let about = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        let file = about("d/file");
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1000, 1001, 0o4755));
        assert_eq!(file.ino(), about("link").ino());
        assert_eq!(fs::read(to.join("d/file")).unwrap(), b"data");
        assert_eq!(fs::read_link(to.join("symlink")).unwrap(), Path::new("/nowhere"));
        assert_eq!(about("null").rdev(), null);
        assert_eq!(about("null").mode(), fs::metadata(from.join("null")).unwrap().mode());
        assert!(about("fifo").file_type().is_fifo());
        assert!(!to.join("socket").exists());
        assert_eq!((about("d").mtime(), about("d").mtime_nsec()), (3, 4));
        let mut value = [0; 10];
        let size = lgetxattr(to.join("d"), "user.key", &mut value).unwrap();
        assert_eq!(&value[..size], b"value");
    }

    /// D111: where there are no extended attributes there are none to copy.
    #[test]
    fn a_file_system_without_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let (place, out) = (dir.path().join("ramfs"), dir.path().join("out"));
        fs::create_dir(&place).unwrap();
        let ramfs =
            capstan_sdk::Mount { kind: "ramfs".into(), source: "none".into(), options: Vec::new() };
        let copied = capstan_sdk::mount::with_mounted(&[ramfs], &place, |_| {
            let refused = lsetxattr(&place, "user.key", b"value", XattrFlags::empty());
            assert_eq!(refused, Err(rustix::io::Errno::OPNOTSUPP), "it has some");
            let from = place.join("from");
            fs::create_dir(&from).unwrap();
            fs::create_dir(from.join("d")).unwrap();
            fs::write(from.join("d/file"), "data").unwrap();
            symlink("file", from.join("d/link")).unwrap();
            tree(&from, &place.join("to"), |_| Ok(()))?;
            tree(&place.join("to"), &out, |_| Ok(()))
        });
        copied.unwrap();
        assert_eq!(fs::read(out.join("d/file")).unwrap(), b"data");
        assert_eq!(fs::read_link(out.join("d/link")).unwrap(), Path::new("file"));
    }

    #[test]
    fn blocks_are_shared_where_the_file_system_can() {
        const SIZE: u64 = 32 << 20;
        let disk = capstan_sdk::testing_disk::LoopDisk::new("xfs", 400);
        let (from, to) = (disk.path().join("from"), disk.path().join("to"));
        fs::create_dir(&from).unwrap();
        let bytes: Vec<u8> =
            (0..32_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(from.join("file"), &bytes).unwrap();
        let free = || {
            rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
            let about = rustix::fs::statvfs(disk.path()).unwrap();
            about.f_bfree * about.f_frsize
        };
        let before = free();
        tree(&from, &to, |_| Ok(())).unwrap();
        assert!(before - free() < SIZE / 4, "the copy has blocks of its own");
        assert!(fs::read(to.join("file")).unwrap() == bytes);
        fs::write(to.join("file"), "changed").unwrap();
        assert!(fs::read(from.join("file")).unwrap() == bytes, "they are not one file");
    }
}
