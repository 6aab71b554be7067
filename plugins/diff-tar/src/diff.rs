//! Writes the changes of a tree as a layer (OCI image-spec, layer.md, "Change Types").
//!
//! Deletions are explicit whiteouts, as the specification wants them; an opaque directory becomes
//! one for each entry that the parent has there and the tree has not. All names of a file that has
//! several and of which one changed are written, so no layer needs to find the file in its parents.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::os::fd::OwnedFd;

use capstan_sdk::contract::differ::{Diffed, LayerSink};
use capstan_sdk::{Error, Result};
use rustix::fs::{FileType, Stat, Timespec, fstat, major, minor};

use crate::Config;
use crate::archive::Kind;
use crate::attributes::{Attributes, Times, marks};
use crate::beneath::joined;
use crate::changes::{Change, Changes, Found, Shape, changed, elsewhere, fill};
use crate::config::exceeded;
use crate::error::{Shown, failed};
use crate::name::{WHITEOUT, base, parent};
use crate::pack::Packer;
use crate::stream::CHUNK;
use crate::writer::Writer;

/// Writes what `tree` has and `before` has not, as a layer of the media type.
///
/// # Errors
/// As [`Diff`](capstan_sdk::contract::differ::Diff) says. `Aborted`: the tree was changed meanwhile.
/// `ResourceExhausted`: the layer would trip a limit when it is applied; the limit is named.
pub fn diff(
    tree: OwnedFd,
    before: Option<OwnedFd>,
    shape: Shape,
    media_type: &str,
    out: LayerSink,
    config: &Config,
) -> Result<Diffed> {
    let packer = Packer::new(media_type, out)?;
    let archive = Writer::new(BufWriter::with_capacity(CHUNK, packer));
    let mut layer = Layer {
        archive,
        links: Links { limit: config.max_pending_bytes, ..Links::default() },
        shape,
        config,
        entries: 0,
        bytes: 0,
        buffer: vec![0; CHUNK],
    };
    let mut changes = Changes::new(tree, before, shape, config)?;
    let (root, old) = changes.roots()?;
    layer.root(&root, old)?;
    while let Some(change) = changes.next()? {
        match change {
            Change::Changed(found) => layer.found(&found, false)?,
            Change::Same(found) => layer.found(&found, true)?,
            Change::Gone(path) => layer.gone(&path)?,
        }
    }
    let packer = layer.archive.finish()?.into_inner();
    packer.map_err(|error| crate::writer::explain(error.into_error()))?.finish()
}

struct Layer<'a> {
    archive: Writer<BufWriter<Packer>>,
    links: Links,
    shape: Shape,
    config: &'a Config,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    /// The root changes by owner, mode and extended attributes alone: its times are those of its
    /// entries.
    fn root(&mut self, root: &Attributes, old: Option<Attributes>) -> Result<()> {
        let old = old.unwrap_or_else(|| Attributes::implied(root.times));
        let parts = |of: &Attributes| (of.uid, of.gid, of.mode, of.xattrs.clone());
        if parts(root) == parts(&old) {
            return Ok(());
        }
        self.entry(b"", &Kind::Directory, root)
    }

    fn gone(&mut self, path: &[u8]) -> Result<()> {
        storable(path)?;
        let name = joined(parent(path), &[WHITEOUT, base(path)].concat());
        let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut attributes = Attributes::implied(Times { accessed: epoch, modified: epoch });
        attributes.mode = 0o644;
        self.entry(&name, &Kind::File { size: 0, is_sparse: false }, &attributes)
    }

    fn found(&mut self, found: &Found, is_same: bool) -> Result<()> {
        storable(&found.path)?;
        let is_directory = FileType::from_raw_mode(found.stat.st_mode) == FileType::Directory;
        if is_directory || !Links::has_several_names(found) {
            return if is_same { Ok(()) } else { self.thing(found) };
        }
        let is_same = is_same && self.links.is_kept(found, self.shape)?;
        match (self.links.first(&found.stat), is_same) {
            (Some(first), _) => self.link(&found.path, first, &found.stat),
            (None, true) => self.links.keep(found),
            (None, false) => {
                self.thing(found)?;
                let kept = self.links.write(found)?;
                kept.iter().try_for_each(|name| self.link(name, found.path.clone(), &found.stat))
            }
        }
    }

    fn link(&mut self, path: &[u8], target: Vec<u8>, stat: &Stat) -> Result<()> {
        self.entry(path, &Kind::Link(target), &Attributes::new(stat, Default::default()))
    }

    /// Writes an entry, with its data.
    fn thing(&mut self, found: &Found) -> Result<()> {
        let Found { path, dir, stat, .. } = found;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(found),
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(dir.read_link(found.base()).map_err(changed(path))?),
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice(major(stat.st_rdev), minor(stat.st_rdev)),
            FileType::BlockDevice => Kind::BlockDevice(major(stat.st_rdev), minor(stat.st_rdev)),
            other => {
                return Err(Error::precondition(format!(
                    "{}: a layer cannot hold a file of type {other:?}",
                    Shown(path)
                )));
            }
        };
        let attributes = Attributes::of_entry(&**dir, found.base(), stat).map_err(changed(path))?;
        self.entry(path, &kind, &attributes.portable())
    }

    fn file(&mut self, found: &Found) -> Result<()> {
        let path = &found.path;
        let file = found.dir.open_file(found.base()).map_err(changed(path))?;
        let stat = fstat(&file).map_err(failed("look at", path.as_slice()))?;
        if (stat.st_ino, stat.st_mode) != (found.stat.st_ino, found.stat.st_mode) {
            return Err(changed(path)(rustix::io::Errno::NOENT));
        }
        if let Shape::Upper { prefix } = self.shape
            && marks(&file, prefix).map_err(failed("look at", path.as_slice()))?.is_elsewhere
        {
            return Err(elsewhere(path));
        }
        let attributes = Attributes::of(&file).map_err(failed("look at", path.as_slice()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.entry(path, &Kind::File { size, is_sparse: false }, &attributes.portable())?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.config.max_bytes {
            let what = "bytes in the layer's files, with their holes";
            return Err(exceeded(what, "max_bytes", self.config.max_bytes));
        }
        // As many bytes as the header says, should the file grow.
        let (file, mut at) = (File::from(file), 0);
        while at < size {
            let want = usize::try_from(size - at).map_or(CHUNK, |left| left.min(CHUNK));
            let read = fill(&file, &mut self.buffer[..want], at);
            let read = read.map_err(|error| Error::io(format!("read {}", Shown(path)), error))?;
            if read < want {
                return Err(changed(path)(rustix::io::Errno::NOENT));
            }
            self.archive.data(&self.buffer[..read])?;
            at += read as u64;
        }
        self.archive.pad(size)
    }

    fn entry(&mut self, path: &[u8], kind: &Kind, attributes: &Attributes) -> Result<()> {
        self.entries += 1;
        if self.entries > self.config.max_entries {
            return Err(exceeded("entries in the layer", "max_entries", self.config.max_entries));
        }
        self.archive.entry(path, kind, attributes)
    }
}

/// A name that starts as a whiteout does means something else in a layer.
fn storable(path: &[u8]) -> Result<()> {
    if base(path).starts_with(WHITEOUT) {
        return Err(Error::precondition(format!(
            "{}: a layer cannot hold a file with such a name",
            Shown(path)
        )));
    }
    Ok(())
}

/// Device and inode.
type Id = (u64, u64);

fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// A file with several names.
#[derive(Default)]
struct Group {
    /// The name under which it is in the layer.
    first: Option<Vec<u8>>,
    /// Names that did not change.
    kept: Vec<Vec<u8>>,
    /// What it is in the parent.
    before: Option<Id>,
}

/// Files with several names, and what each was in the parent.
#[derive(Default)]
struct Links {
    groups: HashMap<Id, Group>,
    /// What a file of the parent is in the tree.
    now: HashMap<Id, Id>,
    bytes: usize,
    limit: usize,
}

impl Links {
    /// What a file costs in memory beside its names, about.
    const OVERHEAD: usize = 200;

    /// Whether it has several names, or had them.
    fn has_several_names(found: &Found) -> bool {
        found.stat.st_nlink > 1 || found.before.is_some_and(|before| before.st_nlink > 1)
    }

    fn pay(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        if self.bytes > self.limit {
            let what = "bytes of names of files that have several";
            return Err(exceeded(what, "max_pending_bytes", self.limit));
        }
        Ok(())
    }

    fn group(&mut self, stat: &Stat) -> Result<&mut Group> {
        if !self.groups.contains_key(&id(stat)) {
            self.pay(Self::OVERHEAD)?;
        }
        Ok(self.groups.entry(id(stat)).or_default())
    }

    /// Whether a name that did not change also still belongs to the same file: names that were
    /// one file must not have become two, or the other way round.
    fn is_kept(&mut self, found: &Found, shape: Shape) -> Result<bool> {
        let Some(before) = found.before else { return Ok(false) };
        // The copy in an upper directory is not the file any more that has the other names.
        if before.st_nlink > 1 && shape != Shape::Whole {
            return Ok(false);
        }
        let (now, before) = (id(&found.stat), id(&before));
        let was = self.group(&found.stat)?.before;
        match (was, self.now.get(&before)) {
            (None, None) => {
                self.group(&found.stat)?.before = Some(before);
                self.now.insert(before, now);
                Ok(true)
            }
            (was, is) => Ok(was == Some(before) && is == Some(&now)),
        }
    }

    fn first(&self, stat: &Stat) -> Option<Vec<u8>> {
        self.groups.get(&id(stat))?.first.clone()
    }

    fn keep(&mut self, found: &Found) -> Result<()> {
        self.pay(found.path.len())?;
        self.group(&found.stat)?.kept.push(found.path.clone());
        Ok(())
    }

    /// The file is in the layer now; answers its names that did not change.
    fn write(&mut self, found: &Found) -> Result<Vec<Vec<u8>>> {
        self.pay(found.path.len())?;
        let group = self.group(&found.stat)?;
        group.first = Some(found.path.clone());
        Ok(std::mem::take(&mut group.kept))
    }
}
