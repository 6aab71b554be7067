//! One file against its entry, piece by piece. What was the same so far need not be kept to make
//! the file anew: it is in the old one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use capstan_sdk::{Error, Result};

use crate::attributes::{Attributes, is_control, is_of_machine};
use crate::beneath::{Dir, Tree};
use crate::changes::fill;
use crate::error::failed;
use crate::name::Name;
use crate::repair::{self, Replacement};
use crate::stream::CHUNK;

/// What came of a comparison.
pub(crate) struct Outcome {
    pub(crate) what: Vec<&'static str>,
    pub(crate) is_repaired: bool,
}

/// A file that is compared.
pub(crate) struct Comparison<'a> {
    dir: &'a Rc<Dir>,
    name: &'a Name,
    want: &'a Attributes,
    is_repair: bool,
    /// What is there, if it is a file.
    old: Option<File>,
    /// Up to here it is the same, or written anew.
    at: u64,
    differs: bool,
    new: Option<Replacement<'a>>,
    buffer: Vec<u8>,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(
        dir: &'a Rc<Dir>,
        name: &'a Name,
        is_file: bool,
        is_repair: bool,
        want: &'a Attributes,
    ) -> Result<Self> {
        let open = || dir.open_file(name.base()).map(File::from).map_err(failed("open", name));
        let old = if is_file { Some(open()?) } else { None };
        let (differs, buffer) = (old.is_none(), vec![0; CHUNK]);
        let mut comparison =
            Self { dir, name, want, is_repair, old, at: 0, differs: false, new: None, buffer };
        if differs {
            comparison.start()?;
        }
        Ok(comparison)
    }

    /// From here on it is not the same.
    fn start(&mut self) -> Result<()> {
        self.differs = true;
        if self.is_repair {
            let new = Replacement::new(self.dir, self.name)?;
            if let Some(old) = &self.old {
                new.take_over(old, self.at)?;
            }
            self.new = Some(new);
        }
        Ok(())
    }

    /// Takes the next data of the entry; what is between it and the last is a hole.
    pub(crate) fn piece(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.hole(offset)?;
        let old = self.old.as_ref().filter(|_| !self.differs);
        if let Some(old) = old
            && !is_same(old, &mut self.buffer, offset, bytes)
        {
            self.start()?;
        }
        if let Some(new) = &self.new {
            new.write(offset, bytes)?;
        }
        self.at = offset + bytes.len() as u64;
        Ok(())
    }

    fn hole(&mut self, to: u64) -> Result<()> {
        let zeros = [0; 4096];
        while !self.differs && self.at < to {
            let len = usize::try_from(to - self.at).map_or(zeros.len(), |len| len.min(zeros.len()));
            let old = self.old.as_ref().expect("it would differ");
            if is_same(old, &mut self.buffer, self.at, &zeros[..len]) {
                self.at += len as u64;
            } else {
                self.start()?;
            }
        }
        self.at = self.at.max(to);
        Ok(())
    }

    /// Ends the file, which has `size` bytes, and looks at its attributes.
    pub(crate) fn finish(mut self, size: u64, tree: &mut Tree) -> Result<Outcome> {
        self.hole(size)?;
        let mut what = Vec::new();
        if let Some(old) = &self.old {
            let about = old.metadata();
            let about =
                about.map_err(|error| Error::io(format!("look at {}", self.name), error))?;
            let got = Attributes::of(old).map_err(failed("look at", self.name))?;
            if about.len() != size {
                what.push("size");
            } else if self.differs {
                what.push("content");
            }
            let is_longer = about.len() != size && !self.differs;
            what.extend(differing(&got, self.want, false));
            if is_longer {
                self.start()?;
            }
        }
        match (self.new, self.old) {
            (Some(new), _) => new.finish(tree, size, self.want)?,
            (None, Some(old)) if self.is_repair && !what.is_empty() => {
                repair::attributes(&old, self.want, self.name)?;
            }
            _ => return Ok(Outcome { what, is_repaired: false }),
        }
        Ok(Outcome { what, is_repaired: true })
    }
}

/// Whether a file has these bytes there. What cannot be read is not the same.
fn is_same(file: &File, buffer: &mut [u8], mut at: u64, bytes: &[u8]) -> bool {
    for want in bytes.chunks(buffer.len()) {
        match fill(file, &mut buffer[..want.len()], at) {
            Ok(got) if got == want.len() && buffer[..got] == *want => at += got as u64,
            _ => return false,
        }
    }
    true
}

/// Copies the start of a file.
pub(crate) fn copy_start(from: &File, to: &File, len: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let want = usize::try_from(len - at).map_or(CHUNK, |left| left.min(CHUNK));
        let got = fill(from, &mut buffer[..want], at)?;
        if got < want {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..got], at)?;
        at += got as u64;
    }
    Ok(())
}

/// In what attributes differ; when a file was read last does not count.
pub(crate) fn differing(
    got: &Attributes,
    want: &Attributes,
    is_symlink: bool,
) -> Vec<&'static str> {
    let mut what = Vec::new();
    if !is_symlink && got.mode != want.mode {
        what.push("mode");
    }
    if (got.uid, got.gid) != (want.uid, want.gid) {
        what.push("owner");
    }
    if got.times.modified != want.times.modified {
        what.push("mtime");
    }
    let counts = |(key, _): &(&Vec<u8>, &Vec<u8>)| !is_control(key) && !is_of_machine(key);
    if !got.xattrs.iter().filter(counts).eq(want.xattrs.iter().filter(counts)) {
        what.push("xattrs");
    }
    what
}
