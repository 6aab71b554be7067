//! Copies of trees: owner, mode, times, attributes, hard links, devices; the data is shared, not copied.

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
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr,
    lsetxattr, mknodat, utimensat,
};

/// Copies the tree at `from` to `to`, which must not exist.
///
/// Sockets are left out: they mean nothing without the process that listens. Links are not followed.
///
/// # Errors
/// What the system says, with the path.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<()> {
    let mut links = HashMap::new();
    // Directories get their times last, when nothing changes in them any more.
    let mut directories: Vec<(PathBuf, Metadata)> = Vec::new();
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        let fail = |error: io::Error| Error::io(format!("copy {}", from.display()), error);
        let about = fs::symlink_metadata(&from).map_err(fail)?;
        if about.is_dir() {
            DirBuilder::new().mode(0o700).create(&to).map_err(fail)?;
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
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        if about.len() > 0 {
            clone(&File::open(from)?, &target)?;
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

/// Gives a file the data of another one. Both have it until one of them is written to.
pub(crate) fn clone(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
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
