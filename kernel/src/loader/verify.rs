//! Who could have written a library: only root, or it is not loaded.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};

use capstan_schema::{Error, Result};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, SealFlags, Stat};
use sha2::{Digest as _, Sha256};

/// A library larger than that is none.
const LARGEST: u64 = 1 << 30;

/// A library in memory, which nobody can change any more.
#[derive(Debug)]
pub(crate) struct Image {
    memory: OwnedFd,
}

impl Image {
    /// Reads a library of which it is certain who wrote it.
    ///
    /// The path is walked directory by directory, without following symbolic links: each is root's and not writable
    /// by others, so what was checked is what is read.
    ///
    /// # Errors
    /// `PermissionDenied`, with the part of the path that is at fault. `Corrupt`: it has another digest.
    /// `InvalidArgument`: the path is not absolute, or the file no library.
    pub(super) fn read(path: &Path, sha256: &str) -> Result<Self> {
        let place = || path.display().to_string();
        let file = open(path)?;
        let mut bytes = Vec::new();
        let read = File::from(file).take(LARGEST + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::io(format!("read {}", place()), error))?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::exhausted(format!("{}: it has more than {LARGEST} bytes", place())));
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err(Error::corrupt(format!("{}: it is no shared library (ELF)", place())));
        }
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        if !sha256.is_empty() && !digest.eq_ignore_ascii_case(sha256) {
            return Err(Error::corrupt(format!(
                "{}: its sha256 is {digest}, and {sha256} is what the configuration wants",
                place()
            )));
        }
        Self::keep(&bytes).map_err(|error| Error::io(format!("copy {}", place()), error))
    }

    fn keep(bytes: &[u8]) -> std::io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = File::from(rustix::fs::memfd_create("capstan-plugin", flags)?);
        memory.write_all_at(bytes, 0)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok(Self { memory: memory.into() })
    }

    /// A copy of its own: the loader takes two loads of one file for one.
    pub(super) fn duplicate(&self) -> std::io::Result<Self> {
        Self::keep(&self.bytes()?)
    }

    /// What is in it.
    pub(crate) fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let memory = File::from(self.memory.try_clone()?);
        let size = usize::try_from(memory.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size];
        memory.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    pub(super) fn memory(&self) -> &OwnedFd {
        &self.memory
    }
}

/// Opens a file of which all of the path is safe.
fn open(path: &Path) -> Result<OwnedFd> {
    let mut names = Vec::new();
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(Error::invalid(format!("{}: write an absolute path", path.display())));
    }
    for component in components {
        match component {
            Component::Normal(name) => names.push(name),
            _ => {
                return Err(Error::invalid(format!("{}: write it without ..", path.display())));
            }
        }
    }
    let Some((file, directories)) = names.split_last() else {
        return Err(Error::invalid("/ is no shared library"));
    };
    let mut at = Path::new("/").to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(CWD, "/", flags, Mode::empty())
        .map_err(|error| Error::io("open /", error))?;
    check(&directory, &at, true)?;
    for name in directories {
        at.push(name);
        directory = step(&directory, name, flags, &at)?;
        check(&directory, &at, true)?;
    }
    at.push(file);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = step(&directory, file, flags, &at)?;
    check(&file, &at, false)?;
    Ok(file)
}

fn step(directory: impl AsFd, name: &OsStr, flags: OFlags, at: &Path) -> Result<OwnedFd> {
    use rustix::io::Errno;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| match error {
        // ENOTDIR is what O_DIRECTORY and O_NOFOLLOW say of a symbolic link.
        Errno::LOOP | Errno::NOTDIR if std::fs::symlink_metadata(at).is_ok_and(|m| m.is_symlink()) => {
            Error::denied(format!(
                "{}: it is a symbolic link, which could be made to lead elsewhere; give the path it leads to",
                at.display()
            ))
        }
        error => Error::io(format!("open {}", at.display()), error),
    })
}

/// Root's, or the daemon's own user's, and not writable by others; a sticky directory is fine, since nobody can
/// move what is another's in it.
fn check(descriptor: impl AsFd, at: &Path, is_directory: bool) -> Result<()> {
    let fail = |error: rustix::io::Errno| Error::io(format!("look at {}", at.display()), error);
    let stat: Stat = rustix::fs::fstat(descriptor).map_err(fail)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !is_directory && kind != FileType::RegularFile {
        return Err(Error::invalid(format!("{}: it is no regular file", at.display())));
    }
    let ours = rustix::process::geteuid().as_raw();
    if stat.st_uid != 0 && stat.st_uid != ours {
        return Err(Error::denied(format!(
            "{}: it belongs to user {}, who could change the plugin; have root own it (chown root)",
            at.display(),
            stat.st_uid
        )));
    }
    let is_sticky = is_directory && stat.st_mode & 0o1000 != 0;
    if stat.st_mode & 0o022 != 0 && !is_sticky {
        return Err(Error::denied(format!(
            "{}: others than its owner may write to it (mode {:04o}), and could change the plugin; chmod go-w it",
            at.display(),
            stat.st_mode & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use capstan_schema::Class;

    use super::*;

    #[test]
    fn only_what_root_alone_could_write_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let open = top.join("open");
        std::fs::create_dir(&open).unwrap();
        let file = open.join("x.so");
        std::fs::write(&file, b"\x7fELF and more").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        let check = |path: &Path, sha256: &str, class: Class, text: &str| {
            let error = Image::read(path, sha256).unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            assert!(error.message().contains(text), "{error}");
        };
        let image = Image::read(&file, "").unwrap();
        assert_eq!(image.bytes().unwrap(), b"\x7fELF and more");
        assert_eq!(image.duplicate().unwrap().bytes().unwrap(), b"\x7fELF and more");
        assert!(File::from(image.memory().try_clone().unwrap()).write_all_at(b"x", 0).is_err());

        check(&file, &"0".repeat(64), Class::Corrupt, "its sha256 is");
        check(Path::new("x.so"), "", Class::InvalidArgument, "absolute");
        check(&open.join("../open/x.so"), "", Class::InvalidArgument, "without ..");
        check(&open.join("none.so"), "", Class::NotFound, "none.so");
        check(&open, "", Class::InvalidArgument, "no regular file");
        check(Path::new("/"), "", Class::InvalidArgument, "no shared library");

        symlink(&file, open.join("link.so")).unwrap();
        check(&open.join("link.so"), "", Class::PermissionDenied, "symbolic link");
        symlink(&open, top.join("way")).unwrap();
        check(&top.join("way/x.so"), "", Class::PermissionDenied, "symbolic link");

        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o775)).unwrap();
        check(&file, "", Class::PermissionDenied, "mode 0775");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        check(&file, "", Class::PermissionDenied, "mode 0777");
        // Nobody can put another file in the place of root's in a sticky directory.
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
        Image::read(&file, "").unwrap();

        std::fs::write(&file, b"#!/bin/sh").unwrap();
        check(&file, "", Class::Corrupt, "no shared library");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(1), None).unwrap();
            check(&file, "", Class::PermissionDenied, "user 1");
        }
    }
}
