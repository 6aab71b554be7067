//! Puts right what differs from its layer: something new beside it, which takes its name when it is
//! whole. So there is the old or the new one at any moment, also after a power cut.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use capstan_sdk::{Error, Result};
use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

use crate::archive::{Entry, Kind};
use crate::attributes::{Attributes, clear_xattrs};
use crate::beneath::{Dir, Tree};
use crate::compare::copy_start;
use crate::error::failed;
use crate::name::Name;

/// What is new has this name until it is whole. No layer can have it, so what a power cut leaves is
/// known for what it is.
const NEW: &[u8] = b".wh..capstan-new";

/// Gives what was made as [`NEW`] its name.
fn rename(tree: &mut Tree, dir: &Dir, name: &Name) -> Result<()> {
    match dir.rename(NEW, name.base()) {
        // A directory is in the way.
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            tree.remove(dir, name.base())?;
            dir.rename(NEW, name.base()).map_err(failed("make", name))
        }
        result => result.map_err(failed("make", name)),
    }
}

/// Removes what an earlier repair has left.
fn clear(dir: &Dir, name: &Name) -> Result<()> {
    match dir.unlink(NEW) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("make room for a new", name)(errno)),
    }
}

/// A new file in the making; it is removed if it does not become whole.
pub(crate) struct Replacement<'a> {
    dir: &'a Rc<Dir>,
    name: &'a Name,
    file: File,
    is_whole: bool,
}

impl<'a> Replacement<'a> {
    pub(crate) fn new(dir: &'a Rc<Dir>, name: &'a Name) -> Result<Self> {
        clear(dir, name)?;
        let file = dir.make_file(NEW).map_err(failed("make a new", name))?;
        Ok(Self { dir, name, file: file.into(), is_whole: false })
    }

    /// Takes the start of the old file over, which is right.
    pub(crate) fn take_over(&self, old: &File, len: u64) -> Result<()> {
        copy_start(old, &self.file, len)
            .map_err(|error| Error::io(format!("copy what is right of {}", self.name), error))
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| Error::io(format!("write {}", self.name), error))
    }

    pub(crate) fn finish(mut self, tree: &mut Tree, size: u64, want: &Attributes) -> Result<()> {
        let io = |error| Error::io(format!("write {}", self.name), error);
        self.file.set_len(size).map_err(io)?;
        want.give(&self.file, None, self.name.as_bytes())?;
        want.times.give(&self.file).map_err(failed("set the times of", self.name))?;
        self.file.sync_all().map_err(io)?;
        rename(tree, self.dir, self.name)?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            // The next repair removes it otherwise.
            let _ = self.dir.unlink(NEW);
        }
    }
}

/// Gives an open file its attributes, and none that it has beside them.
pub(crate) fn attributes(file: impl AsFd, want: &Attributes, name: &Name) -> Result<()> {
    clear_xattrs(&file).map_err(failed("clear extended attributes of", name))?;
    want.give(&file, None, name.as_bytes())?;
    want.times.give(&file).map_err(failed("set the times of", name))
}

/// Makes a symbolic link, a device or a fifo anew.
pub(crate) fn entry(tree: &mut Tree, dir: &Dir, name: &Name, entry: &Entry) -> Result<()> {
    clear(dir, name)?;
    let made = match &entry.kind {
        Kind::Symlink(target) => dir.make_symlink(NEW, target),
        Kind::Fifo => dir.make_node(NEW, FileType::Fifo, 0),
        &Kind::CharDevice(major, minor) => {
            dir.make_node(NEW, FileType::CharacterDevice, makedev(major, minor))
        }
        &Kind::BlockDevice(major, minor) => {
            dir.make_node(NEW, FileType::BlockDevice, makedev(major, minor))
        }
        Kind::File { .. } | Kind::Directory | Kind::Link(_) => Err(Errno::INVAL),
    };
    made.map_err(failed("make a new", name))?;
    entry.attributes.give_entry(dir, NEW, matches!(entry.kind, Kind::Symlink(_)))?;
    rename(tree, dir, name)
}

/// Makes a name one of another file's.
pub(crate) fn link(
    tree: &mut Tree,
    dir: &Dir,
    name: &Name,
    from: &Dir,
    target: &Name,
) -> Result<()> {
    clear(dir, name)?;
    dir.link(NEW, from, target.base()).map_err(failed("link", name))?;
    rename(tree, dir, name)
}
