//! What a container changed in its files, as an uncompressed layer (OCI image-spec, layer.md).
//!
//! The upper directory of an overlay is just that, but for how deletions are written: a character device
//! 0/0 there is `.wh.<name>` in a layer, and an opaque directory has the file `.wh..wh..opq`. Where a
//! snapshotter copies, the copy is compared with what it was made of: what has the same type, owner, mode,
//! size and time of change is the same.
//!
//! The container may still run: nothing is reached through a path that it could change. Every directory
//! is opened below the one before, and no link is followed.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Mount, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, major, minor,
    openat, readlinkat, statat,
};
use tar::{Builder, EntryType, Header};

/// Before the name of what a layer deletes.
const WHITEOUT: &str = ".wh.";

/// In a directory that hides what the parents have there.
const OPAQUE: &str = ".wh..wh..opq";

/// Directories in directories; each keeps a descriptor open.
const MAX_DEPTH: usize = 512;

/// The most that the kernel lets a value or a list of extended attributes have.
const XATTR_BYTES: usize = 64 << 10;

/// Where the changes of a container are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// In the upper directory of an overlay.
    Upper(PathBuf),
    /// In a tree that began as a copy of its parent.
    Copy(PathBuf),
}

/// Where they are, by the mounts of a root filesystem.
///
/// # Errors
/// `FailedPrecondition`: the mounts do not tell.
pub(crate) fn changes(mounts: &[Mount]) -> Result<Changes> {
    let found = match mounts {
        [mount] if mount.kind == "overlay" => {
            let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
            upper.map(|upper| Changes::Upper(upper.into()))
        }
        [mount] if mount.kind == "bind" => Some(Changes::Copy(mount.source.as_str().into())),
        _ => None,
    };
    found.ok_or_else(|| {
        Error::precondition(
            "the snapshotter of the container has neither an overlay nor a directory of its own, so it \
             cannot be told what was changed; make the container with --snapshotter overlay",
        )
    })
}

/// Writes a layer: of an upper directory, or of what is not in `parent`, which is `None` for an upper
/// directory and for a tree that began empty.
///
/// # Errors
/// What the system says. `FailedPrecondition`: something that a layer cannot have.
pub(crate) fn write(changes: &Changes, parent: Option<&Path>, out: impl Write) -> Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty())
            .map_err(|error| Error::io(format!("open {}", path.display()), error))
    };
    let (top, is_overlay) = match changes {
        Changes::Upper(path) => (path, true),
        Changes::Copy(path) => (path, false),
    };
    let parent = parent.map(open).transpose()?;
    let mut layer = Layer { archive: Builder::new(out), links: HashMap::new(), is_overlay };
    layer.children(&open(top)?, parent.as_ref(), Path::new(""), 0)?;
    let end = layer.archive.into_inner().and_then(|mut out| out.flush());
    end.map_err(|error| Error::io("write a layer", error))
}

/// The names in a directory, in order.
fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file is still what its parent's is.
fn is_same(about: &Stat, parent: &Stat) -> bool {
    let parts = |about: &Stat| {
        (
            (about.st_mode, about.st_uid, about.st_gid, about.st_rdev),
            (about.st_size, about.st_mtime, about.st_mtime_nsec),
        )
    };
    parts(about) == parts(parent)
}

struct Layer<W: Write> {
    archive: Builder<W>,
    /// Where files with several names were first: device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Deletions are written as overlayfs does.
    is_overlay: bool,
}

impl<W: Write> Layer<W> {
    fn children(
        &mut self,
        dir: &OwnedFd,
        parent: Option<&OwnedFd>,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        let fail = |error: rustix::io::Errno| {
            Error::io(format!("read directory /{} of the container", path.display()), error)
        };
        if depth > MAX_DEPTH {
            return Err(Error::precondition(format!(
                "directories of the container are more than {MAX_DEPTH} deep"
            )));
        }
        let names = names(dir).map_err(fail)?;
        for gone in parent.map(self::names).transpose().map_err(fail)?.into_iter().flatten() {
            if names.binary_search(&gone).is_err() {
                self.whiteout(&path.join(gone))?;
            }
        }
        for name in names {
            let path = path.join(&name);
            self.child(dir, parent, &name, &path, depth)
                .map_err(|error| error.at(format!("/{} of the container", path.display())))?;
        }
        Ok(())
    }

    fn child(
        &mut self,
        dir: &OwnedFd,
        parent: Option<&OwnedFd>,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        if name.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            return Err(Error::precondition("a layer cannot have a file with such a name"));
        }
        let fail = |error: rustix::io::Errno| Error::io("read it", error);
        let about = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It runs, and has removed it meanwhile.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            about => about.map_err(fail)?,
        };
        let open_in = |dir: &OwnedFd, flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            openat(dir, name, flags, Mode::empty()).map_err(fail)
        };
        let open = |flags| open_in(dir, flags);
        let before = match parent {
            Some(parent) => match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => None,
                before => Some((before.map_err(fail)?, parent)),
            },
            None => None,
        };
        let is_same = before.as_ref().is_some_and(|(before, _)| is_same(&about, before));
        if is_same && FileType::from_raw_mode(about.st_mode) != FileType::Directory {
            return Ok(());
        }
        match FileType::from_raw_mode(about.st_mode) {
            FileType::CharacterDevice if about.st_rdev == 0 && self.is_overlay => {
                self.whiteout(path)
            }
            FileType::Directory => {
                let own = open(OFlags::DIRECTORY)?;
                let about = fstat(&own).map_err(fail)?;
                if !is_same {
                    let is_opaque = self.attributes(&own)?;
                    self.entry(EntryType::Directory, path, &about, None)?;
                    if is_opaque {
                        self.empty(&path.join(OPAQUE))?;
                    }
                }
                let before = before.filter(|(before, _)| {
                    FileType::from_raw_mode(before.st_mode) == FileType::Directory
                });
                let before = match before {
                    Some((_, parent)) => Some(open_in(parent, OFlags::DIRECTORY)?),
                    None => None,
                };
                self.children(&own, before.as_ref(), path, depth + 1)
            }
            FileType::RegularFile => {
                let own = open(OFlags::NONBLOCK)?;
                let about = fstat(&own).map_err(fail)?;
                if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
                    return Err(Error::aborted("it became something else meanwhile; try again"));
                }
                self.file(own, path, &about)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(fail)?;
                self.entry(EntryType::Symlink, path, &about, Some(&target))
            }
            FileType::Fifo => self.entry(EntryType::Fifo, path, &about, None),
            FileType::CharacterDevice => self.entry(EntryType::Char, path, &about, None),
            FileType::BlockDevice => self.entry(EntryType::Block, path, &about, None),
            // A socket is nothing without its process, and no layer has one.
            _ => Ok(()),
        }
    }

    fn file(&mut self, own: OwnedFd, path: &Path, about: &Stat) -> Result<()> {
        if about.st_nlink > 1 {
            let first = self.links.entry((about.st_dev, about.st_ino));
            match first {
                std::collections::hash_map::Entry::Occupied(first) => {
                    let mut header = header(EntryType::Link, about);
                    let first = first.get().clone();
                    return self
                        .archive
                        .append_link(&mut header, path, first)
                        .map_err(|error| Error::io("write a layer", error));
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(path.to_owned());
                }
            }
        }
        self.attributes(&own)?;
        let size = u64::try_from(about.st_size).unwrap_or(0);
        let mut header = header(EntryType::Regular, about);
        header.set_size(size);
        // As many bytes as the header says, whatever becomes of the file meanwhile.
        let bytes = File::from(own).take(size).chain(io::repeat(0)).take(size);
        self.archive
            .append_data(&mut header, path, bytes)
            .map_err(|error| Error::io("write a layer", error))
    }

    /// Says that a name is gone.
    fn whiteout(&mut self, path: &Path) -> Result<()> {
        let mut name = OsString::from(WHITEOUT);
        name.push(path.file_name().unwrap_or_default());
        self.empty(&path.with_file_name(name))
    }

    fn empty(&mut self, path: &Path) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        self.archive
            .append_data(&mut header, path, io::empty())
            .map_err(|error| Error::io("write a layer", error))
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &Path,
        about: &Stat,
        target: Option<&CStr>,
    ) -> Result<()> {
        let mut header = header(kind, about);
        let written = match target {
            Some(target) => {
                let target = OsStr::from_bytes(target.to_bytes());
                self.archive.append_link(&mut header, path, target)
            }
            None => self.archive.append_data(&mut header, path, io::empty()),
        };
        written.map_err(|error| Error::io("write a layer", error))
    }

    /// Writes the extended attributes for the entry that follows. Answers whether overlayfs marked the
    /// directory as opaque; its own attributes are not passed on.
    fn attributes(&mut self, file: impl AsFd) -> Result<bool> {
        let fail = |error: rustix::io::Errno| Error::io("read extended attributes", error);
        let mut names = vec![0; XATTR_BYTES];
        let count = match flistxattr(&file, names.as_mut_slice()) {
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            count => count.map_err(fail)?,
        };
        names.truncate(count);
        let mut is_opaque = false;
        let mut found: Vec<(String, Vec<u8>)> = Vec::new();
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let mut value = vec![0; XATTR_BYTES];
            let size = match fgetxattr(&file, name, value.as_mut_slice()) {
                // Removed meanwhile.
                Err(rustix::io::Errno::NODATA) => continue,
                size => size.map_err(fail)?,
            };
            value.truncate(size);
            match name.strip_prefix("trusted.overlay.") {
                Some("opaque") => is_opaque |= value == b"y",
                Some(_) => {}
                None => found.push((format!("SCHILY.xattr.{name}"), value)),
            }
        }
        if !found.is_empty() {
            let pairs = found.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.archive
                .append_pax_extensions(pairs)
                .map_err(|error| Error::io("write a layer", error))?;
        }
        Ok(is_opaque)
    }
}

fn header(kind: EntryType, about: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(about.st_mode & 0o7777);
    header.set_uid(about.st_uid.into());
    header.set_gid(about.st_gid.into());
    header.set_mtime(u64::try_from(about.st_mtime).unwrap_or(0));
    header.set_size(0);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        // A header of GNU form has both.
        let _ = header.set_device_major(major(about.st_rdev));
        let _ = header.set_device_minor(minor(about.st_rdev));
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    use capstan_sdk::Class;
    use rustix::fs::{XattrFlags, mknodat, setxattr};

    fn read(bytes: &[u8]) -> BTreeMap<String, (EntryType, String)> {
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let kind = entry.header().entry_type();
            let mut text = match entry.link_name().unwrap() {
                Some(target) => target.display().to_string(),
                None => String::new(),
            };
            for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
                let extension = extension.unwrap();
                text += &format!("{}={} ", extension.key().unwrap(), extension.value().unwrap());
            }
            entry.read_to_string(&mut text).unwrap();
            found.insert(path, (kind, text));
        }
        found
    }

    /// It needs root, as all tests that make devices do.
    #[test]
    fn an_upper_directory_becomes_a_layer() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::create_dir(top.join("opaque")).unwrap();
        setxattr(top.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        fs::write(top.join("opaque/file"), "new").unwrap();
        setxattr(top.join("opaque/file"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        fs::hard_link(top.join("opaque/file"), top.join("second")).unwrap();
        symlink("/etc/passwd", top.join("link")).unwrap();
        symlink("/etc", top.join("dirlink")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, top.join("gone"), FileType::CharacterDevice, mode, 0).unwrap();
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, top.join("null"), FileType::CharacterDevice, mode, null).unwrap();
        mknodat(CWD, top.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        let long = "n".repeat(200);
        fs::write(top.join(&long), "long").unwrap();
        let mut bytes = Vec::new();
        write(&Changes::Upper(top.into()), None, &mut bytes).unwrap();
        let found = read(&bytes);
        let want = |path: &str, kind: EntryType, text: &str| {
            assert_eq!(found.get(path), Some(&(kind, text.to_owned())), "{path}");
        };
        want("opaque", EntryType::Directory, "");
        want("opaque/.wh..wh..opq", EntryType::Regular, "");
        want("opaque/file", EntryType::Regular, "SCHILY.xattr.user.note=kept new");
        want("second", EntryType::Link, "opaque/file");
        want("link", EntryType::Symlink, "/etc/passwd");
        want("dirlink", EntryType::Symlink, "/etc");
        want(".wh.gone", EntryType::Regular, "");
        want("null", EntryType::Char, "");
        want("fifo", EntryType::Fifo, "");
        want(&long, EntryType::Regular, "long");
        assert_eq!(found.len(), 10, "{found:?}");
    }

    #[test]
    fn a_name_that_would_delete_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".wh.passwd"), "").unwrap();
        let error = write(&Changes::Copy(dir.path().into()), None, io::sink()).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.message().contains("/.wh.passwd"), "{error}");
    }

    #[test]
    fn a_copy_is_compared_with_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, tree) = (dir.path().join("parent"), dir.path().join("tree"));
        fs::create_dir_all(parent.join("same/deep")).unwrap();
        for (name, text) in
            [("same/deep/file", "1"), ("gone", "2"), ("changed", "3"), ("type", "4")]
        {
            fs::write(parent.join(name), text).unwrap();
        }
        fs::create_dir(parent.join("goes")).unwrap();
        fs::write(parent.join("goes/too"), "5").unwrap();
        let copy = std::process::Command::new("cp")
            .args(["-a", parent.to_str().unwrap(), tree.to_str().unwrap()])
            .status();
        assert!(copy.unwrap().success());
        let mut bytes = Vec::new();
        write(&Changes::Copy(tree.clone()), Some(&parent), &mut bytes).unwrap();
        assert!(read(&bytes).is_empty(), "nothing was changed: {:?}", read(&bytes));

        fs::remove_file(tree.join("gone")).unwrap();
        fs::remove_dir_all(tree.join("goes")).unwrap();
        fs::write(tree.join("changed"), "longer").unwrap();
        fs::write(tree.join("same/deep/new"), "new").unwrap();
        fs::remove_file(tree.join("type")).unwrap();
        fs::create_dir(tree.join("type")).unwrap();
        fs::write(tree.join("type/inside"), "6").unwrap();
        let mut bytes = Vec::new();
        write(&Changes::Copy(tree), Some(&parent), &mut bytes).unwrap();
        let found = read(&bytes);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let wanted = [
            ".wh.goes",
            ".wh.gone",
            "changed",
            "same/deep",
            "same/deep/new",
            "type",
            "type/inside",
        ];
        assert_eq!(names, wanted);
        assert_eq!(found["changed"].1, "longer");
    }

    #[test]
    fn mounts_tell_where_the_changes_are() {
        let mount = |kind: &str, options: &[&str]| Mount {
            kind: kind.into(),
            source: "/s".into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let overlay = mount("overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/l"]);
        assert_eq!(changes(&[overlay]).unwrap(), Changes::Upper("/u".into()));
        let bind = mount("bind", &["rw", "rbind"]);
        assert_eq!(changes(std::slice::from_ref(&bind)).unwrap(), Changes::Copy("/s".into()));
        for mounts in
            [vec![mount("overlay", &["lowerdir=/l:/k"])], vec![bind.clone(), bind], vec![]]
        {
            assert_eq!(changes(&mounts).unwrap_err().class(), Class::FailedPrecondition);
        }
    }
}
