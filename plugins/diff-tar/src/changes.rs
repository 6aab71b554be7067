//! What a tree has and its parent has not, in the order of names.
//!
//! Both trees are walked together, directory by directory and component by component, so no name
//! is taken for another one's neighbour. Of an overlay only the upper directory is walked, and what
//! is in it is compared with the parent as everything else is: the changes are the same either way.
//!
//! The tree may be in use. Nothing is reached through a name that could lead elsewhere.

use std::cmp::Ordering;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use capstan_sdk::{Error, Result};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::Config;
use crate::apply::{is_directory, is_whiteout};
use crate::attributes::{Attributes, Marks, marks};
use crate::beneath::{Dir, Tree, joined};
use crate::config::exceeded;
use crate::error::{Shown, failed};
use crate::name::{base, parent};
use crate::stream::CHUNK;

/// How the tree is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Whole: what is not in it is gone.
    Whole,
    /// The upper directory of an overlay: what is not in it is as the parent has it.
    Upper {
        /// What overlayfs's own attributes start with: `trusted.overlay.`, or `user.overlay.` if
        /// the overlay is mounted with `userxattr`.
        prefix: &'static str,
    },
}

/// One change.
pub(crate) enum Change {
    /// Something is there that was not, or that was different.
    Changed(Found),
    /// It is as it was, but other names of the file may have changed.
    Same(Found),
    /// The parent's is gone.
    Gone(Vec<u8>),
}

/// Something in the tree.
pub(crate) struct Found {
    /// Clean; the root is the empty one.
    pub(crate) path: Vec<u8>,
    /// What it is in.
    pub(crate) dir: Rc<Dir>,
    pub(crate) stat: Stat,
    /// What the parent has there.
    pub(crate) before: Option<Stat>,
}

impl Found {
    pub(crate) fn base(&self) -> &[u8] {
        base(&self.path)
    }
}

/// A directory that is walked.
struct Level {
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// The parent has it, too.
    has_before: bool,
    /// All that it shows is in it.
    is_whole: bool,
}

/// A walk through a tree and its parent.
pub(crate) struct Changes<'a> {
    tree: Tree,
    before: Option<Tree>,
    shape: Shape,
    config: &'a Config,
    levels: Vec<Level>,
}

impl<'a> Changes<'a> {
    pub(crate) fn new(
        tree: OwnedFd,
        before: Option<OwnedFd>,
        shape: Shape,
        config: &'a Config,
    ) -> Result<Self> {
        let before = before.map(Tree::new).transpose()?;
        let mut changes =
            Self { tree: Tree::new(tree)?, before, shape, config, levels: Vec::new() };
        changes.enter(Vec::new(), changes.before.is_some(), shape == Shape::Whole)?;
        Ok(changes)
    }

    /// What the root has beside its entries, now and before.
    pub(crate) fn roots(&self) -> Result<(Attributes, Option<Attributes>)> {
        let of = |tree: &Tree| -> Result<Attributes> {
            let root = Attributes::of(&*tree.root()).map_err(failed("look at", "/"))?;
            Ok(root.portable())
        };
        Ok((of(&self.tree)?, self.before.as_ref().map(of).transpose()?))
    }

    /// The next change; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Change>> {
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let path = joined(&level.path, &name);
            let (has_before, is_whole) = (level.has_before, level.is_whole);
            if let Some(change) = self.look(path, has_before, is_whole)? {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    fn look(&mut self, path: Vec<u8>, has_before: bool, is_whole: bool) -> Result<Option<Change>> {
        if path.len() > self.config.max_path_bytes {
            let what = format!("bytes in the name {}", Shown(&path));
            return Err(exceeded(&what, "max_path_bytes", self.config.max_path_bytes));
        }
        if self.levels.len() > self.config.max_depth {
            let what = format!("components of the name {}", Shown(&path));
            return Err(exceeded(&what, "max_depth", self.config.max_depth));
        }
        let dir = self.tree.open(parent(&path)).map_err(changed(&path))?;
        let stat = dir.stat(base(&path)).map_err(failed("look at", path.as_slice()))?;
        let stat = stat.filter(is_storable);
        let old = match &mut self.before {
            Some(before) if has_before => {
                let above = before.open(parent(&path)).map_err(changed(&path))?;
                let old = above.stat(base(&path)).map_err(failed("look at", path.as_slice()))?;
                old.filter(is_storable).map(|old| (above, old))
            }
            _ => None,
        };
        let Some(stat) = stat else {
            return Ok(old.map(|_| Change::Gone(path)));
        };
        if is_directory(&stat) {
            let was_directory = old.as_ref().is_some_and(|(_, old)| is_directory(old));
            let marks = self.marks(&path)?;
            self.enter(path.clone(), was_directory, is_whole || marks.is_opaque)?;
        }
        let is_same = match &old {
            Some((above, old)) => self.is_same(&dir, &stat, above, old, &path)?,
            None => false,
        };
        let found = Found { path, dir, stat, before: old.map(|(_, old)| old) };
        Ok(Some(if is_same { Change::Same(found) } else { Change::Changed(found) }))
    }

    /// Overlayfs's marks on a directory of an upper one.
    fn marks(&mut self, path: &[u8]) -> Result<Marks> {
        let Shape::Upper { prefix } = self.shape else { return Ok(Marks::default()) };
        let dir = self.tree.open(path).map_err(changed(path))?;
        let marks = marks(&*dir, prefix).map_err(failed("look at", path))?;
        if marks.is_elsewhere {
            return Err(elsewhere(path));
        }
        Ok(marks)
    }

    /// Goes into a directory, once what is said about it is said.
    fn enter(&mut self, path: Vec<u8>, has_before: bool, is_whole: bool) -> Result<()> {
        let list = |tree: &mut Tree| {
            let dir = tree.open(&path).map_err(changed(&path))?;
            dir.names().map_err(failed("read the directory", path.as_slice()))
        };
        let mut names = list(&mut self.tree)?;
        if let Some(before) = self.before.as_mut().filter(|_| has_before && is_whole) {
            names.append(&mut list(before)?);
        }
        names.sort_unstable();
        names.dedup();
        self.levels.push(Level { path, names: names.into_iter(), has_before, is_whole });
        Ok(())
    }

    /// Whether something is as it was. Files with whole seconds, or with none, are compared byte by
    /// byte: some programs and file systems cut times off, and a change may hide behind one.
    fn is_same(
        &self,
        dir: &Dir,
        stat: &Stat,
        above: &Dir,
        old: &Stat,
        path: &[u8],
    ) -> Result<bool> {
        if (stat.st_dev, stat.st_ino) == (old.st_dev, old.st_ino) {
            return Ok(true);
        }
        let parts = |stat: &Stat| {
            (
                stat.st_mode,
                stat.st_uid,
                stat.st_gid,
                stat.st_rdev,
                stat.st_mtime,
                stat.st_mtime_nsec,
            )
        };
        if parts(stat) != parts(old) {
            return Ok(false);
        }
        let (base, fail) = (base(path), || failed("look at", path));
        let xattrs = |dir: &Dir, stat: &Stat| {
            Attributes::of_entry(dir, base, stat).map(|attributes| attributes.portable().xattrs)
        };
        if !is_directory(stat) && stat.st_size != old.st_size
            || xattrs(dir, stat).map_err(fail())? != xattrs(above, old).map_err(fail())?
        {
            return Ok(false);
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = dir.read_link(base).map_err(fail())?;
                Ok(target == above.read_link(base).map_err(fail())?)
            }
            FileType::RegularFile if stat.st_mtime_nsec == 0 && stat.st_size > 0 => {
                let open = |dir: &Dir| dir.open_file(base).map(File::from).map_err(fail());
                is_same_content(&open(dir)?, &open(above)?)
                    .map_err(|error| Error::io(format!("read {}", Shown(path)), error))
            }
            _ => Ok(true),
        }
    }
}

/// Whether a layer can have it. A character device 0/0 is how overlayfs writes that there is
/// nothing; a socket is nothing without its process.
fn is_storable(stat: &Stat) -> bool {
    !is_whiteout(stat) && FileType::from_raw_mode(stat.st_mode) != FileType::Socket
}

/// The content of something in an upper directory is not in it.
pub(crate) fn elsewhere(path: &[u8]) -> Error {
    Error::precondition(format!(
        "{} of the overlay has its content in a lower layer (redirect_dir or metacopy): mount it \
         with redirect_dir=off,metacopy=off",
        Shown(path)
    ))
}

/// A directory is not what it was a moment ago.
pub(crate) fn changed(path: &[u8]) -> impl FnOnce(Errno) -> Error + '_ {
    move |errno| match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::aborted(format!(
            "{} was changed while it was read; stop or pause what runs in it, and try again",
            Shown(path)
        )),
        errno => failed("open", path)(errno),
    }
}

fn is_same_content(one: &File, other: &File) -> std::io::Result<bool> {
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let (len, other_len) = (fill(one, &mut a, at)?, fill(other, &mut b, at)?);
        if a[..len].cmp(&b[..other_len]) != Ordering::Equal {
            return Ok(false);
        }
        if len < a.len() {
            return Ok(true);
        }
        at += len as u64;
    }
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn fill(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
