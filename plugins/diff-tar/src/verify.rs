//! Compares a tree with the layers that it was made of, and puts right what differs.
//!
//! The layers are read once each, from the top, and nothing of them is kept but hashes of names: a
//! file that a layer above has, or hides, is not looked at again. A damaged file is replaced by a
//! new one beside it that takes its name when it is whole.
//!
//! What cannot be told: whether a whiteout is missing in a directory that the layer does not
//! describe, for those of files that the parents never had are not kept.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use capstan_sdk::contract::differ::{Difference, VerifyLayer, Whiteouts};
use capstan_sdk::{Error, Result};
use rustix::fs::{FileType, Stat, makedev};
use rustix::io::Errno;

use crate::Config;
use crate::apply::{MAX_LINKS, check_target, is_directory, is_symlink, is_whiteout};
use crate::archive::{Archive, Entry, Kind, Source};
use crate::attributes::{Attributes, is_opaque, set_opaque};
use crate::beneath::{Dir, Keep, Tree, joined};
use crate::compare::{Comparison, differing};
use crate::config::exceeded;
use crate::error::failed;
use crate::form::Made;
use crate::name::{Name, Role, ancestors, base, parent};
use crate::pipe::with_pipe;
use crate::repair;
use crate::stream::Stream;

/// Compares the tree below `root` with its layers, top first.
///
/// # Errors
/// As [`Verify`](capstan_sdk::contract::differ::Verify) says. `InvalidArgument`: no layer, or
/// several for one layer of an overlay. `ResourceExhausted`: a limit, which is named.
pub fn verify(
    layers: Vec<VerifyLayer>,
    root: OwnedFd,
    whiteouts: Whiteouts,
    is_repair: bool,
    config: &Config,
) -> Result<Vec<Difference>> {
    if layers.is_empty() || layers.len() > 1 && whiteouts == Whiteouts::Overlay {
        return Err(Error::invalid(format!(
            "{} layers to compare the tree with: want those of the whole tree, or the one that it is",
            layers.len()
        )));
    }
    let mut verifier = Verifier {
        tree: Tree::new(root)?,
        config,
        is_overlay: whiteouts == Whiteouts::Overlay,
        is_repair,
        above: Made::default(),
        hidden: Hidden::default(),
        own: Own::default(),
        links: Vec::new(),
        remade: HashSet::new(),
        entries: 0,
        pending_bytes: 0,
        found: BTreeMap::new(),
    };
    for (number, layer) in layers.into_iter().enumerate() {
        let layer = verifier.layer(layer);
        layer.map_err(|error| error.at(format_args!("layer {} from the top", number + 1)))?;
    }
    verifier.links()?;
    verifier.tree.finish()?;
    let difference = |(path, found): (Vec<u8>, Difference)| Difference {
        path: OsStr::from_bytes(if path.is_empty() { b"." } else { &path }).into(),
        ..found
    };
    Ok(verifier.found.into_iter().map(difference).collect())
}

/// What the layers that were read hide from those below, as hashes of names.
#[derive(Default)]
struct Hidden {
    /// It, and all below it.
    gone: HashSet<u64>,
    /// All below it.
    emptied: HashSet<u64>,
}

/// What the layer has that is read.
#[derive(Default)]
struct Own {
    made: Made,
    /// Names that it takes away.
    whiteouts: Vec<Vec<u8>>,
    /// Directories that it empties.
    opaque: Vec<Vec<u8>>,
    /// What it has that is no directory, as hashes of names.
    files: HashSet<u64>,
}

struct Verifier<'a> {
    tree: Tree,
    config: &'a Config,
    is_overlay: bool,
    is_repair: bool,
    /// What the layers above have.
    above: Made,
    hidden: Hidden,
    own: Own,
    /// Links to files of layers below: looked at when those are right.
    links: Vec<(Name, Name)>,
    /// Directories that were made for what is in them, as hashes of names.
    remade: HashSet<u64>,
    entries: u64,
    pending_bytes: usize,
    found: BTreeMap<Vec<u8>, Difference>,
}

impl Verifier<'_> {
    fn layer(&mut self, layer: VerifyLayer) -> Result<()> {
        self.own = Own { made: self.above.sibling(), ..Own::default() };
        let stream = Stream::open(layer.stream, &layer.media_type, self.config)?;
        let config = self.config;
        let before = self.links.len();
        with_pipe(stream, |pipe| {
            let mut archive = Archive::new(pipe, config);
            while let Some(entry) = archive.next()? {
                self.entry(&entry, &mut archive)?;
            }
            Ok(())
        })?;
        if self.is_overlay {
            self.extra()?;
            self.deletions()?;
        }
        let own = std::mem::take(&mut self.own);
        let hash = |path: &Vec<u8>| self.above.hash(path);
        // What the layer deletes or makes anew behind a link to it is not what the link is to.
        let [gone, emptied] = [&own.whiteouts, &own.opaque]
            .map(|paths| paths.iter().map(hash).collect::<HashSet<u64>>());
        let is_left = |target: &Name| {
            let target = target.as_bytes();
            let is_gone = |path: &[u8]| gone.contains(&self.above.hash(path));
            own.made.keep(target) != Keep::Yes
                && !is_gone(target)
                && !ancestors(target)
                    .any(|path| is_gone(path) || emptied.contains(&self.above.hash(path)))
        };
        let mut number = 0..;
        self.links.retain(|(_, target)| {
            number.next().is_some_and(|number| number < before) || is_left(target)
        });
        self.hidden.gone.extend(own.whiteouts.iter().map(hash));
        self.hidden.emptied.extend(own.opaque.iter().map(hash));
        self.hidden.gone.extend(own.files);
        self.above.absorb(own.made);
        Ok(())
    }

    fn entry<S: Source>(&mut self, entry: &Entry, archive: &mut Archive<'_, S>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.config.max_entries {
            return Err(exceeded("entries in the layers", "max_entries", self.config.max_entries));
        }
        match Name::clean(&entry.path, self.config)?.role()? {
            Role::Thing(name) if self.is_hidden(name.as_bytes()) => Ok(()),
            Role::Thing(lexical) => {
                let name = self.resolved(lexical.clone())?;
                if self.is_hidden(name.as_bytes()) {
                    return Ok(());
                }
                // Whether the link that leads elsewhere should be there only the layers below tell. If not,
                // it is put right when it is read, and what should be here the next time.
                if name != lexical {
                    self.own.made.describe(&lexical);
                    if self.tree.find(name.parent())?.is_none() {
                        return self.note(name.as_bytes(), "missing", false);
                    }
                }
                self.forget(&name, entry.kind == Kind::Directory);
                self.own.made.describe(&name);
                if entry.kind != Kind::Directory {
                    self.own.files.insert(self.above.hash(name.as_bytes()));
                }
                self.thing(&name, entry, archive)
            }
            Role::Opaque(name) => {
                // The directory's own links lead where it is.
                let name = self.resolved_directory(name)?;
                self.pay(name.as_bytes().len())?;
                self.own.opaque.push(name.as_bytes().to_vec());
                Ok(())
            }
            Role::Whiteout(lexical) => {
                let name = self.resolved(lexical.clone())?;
                self.pay(2 * name.as_bytes().len())?;
                if name != lexical {
                    self.own.whiteouts.push(lexical.as_bytes().to_vec());
                }
                self.own.whiteouts.push(name.as_bytes().to_vec());
                Ok(())
            }
            Role::Plink(_) | Role::Aufs => Ok(()),
        }
    }

    fn pay(&mut self, bytes: usize) -> Result<()> {
        self.pending_bytes += bytes + 64;
        if self.pending_bytes > self.config.max_pending_bytes {
            let what = "bytes of names of what differs, of deleted files, and of links";
            return Err(exceeded(what, "max_pending_bytes", self.config.max_pending_bytes));
        }
        Ok(())
    }

    /// Whether a layer above has something at this name, or shows nothing there.
    fn is_hidden(&self, path: &[u8]) -> bool {
        let is_gone = |path: &[u8]| self.hidden.gone.contains(&self.above.hash(path));
        let is_emptied = |path: &[u8]| self.hidden.emptied.contains(&self.above.hash(path));
        self.above.keep(path) == Keep::Yes
            || is_gone(path)
            || ancestors(path).any(|above| is_gone(above) || is_emptied(above))
    }

    /// A later entry takes the name of an earlier one of the same layer.
    fn forget(&mut self, name: &Name, is_directory: bool) {
        self.found.remove(name.as_bytes());
        if !is_directory {
            let edge = |byte: u8| [name.as_bytes(), &[byte]].concat();
            self.found.extract_if(edge(b'/')..edge(b'0'), |_, _| true).for_each(drop);
        }
    }

    fn note(&mut self, name: &[u8], what: &str, is_repaired: bool) -> Result<()> {
        self.pay(name.len() + what.len())?;
        let what = what.to_owned();
        let path = std::path::PathBuf::new();
        self.found.insert(name.to_vec(), Difference { path, what, is_repaired });
        Ok(())
    }

    /// The name with the links in its directories followed, as the layer was applied.
    fn resolved(&mut self, name: Name) -> Result<Name> {
        if self.is_overlay || self.tree.find(name.parent())?.is_some() {
            return Ok(name);
        }
        let directory = self.follow(name.parent())?;
        Name::within(&directory, name.base(), self.config)
    }

    fn resolved_directory(&mut self, name: Name) -> Result<Name> {
        if self.is_overlay || self.tree.find(name.as_bytes())?.is_some() {
            return Ok(name);
        }
        let directory = self.follow(name.as_bytes())?;
        Name::clean(&directory, self.config)
    }

    /// Follows a path as if the root were `/`; what is not there is taken for a directory.
    fn follow(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let components = |path: &[u8]| -> Vec<Vec<u8>> {
            path.rsplit(|&byte| byte == b'/').map(<[u8]>::to_vec).collect()
        };
        let (mut at, mut todo, mut links) = (Vec::new(), components(path), 0);
        while let Some(component) = todo.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.truncate(parent(&at).len());
                    continue;
                }
                _ => {}
            }
            let here = joined(&at, &component);
            // The layer has a directory there: a link is what must be put right.
            let is_directory = self.own.made.keep(&here) == Keep::Yes
                && !self.own.files.contains(&self.above.hash(&here));
            if !is_directory
                && let Some(dir) = self.tree.find(&at)?
                && let Some(stat) = dir.stat(&component).map_err(failed("look at", &at))?
                && is_symlink(&stat)
            {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(here);
                }
                let target = dir.read_link(&component).map_err(failed("read the link", here))?;
                if target.starts_with(b"/") {
                    at.clear();
                }
                todo.extend(components(&target));
            } else {
                at = here;
                Name::clean(&at, self.config)?;
            }
        }
        Ok(at)
    }

    fn thing<S: Source>(
        &mut self,
        name: &Name,
        entry: &Entry,
        archive: &mut Archive<'_, S>,
    ) -> Result<()> {
        if name.is_root() && entry.kind != Kind::Directory {
            return Err(Error::corrupt("the root of the layer is no directory"));
        }
        if let Kind::Symlink(target) = &entry.kind {
            check_target(name, target, self.config)?;
        }
        if matches!(entry.kind, Kind::CharDevice(0, 0)) {
            return Err(Error::corrupt(format!("{name} is a character device 0:0, not a device")));
        }
        if let Kind::Link(target) = &entry.kind {
            return self.link(name, target);
        }
        if entry.kind == Kind::Directory {
            return self.directory(name, entry);
        }
        let dir = match self.tree.find(name.parent())? {
            None if self.is_repair => Some(self.make_directory(name.parent())?),
            dir => dir,
        };
        let stat = match &dir {
            Some(dir) => dir.stat(name.base()).map_err(failed("look at", name))?,
            None => None,
        };
        let is_of_type = stat.as_ref().is_some_and(|stat| is_of_kind(stat, &entry.kind));
        let (mut what, mut is_repaired) = (Vec::new(), false);
        match (&stat, is_of_type) {
            (None, _) => what.push("missing"),
            (Some(_), false) => what.push("type"),
            _ => {}
        }
        if let (Some(dir), Kind::File { size, .. }) = (&dir, &entry.kind) {
            let mut comparison =
                Comparison::new(dir, name, is_of_type, self.is_repair, &entry.attributes)?;
            archive.copy(|offset, bytes| comparison.piece(offset, bytes))?;
            let outcome = comparison.finish(*size, &mut self.tree)?;
            what.extend(outcome.what);
            is_repaired = outcome.is_repaired;
        } else if let Some(dir) = dir {
            if is_of_type && let Some(stat) = &stat {
                what.extend(differing_entry(&dir, name, stat, entry)?);
            }
            if !what.is_empty() && self.is_repair {
                repair::entry(&mut self.tree, &dir, name, entry)?;
                is_repaired = true;
            }
        }
        if what.is_empty() {
            Ok(())
        } else {
            self.note(name.as_bytes(), &what.join(", "), is_repaired)
        }
    }

    fn directory(&mut self, name: &Name, entry: &Entry) -> Result<()> {
        if let Some(dir) = self.tree.find(name.as_bytes())? {
            let got = Attributes::of(&*dir).map_err(failed("look at", name))?;
            let got = Attributes { times: dir.times(), ..got };
            let mut what = differing(&got, &entry.attributes, false);
            if self.remade.remove(&self.above.hash(name.as_bytes())) {
                what = vec!["missing"];
            }
            if what.is_empty() {
                return Ok(());
            }
            if self.is_repair {
                dir.describe(&entry.attributes)?;
            }
            return self.note(name.as_bytes(), &what.join(", "), self.is_repair);
        }
        let stat = match self.tree.find(name.parent())? {
            Some(dir) => dir.stat(name.base()).map_err(failed("look at", name))?,
            None => None,
        };
        if self.is_repair {
            self.make_directory(name.as_bytes())?.describe(&entry.attributes)?;
            self.remade.remove(&self.above.hash(name.as_bytes()));
        }
        let what = if stat.is_some() { "type" } else { "missing" };
        self.note(name.as_bytes(), what, self.is_repair)
    }

    /// Makes a directory and those above it; what is no directory in their places is removed.
    fn make_directory(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let mut missing = Vec::new();
        let mut at = path;
        let mut dir = loop {
            match self.tree.find(at)? {
                Some(dir) => break dir,
                None => missing.push(at),
            }
            at = parent(at);
        };
        for path in missing.into_iter().rev() {
            self.tree.remove(&dir, base(path))?;
            dir.make_dir(base(path)).map_err(failed("make", path))?;
            dir = self.tree.open(path).map_err(failed("open", path))?;
            dir.make_implied()?;
            self.remade.insert(self.above.hash(path));
        }
        Ok(dir)
    }

    fn link(&mut self, name: &Name, target: &[u8]) -> Result<()> {
        let target = Name::clean(target, self.config)?;
        if target == *name {
            return Ok(());
        }
        if target.plink().is_some() {
            // Its bytes were elsewhere in the layer.
            return self.check_presence(name);
        }
        if self.own.made.keep(target.as_bytes()) == Keep::Yes {
            return self.check_link(name, &target);
        }
        if self.is_overlay {
            // It was copied from the parents.
            self.own.made.describe(&target);
            return self.check_presence(name);
        }
        // Once the target is gone, or another one, nothing tells what the link was to.
        if self.is_hidden(target.as_bytes()) {
            return Ok(());
        }
        self.pay(name.as_bytes().len() + target.as_bytes().len())?;
        self.links.push((name.clone(), target));
        Ok(())
    }

    fn check_presence(&mut self, name: &Name) -> Result<()> {
        let is_there = match self.tree.find(name.parent())? {
            Some(dir) => dir.stat(name.base()).map_err(failed("look at", name))?.is_some(),
            None => false,
        };
        if is_there { Ok(()) } else { self.note(name.as_bytes(), "missing", false) }
    }

    fn links(&mut self) -> Result<()> {
        for (name, target) in std::mem::take(&mut self.links) {
            // If no layer has the target, what it should be is not known.
            if self.above.keep(target.as_bytes()) == Keep::Yes {
                self.check_link(&name, &target)?;
            }
        }
        Ok(())
    }

    fn check_link(&mut self, name: &Name, target: &Name) -> Result<()> {
        let mut look = |name: &Name| -> Result<Option<(Rc<Dir>, Stat)>> {
            let Some(dir) = self.tree.find(name.parent())? else { return Ok(None) };
            let stat = dir.stat(name.base()).map_err(failed("look at", name))?;
            Ok(stat.map(|stat| (dir, stat)))
        };
        let (link, from) = (look(name)?, look(target)?);
        let id = |found: &Option<(Rc<Dir>, Stat)>| {
            found.as_ref().map(|(_, stat)| (stat.st_dev, stat.st_ino))
        };
        if link.is_some() && id(&link) == id(&from) {
            return Ok(());
        }
        let what = if link.is_some() { "link" } else { "missing" };
        let Some((from, _)) = from.filter(|(_, stat)| self.is_repair && !is_directory(stat)) else {
            return self.note(name.as_bytes(), what, false);
        };
        let dir = self.make_directory(name.parent())?;
        repair::link(&mut self.tree, &dir, name, &from, target)?;
        self.note(name.as_bytes(), what, true)
    }

    /// What the layer does not have.
    fn extra(&mut self) -> Result<()> {
        let is_deleted: HashSet<u64> =
            self.own.whiteouts.iter().map(|path| self.above.hash(path)).collect();
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let Some(dir) = self.tree.find(&path)? else { continue };
            for base in dir.names().map_err(failed("read the directory", path.as_slice()))? {
                let name = joined(&path, &base);
                let stat = dir.stat(&base).map_err(failed("look at", name.as_slice()))?;
                let Some(stat) = stat else { continue };
                let is_known = self.own.made.keep(&name) != Keep::No;
                let is_due = is_whiteout(&stat) && is_deleted.contains(&self.above.hash(&name));
                if is_known && is_directory(&stat) {
                    todo.push(name);
                } else if !is_known && !is_due {
                    if self.is_repair {
                        self.tree.remove(&dir, &base)?;
                    }
                    self.note(&name, "extra", self.is_repair)?;
                }
            }
        }
        Ok(())
    }

    /// What the layer takes away, as overlayfs reads it.
    fn deletions(&mut self) -> Result<()> {
        let hash = |path: &Vec<u8>| self.above.hash(path);
        let gone: HashSet<u64> = self.own.whiteouts.iter().map(hash).collect();
        let emptied: HashSet<u64> = self.own.opaque.iter().map(hash).collect();
        let (above, made) = (self.above.sibling(), std::mem::take(&mut self.own.made));
        let is_folded = |path: &[u8]| {
            ancestors(path).any(|path| {
                let hash = above.hash(path);
                gone.contains(&hash) || emptied.contains(&hash)
            })
        };
        let opaque = self.own.opaque.clone();
        for path in self.own.whiteouts.clone() {
            if made.keep(&path) != Keep::No {
                self.opaque(&path)?;
            } else if !is_folded(&path)
                && let Some(dir) = self.tree.find(parent(&path))?
                && made.keep(parent(&path)) == Keep::Yes
                && dir.stat(base(&path)).map_err(failed("look at", path.as_slice()))?.is_none()
            {
                if self.is_repair {
                    let make = dir.make_node(base(&path), FileType::CharacterDevice, 0);
                    make.map_err(failed("make the whiteout of", path.as_slice()))?;
                }
                self.note(&path, "whiteout", self.is_repair)?;
            }
        }
        for path in
            opaque.iter().filter(|path| !gone.contains(&above.hash(path)) && !is_folded(path))
        {
            self.opaque(path)?;
        }
        self.own.made = made;
        Ok(())
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let Some(dir) = self.tree.find(path)? else { return Ok(()) };
        if is_opaque(&*dir).map_err(failed("look at", path))? {
            return Ok(());
        }
        if self.is_repair {
            set_opaque(&*dir).map_err(failed("make opaque", path))?;
        }
        let what = match self.found.get(path) {
            Some(found) => format!("{}, opaque", found.what),
            None => "opaque".to_owned(),
        };
        self.note(path, &what, self.is_repair)
    }
}

/// Whether a file is of the type that an entry has.
fn is_of_kind(stat: &Stat, kind: &Kind) -> bool {
    let want = match kind {
        Kind::File { .. } => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharDevice(..) => FileType::CharacterDevice,
        Kind::BlockDevice(..) => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Link(_) => return true,
    };
    FileType::from_raw_mode(stat.st_mode) == want
}

/// In what a symbolic link, a device or a fifo is not as its entry.
fn differing_entry(
    dir: &Dir,
    name: &Name,
    stat: &Stat,
    entry: &Entry,
) -> Result<Vec<&'static str>> {
    let mut what = Vec::new();
    match &entry.kind {
        Kind::Symlink(target) => match dir.read_link(name.base()) {
            Ok(got) if got == *target => {}
            Ok(_) | Err(Errno::INVAL | Errno::IO) => what.push("target"),
            Err(errno) => return Err(failed("read the link", name)(errno)),
        },
        &Kind::CharDevice(major, minor) | &Kind::BlockDevice(major, minor)
            if stat.st_rdev != makedev(major, minor) =>
        {
            what.push("device");
        }
        _ => {}
    }
    let got = Attributes::of_entry(dir, name.base(), stat).map_err(failed("look at", name))?;
    what.extend(differing(&got, &entry.attributes, is_symlink(stat)));
    Ok(what)
}
