//! The parents of a layer as they show: the tree of a mount, or the layers of an overlay that nobody mounted. A mount takes
//! a thread, a namespace and a look at each layer; here most answers come from the topmost one.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use capstan_sdk::Result;
use rustix::fs::{Mode, OFlags, Stat, open};
use rustix::io::Errno;

use crate::apply::{is_directory, is_whiteout};
use crate::attributes::is_opaque;
use crate::beneath::{Dir, Tree};
use crate::name::{ancestors, base, parent};

/// What a layer stands on.
pub struct Parents {
    /// Topmost first; what is behind them was not looked at yet.
    trees: Vec<Tree>,
    rest: std::vec::IntoIter<PathBuf>,
}

impl std::fmt::Debug for Parents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parents").field("rest", &self.rest.as_slice()).finish_non_exhaustive()
    }
}

/// What a layer has at a path that is no directory in it.
enum Reach {
    /// Nothing: what is below it shows. So many components of the path are directories in it.
    Through(usize),
    /// A whiteout, or a directory above that hides what is below.
    Deleted,
    /// Something in the place of this component of the path (0 is the first).
    Blocked(usize),
}

impl Parents {
    /// The tree below a directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn tree(root: OwnedFd) -> Result<Self> {
        Ok(Self { trees: vec![Tree::new(root)?], rest: Vec::new().into_iter() })
    }

    /// Layers in overlay form, topmost first. Each is opened when it is needed.
    pub fn layers(topmost_first: Vec<PathBuf>) -> Self {
        Self { trees: Vec::new(), rest: topmost_first.into_iter() }
    }

    fn at(&mut self, index: usize) -> Result<Option<&mut Tree>, Errno> {
        if index == self.trees.len()
            && let Some(path) = self.rest.next()
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.trees.push(Tree::at(open(path, flags, Mode::empty())?)?);
        }
        Ok(self.trees.get_mut(index))
    }

    /// The directory that shows at a clean path. What is in it may be in layers below, too.
    ///
    /// # Errors
    /// `NOENT`: there is none. `NOTDIR` or `LOOP`: a component is no directory.
    pub(crate) fn directory(&mut self, path: &[u8]) -> Result<Rc<Dir>, Errno> {
        self.look(path, |dir| Ok(Some(Rc::clone(dir))))
    }

    /// What shows as `base` in the directory at a clean path, and the directory that has it.
    ///
    /// # Errors
    /// As [`Parents::directory`].
    pub(crate) fn entry(&mut self, path: &[u8], base: &[u8]) -> Result<(Rc<Dir>, Stat), Errno> {
        self.look(path, |dir| match dir.stat(base)? {
            Some(stat) if is_whiteout(&stat) => Err(Errno::NOENT),
            stat => Ok(stat.map(|stat| (Rc::clone(dir), stat))),
        })
    }

    /// Asks the directories at a path, topmost first, as far as one shows through the other, until one has an answer.
    fn look<T>(
        &mut self,
        path: &[u8],
        mut ask: impl FnMut(&Rc<Dir>) -> Result<Option<T>, Errno>,
    ) -> Result<T, Errno> {
        // Components of the path that are directories in a layer above: there, anything else below does not show.
        let mut depth = 0;
        for index in 0.. {
            let Some(tree) = self.at(index)? else { break };
            match tree.open(path) {
                Ok(dir) => {
                    if let Some(answer) = ask(&dir)? {
                        return Ok(answer);
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno),
            }
            match reach(tree, path)? {
                Reach::Through(count) => depth = depth.max(count),
                Reach::Blocked(at) if at >= depth => return Err(Errno::NOTDIR),
                Reach::Blocked(_) | Reach::Deleted => break,
            }
        }
        Err(Errno::NOENT)
    }
}

fn reach(tree: &mut Tree, path: &[u8]) -> Result<Reach, Errno> {
    let mut steps: Vec<&[u8]> =
        [path].into_iter().chain(ancestors(path)).filter(|step| !step.is_empty()).collect();
    steps.reverse();
    let mut hides = false;
    let through = |hides, count| if hides { Reach::Deleted } else { Reach::Through(count) };
    for (count, step) in steps.iter().enumerate() {
        match tree.open(parent(step))?.stat(base(step))? {
            None => return Ok(through(hides, count)),
            Some(stat) if is_whiteout(&stat) => return Ok(Reach::Deleted),
            Some(stat) if is_directory(&stat) => hides |= is_opaque(tree.open(step)?)?,
            Some(_) => return Ok(Reach::Blocked(count)),
        }
    }
    Ok(through(hides, steps.len()))
}
