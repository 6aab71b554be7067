//! Owner, mode, times and extended attributes: read from one file, given to another.
//!
//! Nothing here follows a symbolic link in the last component (CVE-2026-33056), and nothing goes
//! through the umask.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use capstan_sdk::{Class, Result};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat,
    fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, futimens, lgetxattr,
    llistxattr, lsetxattr, openat, utimensat,
};
use rustix::io::Errno;

use crate::error::failed;
use crate::pax::Xattrs;

/// The attribute by which overlayfs takes a directory as new, and hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The kernel's `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`: both are 64 KiB.
const XATTR_BYTES: usize = 1 << 16;

/// When a file was read and written last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) accessed: Timespec,
    pub(crate) modified: Timespec,
}

impl Times {
    pub(crate) fn of(stat: &Stat) -> Self {
        let time = |seconds, nanos| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanos).expect("a second has fewer nanoseconds"),
        };
        Self {
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    fn raw(self) -> Timestamps {
        Timestamps { last_access: self.accessed, last_modification: self.modified }
    }

    /// Gives them to an open file or directory.
    pub(crate) fn give(self, fd: impl AsFd) -> Result<(), Errno> {
        futimens(fd, &self.raw())
    }
}

/// All that a file has beside its data.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) times: Times,
    pub(crate) xattrs: Xattrs,
}

impl Attributes {
    /// Of a directory that nobody described.
    pub(crate) fn implied(times: Times) -> Self {
        Self { uid: 0, gid: 0, mode: 0o755, times, xattrs: Xattrs::new() }
    }

    /// Those of an open file or directory.
    pub(crate) fn of(fd: impl AsFd) -> Result<Self, Errno> {
        let mut names = Vec::with_capacity(XATTR_BYTES);
        let listed = flistxattr(&fd, spare_capacity(&mut names)).map(drop);
        let xattrs = read_xattrs(listed, &names, |name, value| {
            fgetxattr(&fd, name, spare_capacity(value)).map(drop)
        })?;
        Ok(Self::new(&fstat(fd)?, xattrs))
    }

    /// Those of an entry of a directory, whose `stat` is known; for what must not be opened.
    pub(crate) fn of_entry(dir: impl AsFd, base: &[u8], stat: &Stat) -> Result<Self, Errno> {
        let path = path_of_entry(dir.as_fd(), base);
        let mut names = Vec::with_capacity(XATTR_BYTES);
        let listed = llistxattr(&path, spare_capacity(&mut names)).map(drop);
        let xattrs = read_xattrs(listed, &names, |name, value| {
            lgetxattr(&path, name, spare_capacity(value)).map(drop)
        })?;
        Ok(Self::new(stat, xattrs))
    }

    pub(crate) fn new(stat: &Stat, xattrs: Xattrs) -> Self {
        let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        Self { uid, gid, mode, times: Times::of(stat), xattrs }
    }

    /// What of it belongs into a layer: labels of security modules are the machine's own.
    pub(crate) fn portable(mut self) -> Self {
        self.xattrs.retain(|key, _| !is_of_machine(key));
        self
    }

    /// Gives all but the times to an open file or directory. `owner` is whom it belongs to, if
    /// that is known.
    pub(crate) fn give(&self, fd: impl AsFd, owner: Option<(u32, u32)>, name: &[u8]) -> Result<()> {
        // In this order: a change of owner clears setuid and capabilities.
        if owner != Some((self.uid, self.gid)) {
            let (uid, gid) = self.owner();
            fchown(&fd, uid, gid).map_err(failed("set the owner of", name))?;
        }
        for (key, value) in self.xattrs.iter().filter(|(key, _)| !is_control(key)) {
            tolerate(key, fsetxattr(&fd, key.as_slice(), value, XattrFlags::empty()))
                .map_err(failed("set extended attributes of", name))?;
        }
        fchmod(&fd, Mode::from_raw_mode(self.mode)).map_err(failed("set the mode of", name))
    }

    /// Gives everything to an entry of a directory that is not to be opened: a symbolic link, a
    /// device, a fifo.
    pub(crate) fn give_entry(&self, dir: impl AsFd, base: &[u8], is_symlink: bool) -> Result<()> {
        let dir = dir.as_fd();
        let (uid, gid) = self.owner();
        chownat(dir, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the owner of", base))?;
        let path = path_of_entry(dir, base);
        for (key, value) in self.xattrs.iter().filter(|(key, _)| !is_control(key)) {
            let set = lsetxattr(&path, key.as_slice(), value, XattrFlags::empty());
            tolerate(key, set).map_err(|errno| {
                let error = failed("set extended attributes of", base)(errno);
                // Files of these types have none of users: it is the layer that is wrong.
                let is_wrong = errno == Errno::PERM && key.starts_with(b"user.");
                if is_wrong { error.as_class(Class::Corrupt) } else { error }
            })?;
        }
        if !is_symlink {
            // There is no chmod that does not follow, so: by a descriptor that cannot be a link.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(dir, base, flags, Mode::empty())
                .and_then(|fd| chmod(path_of(fd.as_fd()), Mode::from_raw_mode(self.mode)))
                .map_err(failed("set the mode of", base))?;
        }
        utimensat(dir, base, &self.times.raw(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the times of", base))
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// Takes the extended attributes away, but for overlayfs's and those that the kernel keeps.
pub(crate) fn clear_xattrs(fd: impl AsFd) -> Result<(), Errno> {
    let mut names = Vec::with_capacity(XATTR_BYTES);
    let listed = flistxattr(&fd, spare_capacity(&mut names)).map(drop);
    for name in xattr_names(listed, &names)? {
        let is_kept = is_control(name) || name.starts_with(b"security.");
        if !is_kept || name == b"security.capability" {
            fremovexattr(&fd, name)?;
        }
    }
    Ok(())
}

/// Makes a directory opaque to overlayfs.
pub(crate) fn set_opaque(dir: impl AsFd) -> Result<(), Errno> {
    fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether a directory is opaque to overlayfs.
pub(crate) fn is_opaque(dir: impl AsFd) -> Result<bool, Errno> {
    let mut value = Vec::with_capacity(8);
    match fgetxattr(dir, OPAQUE, spare_capacity(&mut value)) {
        Ok(_) => Ok(value == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What overlayfs has written down about an entry of an upper directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// A directory that shows nothing of the layers below.
    pub(crate) is_opaque: bool,
    /// Its content is somewhere else: it was renamed, or has only its attributes here.
    pub(crate) is_elsewhere: bool,
}

/// Reads overlayfs's marks, which stand in attributes with this prefix.
pub(crate) fn marks(fd: impl AsFd, prefix: &str) -> Result<Marks, Errno> {
    let get = |name: &str| {
        let mut value = Vec::with_capacity(XATTR_BYTES);
        match fgetxattr(&fd, format!("{prefix}{name}").as_str(), spare_capacity(&mut value)) {
            Ok(_) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    };
    Ok(Marks {
        is_opaque: get("opaque")?.is_some_and(|value| value == b"y"),
        is_elsewhere: get("redirect")?.is_some() || get("metacopy")?.is_some(),
    })
}

/// Whether overlayfs takes orders by this attribute: no layer may give it any.
pub(crate) fn is_control(xattr: &[u8]) -> bool {
    xattr.starts_with(b"trusted.overlay.") || xattr.starts_with(b"user.overlay.")
}

/// Whether an attribute is about this machine, and not about the file: SELinux labels and the like.
pub(crate) fn is_of_machine(xattr: &[u8]) -> bool {
    xattr.starts_with(b"security.") && xattr != b"security.capability"
        || xattr == b"system.nfs4_acl"
}

/// A file system without extended attributes loses them silently, as everywhere; but a program
/// without its capabilities is a broken one.
fn tolerate(key: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP) if key != b"security.capability" => Ok(()),
        result => result,
    }
}

/// The names in a list that was read.
fn xattr_names(
    listed: Result<(), Errno>,
    names: &[u8],
) -> Result<impl Iterator<Item = &[u8]>, Errno> {
    match listed {
        Ok(()) | Err(Errno::OPNOTSUPP) => {
            Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()))
        }
        Err(errno) => Err(errno),
    }
}

fn read_xattrs(
    listed: Result<(), Errno>,
    names: &[u8],
    mut get: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), Errno>,
) -> Result<Xattrs, Errno> {
    let mut xattrs = Xattrs::new();
    for name in xattr_names(listed, names)?.filter(|name| !is_control(name)) {
        let mut value = Vec::with_capacity(XATTR_BYTES);
        get(name, &mut value)?;
        value.shrink_to_fit();
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

/// A path to what a descriptor stands for, for calls that take no descriptor.
fn path_of(fd: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
}

/// The same for an entry of a directory; the entry is not followed by calls that do not follow.
fn path_of_entry(dir: BorrowedFd<'_>, base: &[u8]) -> Vec<u8> {
    [&path_of(dir), b"/".as_slice(), base].concat()
}
