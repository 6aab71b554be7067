//! What each entry of a layer does to a tree (OCI image-spec, layer.md, "Applying Changesets").

use std::os::fd::OwnedFd;
use std::rc::Rc;

use capstan_sdk::contract::differ::{Applied, LayerStream, Pending, Whiteouts};
use capstan_sdk::{Error, Result};
use rustix::fs::{FileType, Stat, ftruncate, makedev};
use rustix::io::Errno;

use crate::Config;
use crate::ahead::Ahead;
use crate::archive::{Archive, Entry, Kind, Source};
use crate::attributes::{Attributes, set_opaque};
use crate::beneath::{Dir, Keep, Removed, Tree};
use crate::config::{exceeded, refused};
use crate::error::{Shown, failed};
use crate::form::Form;
use crate::name::{Name, Role, base, parent};
use crate::pipe::with_pipe;
use crate::plinks::{Plinks, write_all};
use crate::stream::Stream;

/// As many links as the kernel follows in one path.
pub(crate) const MAX_LINKS: u32 = 40;

/// Unpacks a layer into the tree below `root`, which must be writable for nobody else.
///
/// # Errors
/// As [`Apply`](capstan_sdk::contract::differ::Apply) says. `FailedPrecondition`, with
/// [`Whiteouts::Overlay`] alone: the layer has no overlay form (it reaches through a symbolic link
/// of its own, empties the root, or replaces the target of a link to the parents); apply it on its
/// parents with [`Whiteouts::Remove`].
pub fn apply(
    layer: LayerStream,
    media_type: &str,
    root: OwnedFd,
    whiteouts: Whiteouts,
    config: &Config,
) -> Result<Applied> {
    let stream = Stream::open(layer, media_type, config)?;
    let ahead = Ahead::new(root.try_clone().ok());
    let mut applier = Applier {
        tree: Tree::new(root)?,
        form: Form::new(whiteouts, config),
        config,
        entries: 0,
        plinks: Plinks::default(),
        ahead,
    };
    let (pending, diff_id, size) = with_pipe(stream, |pipe| {
        let mut archive = Archive::new(pipe, config);
        while let Some(entry) = archive.next()? {
            applier.entry(entry, &mut archive)?;
        }
        applier.finish()
    })?;
    Ok(Applied { diff_id, size, pending })
}

/// What a directory is looked up for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To make something in it: it is made, too, and it must be a directory.
    Thing,
    /// To write down in it what the parents lose: it is made, too, but where this layer has
    /// something that is no directory, nothing is left to lose.
    Mark,
    /// To delete something in it: it may be missing.
    Deletion,
}

struct Applier<'a> {
    tree: Tree,
    form: Form,
    config: &'a Config,
    /// Entries, and directories without one.
    entries: u64,
    plinks: Plinks,
    ahead: Ahead,
}

impl Applier<'_> {
    fn entry<S: Source>(&mut self, entry: Entry, archive: &mut Archive<'_, S>) -> Result<()> {
        self.count()?;
        match Name::clean(&entry.path, self.config)?.role()? {
            Role::Thing(name) if name.is_root() => self.root(&entry),
            Role::Thing(name) => self.thing(&name, &entry, archive),
            Role::Opaque(name) => self.opaque(&name),
            Role::Whiteout(name) => self.whiteout(&name),
            Role::Plink(base) => {
                let root = self.tree.root();
                self.plinks.keep(&root, base, entry, archive, self.config)
            }
            Role::Aufs => Ok(()),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.config.max_entries {
            return Err(exceeded("entries in the layer", "max_entries", self.config.max_entries));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Pending> {
        self.check_links()?;
        self.write_deletions()?;
        self.tree.finish()?;
        self.ahead.finish()?;
        Ok(match self.form {
            Form::Remove(_) => Pending::default(),
            Form::Overlay(owed) => owed.finish(),
        })
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::corrupt("the root of the layer is no directory"));
        }
        self.tree.root().describe(&entry.attributes)?;
        self.form.describe(&Name::default());
        Ok(())
    }

    fn thing<S: Source>(
        &mut self,
        name: &Name,
        entry: &Entry,
        archive: &mut Archive<'_, S>,
    ) -> Result<()> {
        let dir = self.dir(name.parent(), Purpose::Thing)?;
        let dir = dir.expect("it was made if it was missing");
        // Links of the parents may have led elsewhere.
        let name = &Name::within(dir.path(), name.base(), self.config)?;
        let attributes = &entry.attributes;
        self.check_policy(name, entry)?;
        match &entry.kind {
            Kind::Directory => self.directory(&dir, name, attributes),
            Kind::File { size, is_sparse } => {
                let holes_up_to = is_sparse.then_some(*size);
                self.file(&dir, name, attributes, holes_up_to, archive)
            }
            Kind::Link(target) => self.link(&dir, name, target, archive),
            Kind::Symlink(target) => {
                check_target(name, target, self.config)?;
                self.replacing(&dir, name, || dir.make_symlink(name.base(), target))?;
                self.form.describe(name);
                attributes.give_entry(&dir, name.base(), true)
            }
            Kind::Fifo => self.node(&dir, name, attributes, FileType::Fifo, 0),
            // This is how overlayfs writes a whiteout: to a layer it is nothing but a trick.
            Kind::CharDevice(0, 0) => {
                Err(Error::corrupt(format!("{name} is a character device 0:0, not a device")))
            }
            &Kind::CharDevice(major, minor) => {
                let device = makedev(major, minor);
                self.node(&dir, name, attributes, FileType::CharacterDevice, device)
            }
            &Kind::BlockDevice(major, minor) => {
                let device = makedev(major, minor);
                self.node(&dir, name, attributes, FileType::BlockDevice, device)
            }
        }
    }

    fn check_policy(&self, name: &Name, entry: &Entry) -> Result<()> {
        let is_device = matches!(entry.kind, Kind::CharDevice(..) | Kind::BlockDevice(..));
        if is_device && !self.config.allow_devices {
            return Err(refused(&format!("{name} is a device"), "allow_devices"));
        }
        let attributes = &entry.attributes;
        let has_more = entry.kind != Kind::Directory && attributes.mode & 0o6000 != 0
            || attributes.xattrs.contains_key(b"security.capability".as_slice());
        if has_more && !self.config.allow_setuid {
            let what = format!("{name} has the setuid or setgid bit, or capabilities");
            return Err(refused(&what, "allow_setuid"));
        }
        Ok(())
    }

    fn file<S: Source>(
        &mut self,
        dir: &Dir,
        name: &Name,
        attributes: &Attributes,
        holes_up_to: Option<u64>,
        archive: &mut Archive<'_, S>,
    ) -> Result<()> {
        let file = self.replacing(dir, name, || dir.make_file(name.base()))?;
        self.form.describe(name);
        let mut written = 0;
        archive.copy(|offset, bytes| {
            written += bytes.len() as u64;
            write_all(&file, bytes, offset).map_err(failed("write", name))
        })?;
        self.ahead.wrote(written)?;
        if let Some(size) = holes_up_to {
            ftruncate(&file, size).map_err(failed("set the size of", name))?;
        }
        give(dir, &file, name, attributes)
    }

    fn node(
        &mut self,
        dir: &Dir,
        name: &Name,
        attributes: &Attributes,
        kind: FileType,
        device: u64,
    ) -> Result<()> {
        self.replacing(dir, name, || dir.make_node(name.base(), kind, device))?;
        self.form.describe(name);
        attributes.give_entry(dir, name.base(), false)
    }

    /// Makes something that is no directory; what has its name is removed first.
    fn replacing<T>(
        &mut self,
        dir: &Dir,
        name: &Name,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T> {
        if let Some(owed) = self.form.owed() {
            owed.unlink(name);
        }
        match make() {
            Err(Errno::EXIST) => {
                self.remove(dir, name)?;
                make().map_err(failed("make", name))
            }
            result => result.map_err(failed("make", name)),
        }
    }

    fn remove(&mut self, dir: &Dir, name: &Name) -> Result<Removed> {
        let removed = self.tree.remove(dir, name.base())?;
        if removed == Removed::Directory
            && let Some(owed) = self.form.owed()
        {
            owed.forget(name);
        }
        Ok(removed)
    }

    fn directory(&mut self, dir: &Dir, name: &Name, attributes: &Attributes) -> Result<()> {
        // What it replaces in its own layer had replaced what the parents have: they must not
        // show through.
        let mut hides = self.form.owed().is_some_and(|owed| owed.unlink(name));
        let made = dir.make_dir(name.base());
        if made == Err(Errno::EXIST) {
            let stat = dir.stat(name.base()).map_err(failed("look at", name))?;
            if !stat.is_some_and(|stat| is_directory(&stat)) {
                self.remove(dir, name)?;
                dir.make_dir(name.base()).map_err(failed("make", name))?;
                hides = true;
            }
        } else {
            made.map_err(failed("make", name))?;
        }
        let made = self.tree.open(name.as_bytes()).map_err(failed("open", name))?;
        if hides && let Some(owed) = self.form.owed() {
            owed.empty(name)?;
        }
        self.form.describe(name);
        made.describe(attributes)
    }

    fn link<S: Source>(
        &mut self,
        dir: &Dir,
        name: &Name,
        target: &[u8],
        archive: &mut Archive<'_, S>,
    ) -> Result<()> {
        let mut target = Name::clean(target, self.config)?;
        if let Some(plink) = target.plink() {
            return self.plink(dir, name, plink, archive);
        }
        let bad = |why: &str| {
            Err(Error::corrupt(format!(
                "the hard link {name} to {}: {why}",
                Shown(target.as_bytes())
            )))
        };
        if target.is_reserved() {
            return bad("the target has the name of a whiteout");
        }
        if target.is_root() || target.is_beneath(name) {
            return bad("the target is above or below the link");
        }
        let found = match self.tree.open(target.parent()) {
            Ok(from) => {
                let stat = from.stat(target.base()).map_err(failed("look at", &target))?;
                stat.map(|stat| (from, stat))
            }
            Err(Errno::NOENT) => None,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return bad("the way to the target leads over something that is no directory");
            }
            Err(errno) => return Err(failed("open", target.parent())(errno)),
        };
        if let Some((from, stat)) = found {
            if is_directory(&stat) {
                return bad("the target is a directory");
            }
            if target != *name {
                self.replacing(dir, name, || dir.link(name.base(), &from, target.base()))?;
            }
            self.form.describe(name);
            return Ok(());
        }
        if let Some(owed) = self.form.owed()
            && !owed.is_deleted(target.as_bytes())
        {
            if let Some(first) = owed.target(&target).cloned() {
                target = first;
            }
            self.remove(dir, name)?;
            return self.form.owed().map_or(Ok(()), |owed| owed.link(name, &target));
        }
        bad("there is no such target")
    }

    /// A link to where aufs has files with several names becomes a copy.
    fn plink<S: Source>(
        &mut self,
        dir: &Dir,
        name: &Name,
        target: &[u8],
        archive: &mut Archive<'_, S>,
    ) -> Result<()> {
        let file = self.replacing(dir, name, || dir.make_file(name.base()))?;
        self.form.describe(name);
        let Some(plink) = self.plinks.find(target) else {
            return Err(Error::corrupt(format!(
                "the hard link {name}: there is no file {} among aufs's pseudo-links before it",
                Shown(target)
            )));
        };
        archive.charge(plink.size)?;
        self.check_policy(name, &plink.entry)?;
        self.plinks.copy(plink, &file, name.as_bytes())?;
        give(dir, &file, name, &plink.entry.attributes)
    }

    fn opaque(&mut self, name: &Name) -> Result<()> {
        if let Some(owed) = self.form.owed() {
            if name.is_root() {
                return Err(Error::precondition(
                    "the layer empties the root: it can only be applied on its parent layers",
                ));
            }
            return owed.empty(name);
        }
        match self.dir(name.as_bytes(), Purpose::Deletion)? {
            Some(dir) => self.empty(&dir),
            None => Ok(()),
        }
    }

    /// Removes what the parents have in a directory.
    fn empty(&mut self, dir: &Dir) -> Result<()> {
        match &mut self.form {
            Form::Remove(made) if made.is_emptied(dir.path()) => Ok(()),
            Form::Remove(made) => {
                made.empty(dir.path());
                self.tree.empty(dir, &|path| made.keep(path))
            }
            Form::Overlay(_) => Ok(()),
        }
    }

    fn whiteout(&mut self, name: &Name) -> Result<()> {
        if let Some(owed) = self.form.owed() {
            return owed.delete(name);
        }
        let Some(dir) = self.dir(name.parent(), Purpose::Deletion)? else { return Ok(()) };
        let name = &Name::within(dir.path(), name.base(), self.config)?;
        let keep = self.form.keep(name);
        if keep == Keep::No {
            return self.remove(&dir, name).map(drop);
        }
        // This layer has something of that name, which stays; the parents' goes.
        let Some(made) = self.tree.find(name.as_bytes())? else { return Ok(()) };
        self.empty(&made)?;
        match keep {
            Keep::AsImplied => made.make_implied(),
            Keep::No | Keep::Yes => Ok(()),
        }
    }

    /// A link to a file of the parents cannot be told from one to what its own layer put in the
    /// target's place afterwards.
    fn check_links(&mut self) -> Result<()> {
        let Form::Overlay(owed) = &self.form else { return Ok(()) };
        for (link, target) in owed.links().filter(|(link, target)| link != target) {
            let Some(dir) = self.tree.find(parent(target))? else { continue };
            if dir.stat(base(target)).map_err(failed("look at", target))?.is_some() {
                return Err(Error::precondition(format!(
                    "the hard link {} stands before {}, its target: it can only be applied on its \
                     parent layers",
                    Shown(link),
                    Shown(target)
                )));
            }
        }
        Ok(())
    }

    /// Writes down what the parents lose, as overlayfs reads it.
    fn write_deletions(&mut self) -> Result<()> {
        let Some(owed) = self.form.owed() else { return Ok(()) };
        for path in owed.whiteouts() {
            let Some(dir) = self.dir(parent(&path), Purpose::Mark)? else { continue };
            match dir.make_node(base(&path), FileType::CharacterDevice, 0) {
                // This layer has something of that name, which stays.
                Err(Errno::EXIST) => {
                    if let Some(made) = self.tree.find(&path)? {
                        set_opaque(&made).map_err(failed("make opaque", &path))?;
                    }
                }
                result => result.map_err(failed("make the whiteout of", &path))?,
            }
        }
        let opaque = self.form.owed().map(|owed| owed.opaque()).unwrap_or_default();
        for (path, is_to_be_made) in opaque {
            let purpose = if is_to_be_made { Purpose::Mark } else { Purpose::Deletion };
            if let Some(dir) = self.dir(&path, purpose)? {
                set_opaque(&dir).map_err(failed("make opaque", &path))?;
            }
        }
        Ok(())
    }

    /// The directory at a clean path.
    fn dir(&mut self, path: &[u8], purpose: Purpose) -> Result<Option<Rc<Dir>>> {
        if let Some(dir) = self.tree.find(path)? {
            return Ok(Some(dir));
        }
        let root = self.tree.root();
        self.walk(root, path, purpose, &mut 0)
    }

    /// Goes from a directory along a path, which may be a link's target, and never leaves the root.
    fn walk(
        &mut self,
        mut at: Rc<Dir>,
        path: &[u8],
        purpose: Purpose,
        links: &mut u32,
    ) -> Result<Option<Rc<Dir>>> {
        for component in path.split(|&byte| byte == b'/') {
            let next = match component {
                b"" | b"." => continue,
                b".." => self.tree.find(parent(at.path()))?,
                base => self.step(&at, base, purpose, links)?,
            };
            let Some(next) = next else { return Ok(None) };
            at = next;
        }
        Ok(Some(at))
    }

    fn step(
        &mut self,
        at: &Rc<Dir>,
        base: &[u8],
        purpose: Purpose,
        links: &mut u32,
    ) -> Result<Option<Rc<Dir>>> {
        let name = &Name::within(at.path(), base, self.config)?;
        if let Some(dir) = self.tree.find(name.as_bytes())? {
            return Ok(Some(dir));
        }
        let stat = at.stat(base).map_err(failed("look at", name))?;
        let is_linked = self.form.owed().is_some_and(|owed| owed.target(name).is_some());
        match stat {
            None if purpose == Purpose::Deletion => Ok(None),
            None if !is_linked => self.make_implied(at, name).map(Some),
            Some(stat) if is_symlink(&stat) => {
                *links += 1;
                self.follow(at, name, purpose, links)
            }
            _ if purpose == Purpose::Thing => Err(Error::corrupt(format!(
                "the layer has entries below {name}, which is no directory"
            ))),
            _ => Ok(None),
        }
    }

    /// Follows a symbolic link that is not the last component, as if the root were `/`.
    fn follow(
        &mut self,
        at: &Rc<Dir>,
        name: &Name,
        purpose: Purpose,
        links: &mut u32,
    ) -> Result<Option<Rc<Dir>>> {
        if self.form.owed().is_some() {
            return Err(Error::precondition(format!(
                "the layer reaches through its own symbolic link {name}: it can only be applied on \
                 its parent layers"
            )));
        }
        if *links > MAX_LINKS {
            return Err(Error::corrupt(format!("{name} is a loop of symbolic links")));
        }
        let target = at.read_link(name.base()).map_err(failed("read the link", name))?;
        let start = if target.starts_with(b"/") { self.tree.root() } else { Rc::clone(at) };
        self.walk(start, &target, purpose, links)
    }

    /// Makes a directory that no entry described so far.
    fn make_implied(&mut self, at: &Dir, name: &Name) -> Result<Rc<Dir>> {
        self.count()?;
        at.make_dir(name.base()).map_err(failed("make", name))?;
        let dir = self.tree.open(name.as_bytes()).map_err(failed("open", name))?;
        dir.make_implied()?;
        if let Some(owed) = self.form.owed() {
            owed.imply(name)?;
        }
        Ok(dir)
    }
}

/// Gives a new file its attributes and times.
fn give(dir: &Dir, file: &OwnedFd, name: &Name, attributes: &Attributes) -> Result<()> {
    let owner = dir.owner_of_new(file).map_err(failed("look at", name))?;
    attributes.give(file, Some(owner), name.as_bytes())?;
    attributes.times.give(file).map_err(failed("set the times of", name))
}

/// What no symbolic link can lead to.
pub(crate) fn check_target(name: &Name, target: &[u8], config: &Config) -> Result<()> {
    let limit = config.max_path_bytes;
    match target.len() {
        0 => Err(Error::corrupt(format!("the symbolic link {name} has no target"))),
        len if len > limit => {
            Err(exceeded(&format!("the target of {name}"), "max_path_bytes", limit))
        }
        _ => Ok(()),
    }
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(crate) fn is_symlink(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// How overlayfs writes that there is nothing.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
