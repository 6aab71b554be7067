//! A tree beneath a root descriptor: directories are opened by the kernel's own rules, everything
//! else is reached from an open directory by its last component, which is never followed.
//!
//! The directories that were used last stay open, so a file costs no look-up of its path. A
//! directory gets the times that it is to have when it is let go of: so nothing has to be
//! remembered about a directory that is closed, and the order of entries does not matter.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use capstan_sdk::Result;
use rustix::fs::{
    AtFlags, Dir as Entries, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, linkat, mkdirat,
    mknodat, openat, openat2, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::attributes::{Attributes, Times, clear_xattrs};
use crate::error::failed;

/// How many directories stay open. A walk of a tree in order needs its depth; jumping costs one
/// system call more.
const OPEN: usize = 16;

const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory of the tree.
pub(crate) struct Dir {
    path: Vec<u8>,
    fd: OwnedFd,
    /// What its times are to be in the end.
    times: Cell<Times>,
    has_changed: Cell<bool>,
    /// Whom the files belong to that are made in it, once that was seen. Usually it is us, but
    /// setgid directories and mount options make it differ.
    gives: Cell<Option<(u32, u32)>>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    fn new(path: &[u8], fd: OwnedFd) -> Result<Self, Errno> {
        let times = Cell::new(Times::of(&fstat(&fd)?));
        let (has_changed, gives) = (Cell::new(false), Cell::new(None));
        Ok(Self { path: path.to_vec(), fd, times, has_changed, gives })
    }

    /// Its path, without any link in it.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The descriptor, for a change in the directory.
    fn change(&self) -> &OwnedFd {
        self.has_changed.set(true);
        &self.fd
    }

    /// Makes an empty file that nobody else can read yet.
    pub(crate) fn make_file(&self, base: &[u8]) -> Result<OwnedFd, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(self.change(), base, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Makes an empty file that has no name any more, to be written and read.
    pub(crate) fn make_unnamed(&self, base: &[u8]) -> Result<OwnedFd, Errno> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self.change(), base, flags, Mode::RUSR | Mode::WUSR)?;
        self.unlink(base)?;
        Ok(file)
    }

    /// Whom a file belongs to that was just made here.
    pub(crate) fn owner_of_new(&self, file: impl AsFd) -> Result<(u32, u32), Errno> {
        if let Some(owner) = self.gives.get() {
            return Ok(owner);
        }
        let stat = fstat(file)?;
        self.gives.set(Some((stat.st_uid, stat.st_gid)));
        Ok((stat.st_uid, stat.st_gid))
    }

    pub(crate) fn make_dir(&self, base: &[u8]) -> Result<(), Errno> {
        mkdirat(self.change(), base, Mode::RWXU)
    }

    pub(crate) fn make_symlink(&self, base: &[u8], target: &[u8]) -> Result<(), Errno> {
        symlinkat(target, self.change(), base)
    }

    /// Makes a device or a fifo.
    pub(crate) fn make_node(&self, base: &[u8], kind: FileType, device: u64) -> Result<(), Errno> {
        mknodat(self.change(), base, kind, Mode::RUSR | Mode::WUSR, device)
    }

    /// Gives an entry of a directory a second name; of a symbolic link, too.
    pub(crate) fn link(&self, base: &[u8], from: &Self, from_base: &[u8]) -> Result<(), Errno> {
        linkat(from, from_base, self.change(), base, AtFlags::empty())
    }

    /// Gives an entry another name, in the place of what has that name.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        renameat(&self.fd, from, self.change(), to)
    }

    /// Removes an entry that is no directory.
    pub(crate) fn unlink(&self, base: &[u8]) -> Result<(), Errno> {
        unlinkat(self.change(), base, AtFlags::empty())
    }

    /// What its times are to be in the end.
    pub(crate) fn times(&self) -> Times {
        self.times.get()
    }

    /// What an entry is; `None` if there is none.
    pub(crate) fn stat(&self, base: &[u8]) -> Result<Option<Stat>, Errno> {
        match statat(&self.fd, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn read_link(&self, base: &[u8]) -> Result<Vec<u8>, Errno> {
        readlinkat(&self.fd, base, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// The names of all entries.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        for entry in Entries::read_from(&self.fd)? {
            let entry = entry?;
            if !is_itself_or_parent(entry.file_name()) {
                names.push(entry.file_name().to_bytes().to_vec());
            }
        }
        Ok(names)
    }

    /// Opens an entry that is known to be a regular file.
    pub(crate) fn open_file(&self, base: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&self.fd, base, flags, Mode::empty())
    }

    /// Gives the directory itself its attributes, and none of those that it had; its times when it
    /// is let go of.
    pub(crate) fn describe(&self, attributes: &Attributes) -> Result<()> {
        clear_xattrs(&self.fd).map_err(failed("clear extended attributes of", self.path()))?;
        attributes.give(&self.fd, None, &self.path)?;
        self.times.set(attributes.times);
        self.has_changed.set(true);
        self.gives.set(None);
        Ok(())
    }

    /// Makes it what a directory is that nobody described.
    pub(crate) fn make_implied(&self) -> Result<()> {
        self.describe(&Attributes::implied(self.times.get()))
    }

    fn restore_times(&self) -> Result<(), Errno> {
        if self.has_changed.take() {
            self.times.get().give(&self.fd)?;
        }
        Ok(())
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    Nothing,
    Directory,
    Other,
}

/// What to do with an entry when a directory is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Remove it.
    No,
    /// Keep it for what is in it, but make it what an undescribed directory is.
    AsImplied,
    /// Keep it, and look what is in it.
    Yes,
}

/// A tree.
pub(crate) struct Tree {
    root: Rc<Dir>,
    /// The last one that was used is the first.
    open: Vec<Rc<Dir>>,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd) -> Result<Self> {
        Self::at(root).map_err(failed("look at the root", "/"))
    }

    /// The same, for who tells errors otherwise.
    pub(crate) fn at(root: OwnedFd) -> Result<Self, Errno> {
        let root = Rc::new(Dir::new(b"", root)?);
        Ok(Self { root, open: Vec::with_capacity(OPEN + 1) })
    }

    pub(crate) fn root(&self) -> Rc<Dir> {
        Rc::clone(&self.root)
    }

    /// The directory at a clean path; `None` if there is none, or a component is a symbolic link.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        match self.open(path) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(failed("open", path)(errno)),
        }
    }

    /// The same for who needs to know the difference: `NOENT`, there is none; `LOOP` or `NOTDIR`,
    /// a component is a symbolic link or no directory.
    pub(crate) fn open(&mut self, path: &[u8]) -> Result<Rc<Dir>, Errno> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some(at) = self.open.iter().position(|dir| dir.path == path) {
            self.open[..=at].rotate_right(1);
            return Ok(Rc::clone(&self.open[0]));
        }
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(&self.root.fd, path, OPEN_DIRECTORY, Mode::empty(), rules)?;
        let dir = Rc::new(Dir::new(path, fd)?);
        if self.open.len() == OPEN
            && let Some(last) = self.open.pop()
        {
            last.restore_times()?;
        }
        self.open.insert(0, Rc::clone(&dir));
        Ok(dir)
    }

    /// Removes an entry of a directory, and all that is below it.
    pub(crate) fn remove(&mut self, dir: &Dir, base: &[u8]) -> Result<Removed> {
        let path = joined(&dir.path, base);
        self.close(&path)
            .and_then(|()| remove(dir.change().as_fd(), base))
            .map_err(failed("remove", path))
    }

    /// Removes what is below a directory, but for what is to be kept.
    pub(crate) fn empty(&mut self, dir: &Dir, keep: &dyn Fn(&[u8]) -> Keep) -> Result<()> {
        // They are looked at by other descriptors, and must have their times by then.
        self.close(&dir.path).map_err(failed("set times below", dir.path()))?;
        empty(dir.change().as_fd(), &dir.path, keep)?;
        dir.restore_times().map_err(failed("set the times of", dir.path()))
    }

    /// Lets go of the directory at `path` and of those below.
    fn close(&mut self, path: &[u8]) -> Result<(), Errno> {
        let is_within = |dir: &mut Rc<Dir>| match dir.path.strip_prefix(path) {
            Some(rest) => path.is_empty() || rest.is_empty() || rest[0] == b'/',
            None => false,
        };
        self.open.extract_if(.., is_within).try_for_each(|dir| dir.restore_times())
    }

    /// Lets go of everything.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.close(b"")
            .and_then(|()| self.root.restore_times())
            .map_err(failed("set times of directories below", "/"))
    }
}

/// A directory's entry that is a directory, opened; `None` if it is something else.
fn open_directory(dir: BorrowedFd<'_>, base: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    match openat(dir, base, OPEN_DIRECTORY, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn is_itself_or_parent(base: &CStr) -> bool {
    base == c"." || base == c".."
}

fn remove(dir: BorrowedFd<'_>, base: &[u8]) -> Result<Removed, Errno> {
    match unlinkat(dir, base, AtFlags::empty()) {
        Ok(()) => return Ok(Removed::Other),
        Err(Errno::NOENT) => return Ok(Removed::Nothing),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    let mut entries = openat(dir, base, OPEN_DIRECTORY, Mode::empty()).and_then(Entries::new)?;
    while let Some(entry) = entries.read().transpose()? {
        if !is_itself_or_parent(entry.file_name()) {
            remove(entries.fd()?, entry.file_name().to_bytes())?;
        }
    }
    unlinkat(dir, base, AtFlags::REMOVEDIR)?;
    Ok(Removed::Directory)
}

fn empty(dir: BorrowedFd<'_>, path: &[u8], keep: &dyn Fn(&[u8]) -> Keep) -> Result<()> {
    let mut entries = Entries::read_from(dir).map_err(failed("read the directory", path))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(failed("read the directory", path))?;
        if is_itself_or_parent(entry.file_name()) {
            continue;
        }
        let base = entry.file_name().to_bytes();
        let path = joined(path, base);
        let kept = keep(&path);
        if kept == Keep::No {
            remove(dir, base).map_err(failed("remove", path))?;
        } else if let Some(child) =
            open_directory(dir, base).map_err(failed("open", path.as_slice()))?
        {
            let child = Dir::new(&path, child).map_err(failed("look at", path.as_slice()))?;
            empty(child.change().as_fd(), &path, keep)?;
            if kept == Keep::AsImplied {
                child.make_implied()?;
            }
            child.restore_times().map_err(failed("set the times of", path))?;
        }
    }
    Ok(())
}

pub(crate) fn joined(path: &[u8], base: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
    [path, slash, base].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn tree(path: &Path) -> Tree {
        Tree::new(fs::File::open(path).unwrap().into()).unwrap()
    }

    #[test]
    fn directories_are_opened_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("a", dir.path().join("in")).unwrap();
        symlink(".", dir.path().join("a/self")).unwrap();
        let mut tree = tree(dir.path());
        let mut check = |path: &str, want: Option<Errno>| {
            assert_eq!(tree.open(path.as_bytes()).err(), want, "{path}");
        };
        check("", None);
        check("a", None);
        check("a/b", None);
        check("a/c", Some(Errno::NOENT));
        check("c/d", Some(Errno::NOENT));
        check("file", Some(Errno::NOTDIR));
        check("file/x", Some(Errno::NOTDIR));
        check("out", Some(Errno::NOTDIR));
        check("in", Some(Errno::NOTDIR));
        check("in/b", Some(Errno::LOOP));
        check("a/self/b", Some(Errno::LOOP));
        check("..", Some(Errno::XDEV));
        check("/", Some(Errno::XDEV));
    }

    #[test]
    fn directories_keep_their_times_while_files_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..3 * OPEN).map(|n| format!("d{n}")).collect();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(7, 8);
        for name in &names {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::File::open(dir.path().join(name)).unwrap().set_modified(old).unwrap();
        }
        let mut tree = tree(dir.path());
        for round in 0..3 {
            for name in &names {
                let dir = tree.open(name.as_bytes()).unwrap();
                dir.make_file(format!("f{round}").as_bytes()).unwrap();
            }
        }
        assert!(tree.open.len() <= OPEN);
        let first = tree.open(b"d0").unwrap();
        tree.remove(&first, b"f1").unwrap();
        tree.finish().unwrap();
        for name in &names {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(metadata.modified().unwrap(), old, "{name}");
        }
    }

    #[test]
    fn what_was_removed_is_not_open_any_more() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::create_dir_all(dir.path().join("a-b")).unwrap();
        let mut tree = tree(dir.path());
        for path in ["a", "a/b", "a/b/c", "a-b"] {
            tree.open(path.as_bytes()).unwrap();
        }
        let root = tree.open(b"").unwrap();
        assert_eq!(tree.remove(&root, b"a").unwrap(), Removed::Directory);
        assert_eq!(tree.remove(&root, b"a").unwrap(), Removed::Nothing);
        assert_eq!(tree.open(b"a/b").err(), Some(Errno::NOENT));
        assert!(tree.open(b"a-b").is_ok());
    }

    #[test]
    fn removal_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), "x").unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink(outside.path(), dir.path().join("a/b/out")).unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        let mut tree = tree(dir.path());
        let root = tree.open(b"").unwrap();
        tree.empty(&root, &|_| Keep::No).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(fs::read(outside.path().join("canary")).unwrap(), b"x");
    }
}
