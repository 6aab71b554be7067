//! What a layer in overlay form takes from its parents, once they are there.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use capstan_sdk::contract::differ::Pending;
use capstan_sdk::{Error, Result};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::Config;
use crate::apply::{is_directory, is_whiteout};
use crate::attributes::{Attributes, is_opaque};
use crate::beneath::{Dir, Tree};
use crate::error::{Shown, failed};
use crate::name::{Name, ancestors, base, parent};
use crate::parents::Parents;

/// Gives the layer below `layer` what is `pending`, out of its parents.
///
/// # Errors
/// As [`Settle`](capstan_sdk::contract::differ::Settle) says. `Corrupt`: the target of a link is
/// not in the parents, or is a directory.
pub fn settle(layer: OwnedFd, parents: Parents, pending: &Pending, config: &Config) -> Result<()> {
    let mut settler = Settler {
        layer: Tree::new(layer)?,
        parents,
        made: BTreeSet::new(),
        copies: HashMap::new(),
    };
    let clean = |path: &Path| Name::clean(path.as_os_str().as_bytes(), config);
    let mut own = Vec::new();
    for path in &pending.directories {
        let name = clean(path)?;
        if !settler.directory(name.as_bytes())? {
            own.push(name);
        }
    }
    for (link, target) in &pending.links {
        settler.link(&clean(link)?, &clean(target)?)?;
    }
    for path in std::mem::take(&mut settler.made) {
        settler.directory(&path)?;
    }
    for name in own.iter().rev() {
        settler.prune(name)?;
    }
    settler.layer.finish()
}

struct Settler {
    layer: Tree,
    parents: Parents,
    /// Directories that were made on the way to a target.
    made: BTreeSet<Vec<u8>>,
    /// Where the copies of targets are that cannot be in the target's place.
    copies: HashMap<Name, Name>,
}

/// What the layer has in a target's place.
enum Place {
    /// The file.
    Taken,
    /// Nothing: the parent's shows through.
    Free,
    /// A whiteout, or a directory above that hides the parents: the file is deleted by this layer.
    Hidden,
}

impl Settler {
    /// Copies the attributes of a directory; `false` if the parents have none there.
    fn directory(&mut self, path: &[u8]) -> Result<bool> {
        let from = match self.parents.directory(path) {
            Ok(from) => from,
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Error::precondition(format!(
                    "the layer's directory {} is a link or a file in its parents: it can only be \
                     applied on them",
                    Shown(path)
                )));
            }
            Err(errno) => return Err(failed("open in the parent layers", path)(errno)),
        };
        let attributes = Attributes::of(&from).map_err(failed("look at", path))?;
        self.layer.open(path).map_err(failed("open", path))?.describe(&attributes)?;
        Ok(true)
    }

    /// Cleans a directory up that the parents do not have: whiteouts in it delete nothing, and if
    /// there is nothing else, it was made for them. A whiteout makes no directory.
    fn prune(&mut self, name: &Name) -> Result<()> {
        let Some(dir) = self.layer.find(name.as_bytes())? else { return Ok(()) };
        let mut is_empty = true;
        for base in dir.names().map_err(failed("read the directory", name))? {
            let stat = dir.stat(&base).map_err(failed("look at", name))?;
            if stat.is_some_and(|stat| is_whiteout(&stat)) {
                self.layer.remove(&dir, &base)?;
            } else {
                is_empty = false;
            }
        }
        if is_empty {
            let above = self.layer.open(name.parent()).map_err(failed("open", name.parent()))?;
            self.layer.remove(&above, name.base())?;
        }
        Ok(())
    }

    fn link(&mut self, link: &Name, target: &Name) -> Result<()> {
        let from = match self.copies.get(target) {
            Some(copy) => copy.clone(),
            None => match self.place(target)? {
                Place::Taken => target.clone(),
                Place::Free => self.copy(target, target)?,
                Place::Hidden => {
                    self.copies.insert(target.clone(), link.clone());
                    self.copy(target, link)?
                }
            },
        };
        if from == *link {
            return Ok(());
        }
        let from_dir = self.layer.open(from.parent()).map_err(failed("open", from.parent()))?;
        let dir = self.layer.open(link.parent()).map_err(failed("open", link.parent()))?;
        self.layer.remove(&dir, link.base())?;
        dir.link(link.base(), &from_dir, from.base()).map_err(failed("link", link))
    }

    fn place(&mut self, target: &Name) -> Result<Place> {
        let above: Vec<&[u8]> = ancestors(target.as_bytes()).collect();
        for path in above.into_iter().rev() {
            match self.layer.open(path) {
                Ok(dir) if is_opaque(&dir).map_err(failed("look at", path))? => {
                    return Ok(Place::Hidden);
                }
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(Place::Free),
                Err(Errno::LOOP | Errno::NOTDIR) => return Ok(Place::Hidden),
                Err(errno) => return Err(failed("open", path)(errno)),
            }
        }
        let dir = self.layer.open(target.parent()).map_err(failed("open", target))?;
        Ok(match dir.stat(target.base()).map_err(failed("look at", target))? {
            None => Place::Free,
            Some(stat) if is_whiteout(&stat) => Place::Hidden,
            Some(stat) if is_directory(&stat) => {
                return Err(Error::corrupt(format!(
                    "the target {target} of a hard link is a directory"
                )));
            }
            Some(_) => Place::Taken,
        })
    }

    /// Copies a file of the parents to a name in the layer.
    fn copy(&mut self, target: &Name, name: &Name) -> Result<Name> {
        let missing = |why: &str| {
            Error::corrupt(format!("the target {target} of a hard link {why} the parent layers"))
        };
        let (from, stat) = match self.parents.entry(target.parent(), target.base()) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Err(missing("is not in")),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(missing("is behind a link in")),
            Err(errno) => return Err(failed("look at in the parent layers", target)(errno)),
        };
        if is_directory(&stat) {
            return Err(missing("is a directory in"));
        }
        let dir = self.dir(name.parent())?;
        self.layer.remove(&dir, name.base())?;
        copy(&from, target.base(), &stat, &dir, name)?;
        Ok(name.clone())
    }

    /// A directory of the layer, made if it is missing.
    fn dir(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        match self.layer.open(path) {
            Err(Errno::NOENT) => {}
            result => return result.map_err(failed("open", path)),
        }
        let above = self.dir(parent(path))?;
        above.make_dir(base(path)).map_err(failed("make", path))?;
        let dir = self.layer.open(path).map_err(failed("open", path))?;
        dir.make_implied()?;
        self.made.insert(path.to_vec());
        Ok(dir)
    }
}

/// Copies one file, whatever it is.
fn copy(from: &Dir, from_base: &[u8], stat: &Stat, to: &Dir, name: &Name) -> Result<()> {
    let base = name.base();
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::RegularFile {
        let old = from.open_file(from_base).map_err(failed("open", name))?;
        let attributes = Attributes::of(&old).map_err(failed("look at", name))?;
        let mut new = File::from(to.make_file(base).map_err(failed("make", name))?);
        // This is copy_file_range, where both file systems can.
        std::io::copy(&mut File::from(old), &mut new)
            .map_err(|error| Error::io(format!("copy {name}"), error))?;
        attributes.give(&new, None, name.as_bytes())?;
        return attributes.times.give(&new).map_err(failed("set the times of", name));
    }
    let attributes =
        Attributes::of_entry(from, from_base, stat).map_err(failed("look at", name))?;
    let is_symlink = kind == FileType::Symlink;
    let made = if is_symlink {
        from.read_link(from_base).and_then(|target| to.make_symlink(base, &target))
    } else {
        to.make_node(base, kind, stat.st_rdev)
    };
    made.map_err(failed("make", name))?;
    attributes.give_entry(to, base, is_symlink)
}
