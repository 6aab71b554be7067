//! What a container changed in its files, as an uncompressed layer (OCI image-spec, layer.md).
//!
//! The upper directory of an overlay is just that, but for how deletions are written: a character device
//! 0/0 there is `.wh.<name>` in a layer, and an opaque directory has the file `.wh..wh..opq`.
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

/// The directory with what a container changed, by the mounts of its root filesystem.
///
/// # Errors
/// `FailedPrecondition`: the mounts do not keep that apart.
pub(crate) fn upper(mounts: &[Mount]) -> Result<PathBuf> {
    let upper = match mounts {
        [mount] if mount.kind == "overlay" => {
            mount.options.iter().find_map(|option| option.strip_prefix("upperdir="))
        }
        _ => None,
    };
    upper.map(PathBuf::from).ok_or_else(|| {
        Error::precondition(
            "the snapshotter of the container does not keep apart what was changed; a checkpoint needs one \
             that does: make the container with --snapshotter overlay",
        )
    })
}

/// Writes the layer that an upper directory is.
///
/// # Errors
/// What the system says. `FailedPrecondition`: something that a layer cannot have.
pub(crate) fn write(upper: &Path, out: impl Write) -> Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let top = openat(CWD, upper, flags, Mode::empty())
        .map_err(|error| Error::io(format!("open {}", upper.display()), error))?;
    let mut layer = Layer { archive: Builder::new(out), links: HashMap::new() };
    layer.children(&top, Path::new(""), 0)?;
    let end = layer.archive.into_inner().and_then(|mut out| out.flush());
    end.map_err(|error| Error::io("write a layer", error))
}

struct Layer<W: Write> {
    archive: Builder<W>,
    /// Where files with several names were first: device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Layer<W> {
    fn children(&mut self, dir: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let fail = |error: rustix::io::Errno| {
            Error::io(format!("read directory /{} of the container", path.display()), error)
        };
        if depth > MAX_DEPTH {
            return Err(Error::precondition(format!(
                "directories of the container are more than {MAX_DEPTH} deep"
            )));
        }
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        for name in names {
            let path = path.join(&name);
            self.child(dir, &name, &path, depth)
                .map_err(|error| error.at(format!("/{} of the container", path.display())))?;
        }
        Ok(())
    }

    fn child(&mut self, dir: &OwnedFd, name: &OsStr, path: &Path, depth: usize) -> Result<()> {
        if name.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            return Err(Error::precondition("a layer cannot have a file with such a name"));
        }
        let fail = |error: rustix::io::Errno| Error::io("read it", error);
        let about = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It runs, and has removed it meanwhile.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            about => about.map_err(fail)?,
        };
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            openat(dir, name, flags, Mode::empty()).map_err(fail)
        };
        match FileType::from_raw_mode(about.st_mode) {
            FileType::CharacterDevice if about.st_rdev == 0 => {
                let mut whiteout = OsString::from(WHITEOUT);
                whiteout.push(name);
                self.empty(&path.with_file_name(whiteout))
            }
            FileType::Directory => {
                let own = open(OFlags::DIRECTORY)?;
                let about = fstat(&own).map_err(fail)?;
                let is_opaque = self.attributes(&own)?;
                self.entry(EntryType::Directory, path, &about, None)?;
                if is_opaque {
                    self.empty(&path.join(OPAQUE))?;
                }
                self.children(&own, path, depth + 1)
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
        write(top, &mut bytes).unwrap();
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
        let error = write(dir.path(), io::sink()).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.message().contains("/.wh.passwd"), "{error}");
    }

    #[test]
    fn only_an_overlay_has_an_upper_directory() {
        let mount = |kind: &str, options: &[&str]| Mount {
            kind: kind.into(),
            source: "s".into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let overlay = mount("overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/l"]);
        assert_eq!(upper(&[overlay]).unwrap(), Path::new("/u"));
        for mount in [mount("bind", &["rw", "rbind"]), mount("overlay", &["lowerdir=/l:/k"])] {
            assert_eq!(upper(&[mount]).unwrap_err().class(), Class::FailedPrecondition);
        }
    }
}
