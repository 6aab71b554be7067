//! What has to be remembered while a layer is applied; it depends on the form of its deletions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use capstan_sdk::contract::differ::{Pending, Whiteouts};
use capstan_sdk::{Error, Result};

use crate::Config;
use crate::beneath::Keep;
use crate::config::exceeded;
use crate::name::{Name, ancestors};

/// The form, with what it remembers.
pub(crate) enum Form {
    /// The parents are in the tree: what this layer made must be told from what they have.
    Remove(Made),
    /// The tree has this layer alone: what it takes from its parents is owed.
    Overlay(Owed),
}

impl Form {
    pub(crate) fn new(whiteouts: Whiteouts, config: &Config) -> Self {
        match whiteouts {
            Whiteouts::Remove => Self::Remove(Made::default()),
            Whiteouts::Overlay => {
                Self::Overlay(Owed { limit: config.max_pending_bytes, ..Owed::default() })
            }
        }
    }

    pub(crate) fn owed(&mut self) -> Option<&mut Owed> {
        match self {
            Self::Remove(_) => None,
            Self::Overlay(owed) => Some(owed),
        }
    }

    /// What to do with what is at this name when the parents lose it.
    pub(crate) fn keep(&self, name: &Name) -> Keep {
        match self {
            Self::Remove(made) => made.keep(name.as_bytes()),
            // The parents are not in the tree.
            Self::Overlay(_) => Keep::Yes,
        }
    }

    /// An entry has made or described what is at this name.
    pub(crate) fn describe(&mut self, name: &Name) {
        match self {
            Self::Remove(made) => made.describe(name),
            Self::Overlay(owed) => owed.describe(name),
        }
    }
}

/// The paths that a layer made. A keyed hash of each is enough, and makes the memory that a layer
/// can take small and independent of how long its names are.
#[derive(Default)]
pub(crate) struct Made {
    hasher: RandomState,
    /// Whether an entry describes it; else it was made for what is in it.
    paths: HashMap<u64, bool>,
    /// Directories with nothing of the parents in them any more.
    emptied: HashSet<u64>,
}

impl Made {
    pub(crate) fn hash(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }

    /// Empty, and with the same hashes of paths.
    pub(crate) fn sibling(&self) -> Self {
        Self { hasher: self.hasher.clone(), ..Self::default() }
    }

    /// Adds what a sibling has.
    pub(crate) fn absorb(&mut self, sibling: Self) {
        for (path, is_described) in sibling.paths {
            *self.paths.entry(path).or_default() |= is_described;
        }
    }

    /// An entry describes it.
    pub(crate) fn describe(&mut self, name: &Name) {
        self.paths.insert(self.hash(name.as_bytes()), true);
        self.imply(name.as_bytes());
    }

    /// It, and all above it, are there because of this layer.
    fn imply(&mut self, path: &[u8]) {
        for ancestor in ancestors(path) {
            let hash = self.hash(ancestor);
            if self.paths.contains_key(&hash) {
                break;
            }
            self.paths.insert(hash, false);
        }
    }

    /// What to do with a path that the parents are to lose.
    pub(crate) fn keep(&self, path: &[u8]) -> Keep {
        match self.paths.get(&self.hash(path)) {
            None => Keep::No,
            Some(false) => Keep::AsImplied,
            Some(true) => Keep::Yes,
        }
    }

    /// Whether a directory has nothing of the parents left. So a layer cannot have the same files
    /// looked at for each marker that it has.
    pub(crate) fn is_emptied(&self, path: &[u8]) -> bool {
        let mut all = std::iter::once(path).chain(ancestors(path));
        all.any(|path| self.emptied.contains(&self.hash(path)))
    }

    /// Notes that a directory is emptied.
    pub(crate) fn empty(&mut self, path: &[u8]) {
        self.emptied.insert(self.hash(path));
    }
}

/// What a layer takes from its parents, and what it takes away from them.
///
/// Deletions are written down at the end, because the order in which they and other entries stand
/// in a layer must not matter: a whiteout hides what the parents have, never what its own layer has.
#[derive(Default)]
pub(crate) struct Owed {
    is_root_described: bool,
    /// Directories that were made for what is in them, and no entry describes.
    implied: BTreeSet<Vec<u8>>,
    /// Links to files of the parents, with their targets.
    links: BTreeMap<Vec<u8>, Name>,
    /// What the parents lose.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Directories that show nothing of the parents.
    opaque: BTreeSet<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Owed {
    /// What a name costs beside its bytes, about.
    const OVERHEAD: usize = 64;

    fn pay(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes + Self::OVERHEAD;
        if self.bytes > self.limit {
            let what =
                "bytes of names of deleted files, and of names that wait for the parent layers";
            return Err(exceeded(what, "max_pending_bytes", self.limit));
        }
        Ok(())
    }

    /// A directory was made for what is in it.
    pub(crate) fn imply(&mut self, name: &Name) -> Result<()> {
        self.implied.insert(name.as_bytes().to_vec());
        self.pay(name.as_bytes().len())
    }

    /// An entry describes it: it takes nothing from the parents.
    pub(crate) fn describe(&mut self, name: &Name) {
        self.is_root_described |= name.is_root();
        self.implied.remove(name.as_bytes());
    }

    /// The parents lose what they have by this name.
    ///
    /// # Errors
    /// `FailedPrecondition`: the layer went through it before, which may be a link of the parents.
    pub(crate) fn delete(&mut self, name: &Name) -> Result<()> {
        if self.implied.contains(name.as_bytes()) {
            return Err(went_through(name));
        }
        self.check_below(name)?;
        self.whiteouts.insert(name.as_bytes().to_vec());
        self.pay(name.as_bytes().len())
    }

    /// The parents lose what they have in this directory.
    ///
    /// # Errors
    /// `FailedPrecondition`: the layer went through something in it before, which may be a link of the parents.
    pub(crate) fn empty(&mut self, name: &Name) -> Result<()> {
        self.check_below(name)?;
        self.opaque.insert(name.as_bytes().to_vec());
        self.pay(name.as_bytes().len())
    }

    fn check_below(&self, name: &Name) -> Result<()> {
        let through = self.implied.range(below(name)).next();
        through.map_or(Ok(()), |_| Err(went_through(name)))
    }

    /// Whether the parents lose a path because of what is above it.
    fn is_hidden(&self, path: &[u8]) -> bool {
        ancestors(path).any(|above| self.opaque.contains(above) || self.whiteouts.contains(above))
    }

    /// Whether nothing of the parents is left at a path.
    pub(crate) fn is_deleted(&self, path: &[u8]) -> bool {
        self.whiteouts.contains(path) || self.is_hidden(path)
    }

    /// The deletions that are not part of another one.
    pub(crate) fn whiteouts(&self) -> Vec<Vec<u8>> {
        let is_needed = |path: &&Vec<u8>| !self.is_hidden(path) && !self.links.contains_key(*path);
        self.whiteouts.iter().filter(is_needed).cloned().collect()
    }

    /// The directories that are to be opaque, and whether they must be made for it.
    pub(crate) fn opaque(&self) -> Vec<(Vec<u8>, bool)> {
        self.opaque.iter().map(|path| (path.clone(), !self.is_deleted(path))).collect()
    }

    /// A link waits for the parents.
    pub(crate) fn link(&mut self, link: &Name, target: &Name) -> Result<()> {
        self.links.insert(link.as_bytes().to_vec(), target.clone());
        self.pay(link.as_bytes().len() + target.as_bytes().len())
    }

    /// Where the link at this name leads.
    pub(crate) fn target(&self, name: &Name) -> Option<&Name> {
        self.links.get(name.as_bytes())
    }

    /// Something else takes the name of a link. Answers whether there was one.
    pub(crate) fn unlink(&mut self, name: &Name) -> bool {
        self.links.remove(name.as_bytes()).is_some()
    }

    /// A directory of this layer was removed.
    pub(crate) fn forget(&mut self, name: &Name) {
        self.implied.extract_if(below(name), |_| true).for_each(drop);
        self.links.extract_if(below(name), |_, _| true).for_each(drop);
        self.implied.remove(name.as_bytes());
    }

    /// The links that wait.
    pub(crate) fn links(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.links.iter().map(|(link, target)| (link.as_slice(), target.as_bytes()))
    }

    /// What is still owed when the layer has ended.
    pub(crate) fn finish(self) -> Pending {
        let root = (!self.is_root_described).then_some(b".".as_slice());
        let implied = self.implied.iter().filter(|path| !self.is_deleted(path));
        let directories = root.into_iter().chain(implied.map(Vec::as_slice));
        Pending {
            directories: directories.map(path_buf).collect(),
            links: self.links().map(|(link, target)| (path_buf(link), path_buf(target))).collect(),
        }
    }
}

/// Whatever is below a name starts with it and a slash; `0` is the byte behind the slash.
fn below(name: &Name) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let edge = |byte: u8| [name.as_bytes(), &[byte]].concat();
    (Bound::Included(edge(b'/')), Bound::Excluded(edge(b'0')))
}

fn went_through(name: &Name) -> Error {
    Error::precondition(format!(
        "the layer has something below {name} and then deletes {name}, which may be a link: it can only be applied \
         on its parent layers"
    ))
}

fn path_buf(path: &[u8]) -> PathBuf {
    OsStr::from_bytes(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn name(text: &str) -> Name {
        Name::clean(text.as_bytes(), &Config::default()).unwrap()
    }

    fn owed() -> Owed {
        Owed { limit: 1 << 20, ..Owed::default() }
    }

    fn directories(owed: Owed) -> Vec<String> {
        owed.finish().directories.iter().map(|path| path.to_str().unwrap().into()).collect()
    }

    #[test]
    fn made_is_what_an_entry_describes_and_what_it_is_in() {
        let mut made = Made::default();
        made.describe(&name("a/b/c"));
        made.describe(&name("d"));
        let check = |path: &str, want| assert_eq!(made.keep(path.as_bytes()), want, "{path}");
        check("a/b/c", Keep::Yes);
        check("a/b", Keep::AsImplied);
        check("a", Keep::AsImplied);
        check("d", Keep::Yes);
        check("a/b/d", Keep::No);
        check("b", Keep::No);
        made.describe(&name("a"));
        assert_eq!(made.keep(b"a"), Keep::Yes);
        made.describe(&name("a/x"));
        assert_eq!(made.keep(b"a"), Keep::Yes);
    }

    #[test]
    fn a_directory_is_emptied_once() {
        let mut made = Made::default();
        let check = |made: &Made, path: &str, want| {
            assert_eq!(made.is_emptied(path.as_bytes()), want, "{path:?}");
        };
        made.empty(b"a/b");
        for (path, want) in [("a/b", true), ("a/b/c", true), ("a", false), ("", false)] {
            check(&made, path, want);
        }
        made.empty(b"");
        for path in ["a", "x/y", ""] {
            check(&made, path, true);
        }
    }

    #[test]
    fn parents_come_first_and_descriptions_settle() {
        let mut owed = owed();
        for path in ["a-b", "a/b", "a", "c"] {
            owed.imply(&name(path)).unwrap();
        }
        owed.describe(&name("c"));
        assert_eq!(directories(owed), [".", "a", "a-b", "a/b"]);
    }

    #[test]
    fn what_the_parents_lose_is_not_taken_from_them() {
        let mut owed = owed();
        owed.empty(&name("a")).unwrap();
        owed.delete(&name("d")).unwrap();
        for path in ["a", "a/b", "a/b/c", "ab", "d", "d/e"] {
            owed.imply(&name(path)).unwrap();
        }
        owed.describe(&name("."));
        assert_eq!(directories(owed), ["a", "ab"]);
    }

    #[test]
    fn what_the_layer_went_through_cannot_be_deleted_without_the_parents() {
        let through = |path: &str| {
            let mut owed = owed();
            owed.imply(&name(path)).unwrap();
            owed
        };
        let class = |outcome: Result<()>| outcome.map_err(|error| error.class());
        for path in ["a", "a/b"] {
            let outcome = class(through(path).delete(&name("a")));
            assert_eq!(outcome, Err(Class::FailedPrecondition), "{path}");
        }
        assert_eq!(class(through("a/b").empty(&name("a"))), Err(Class::FailedPrecondition));
        // The directory itself stays: what it is in the parents is looked at in the end.
        assert_eq!(class(through("a").empty(&name("a"))), Ok(()));
        for path in ["ab", "a-b", "b/a"] {
            assert_eq!(class(through(path).delete(&name("a"))), Ok(()), "{path}");
            assert_eq!(class(through(path).empty(&name("a"))), Ok(()), "{path}");
        }
    }

    #[test]
    fn deletions_are_folded() {
        let mut owed = owed();
        for path in ["a", "a/b", "b/c/d", "e/f"] {
            owed.delete(&name(path)).unwrap();
        }
        for path in ["b/c", "a", "a/x", "e"] {
            owed.empty(&name(path)).unwrap();
        }
        assert_eq!(owed.whiteouts(), [b"a"]);
        let opaque: Vec<_> = owed.opaque();
        let want = [("a", false), ("a/x", false), ("b/c", true), ("e", true)];
        assert_eq!(opaque, want.map(|(path, is_made)| (path.as_bytes().to_vec(), is_made)));
    }

    #[test]
    fn what_is_removed_is_owed_no_more() {
        let mut owed = owed();
        for path in ["a", "a/b", "a-b", "a0"] {
            owed.imply(&name(path)).unwrap();
        }
        owed.link(&name("a/l"), &name("t")).unwrap();
        owed.link(&name("l"), &name("a/t")).unwrap();
        owed.forget(&name("a"));
        assert_eq!(owed.links().count(), 1);
        assert!(owed.unlink(&name("l")));
        assert!(!owed.unlink(&name("l")));
        assert_eq!(directories(owed), [".", "a-b", "a0"]);
    }

    #[test]
    fn names_are_limited() {
        let mut owed = Owed { limit: 1000, ..Owed::default() };
        let error = (0..100).find_map(|n| owed.imply(&name(&n.to_string())).err()).unwrap();
        assert_eq!(error.class(), Class::ResourceExhausted);
        assert!(error.message().ends_with("[plugins.\"differ.tar\"] max_pending_bytes"), "{error}");
    }
}
