//! The pseudo-links of aufs: files that have several names in a layer stand once, below `.wh..wh.plnk` in
//! its root, and their names are hard links to there. Each such link becomes a file of its own.
//!
//! Until the layer ends their bytes are in one file that has no name, so that a layer with many of them
//! takes one descriptor.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use capstan_sdk::{Error, Result};
use rustix::fs::ftruncate;
use rustix::io::{Errno, pread, pwrite};

use crate::Config;
use crate::archive::{Archive, Entry, Kind, Source};
use crate::beneath::Dir;
use crate::config::exceeded;
use crate::error::failed;

/// What the file is called for the moment that it has a name. No entry of a layer can have it.
const SPOOL: &[u8] = b".wh..wh.plnk";

/// One file.
pub(crate) struct Plink {
    /// Its attributes.
    pub(crate) entry: Entry,
    /// Where its bytes begin.
    start: u64,
    /// How many they are, with its holes.
    pub(crate) size: u64,
}

/// Those of a layer so far.
#[derive(Default)]
pub(crate) struct Plinks {
    spool: Option<OwnedFd>,
    end: u64,
    files: BTreeMap<Vec<u8>, Plink>,
    /// What they take in memory.
    bytes: usize,
}

impl Plinks {
    /// Keeps the file that the archive stands at; what is no file is skipped.
    ///
    /// # Errors
    /// `ResourceExhausted`: `max_pending_bytes`. Those of the archive and the file system.
    pub(crate) fn keep<S: Source>(
        &mut self,
        root: &Dir,
        base: Vec<u8>,
        entry: Entry,
        archive: &mut Archive<'_, S>,
        config: &Config,
    ) -> Result<()> {
        let Kind::File { size, .. } = entry.kind else { return Ok(()) };
        let xattrs = &entry.attributes.xattrs;
        self.bytes += base.len() + size_of::<Plink>();
        self.bytes += xattrs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if self.bytes > config.max_pending_bytes {
            let what = "names and attributes of aufs's pseudo-links";
            return Err(exceeded(what, "max_pending_bytes", config.max_pending_bytes));
        }
        let fail = |errno| failed("write", SPOOL)(errno);
        if self.spool.is_none() {
            self.spool = Some(root.make_unnamed(SPOOL).map_err(fail)?);
        }
        let spool = self.spool.as_ref().expect("it was just made");
        let start = self.end;
        archive.copy(|offset, bytes| write_all(spool, bytes, start + offset).map_err(fail))?;
        self.end += size;
        // What is a hole at the end is read back, too.
        ftruncate(spool, self.end).map_err(fail)?;
        self.files.insert(base, Plink { entry, start, size });
        Ok(())
    }

    /// The one with this name below `.wh..wh.plnk`.
    pub(crate) fn find(&self, base: &[u8]) -> Option<&Plink> {
        self.files.get(base)
    }

    /// Writes its bytes into a new file; where there are only zeros, nothing.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn copy(&self, plink: &Plink, file: &OwnedFd, name: &[u8]) -> Result<()> {
        let spool =
            self.spool.as_ref().ok_or_else(|| Error::internal("no pseudo-link was kept"))?;
        let mut buffer = vec![0; 64 << 10];
        let mut done = 0;
        while done < plink.size {
            let want = usize::try_from(plink.size - done).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = match pread(spool, &mut buffer[..want], plink.start + done) {
                Err(Errno::INTR) => continue,
                result => &buffer[..result.map_err(failed("read", SPOOL))?],
            };
            if bytes.is_empty() {
                return Err(Error::internal("the copy of a pseudo-link is too short"));
            }
            if bytes.iter().any(|&byte| byte != 0) {
                write_all(file, bytes, done).map_err(failed("write", name))?;
            }
            done += bytes.len() as u64;
        }
        ftruncate(file, plink.size).map_err(failed("set the size of", name))
    }
}

/// Writes all of it at `offset`.
pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Ok(count) => {
                offset += count as u64;
                bytes = &bytes[count..];
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
