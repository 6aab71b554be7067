//! A strict reader of tar archives: ustar, pax and GNU, and what Go's reader takes besides.
//!
//! Where GNU tar, Go's archive/tar and Python's tarfile would see different files in the same
//! bytes, the archive is refused: two programs must not disagree about what is in an image
//! (CVE-2025-62518 was such a disagreement, over the size of a file).

use std::fmt;

use capstan_sdk::{Error, Result};
use rustix::fs::Timespec;

use crate::Config;
use crate::attributes::{Attributes, Times};
use crate::config::exceeded;
use crate::error::Shown;
use crate::header::{BLOCK, Header};
use crate::pax::Records;
use crate::sparse::{self, NewMap, OldMap, Segment};

/// What an extended header may take; Go's reader has the same limit. It bounds memory.
pub(crate) const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Where the bytes of an archive come from.
pub(crate) trait Source {
    /// The next bytes; none means the end.
    ///
    /// # Errors
    /// Those of the stream behind it.
    fn peek(&mut self) -> Result<&[u8]>;

    /// Passes over bytes that were seen.
    fn consume(&mut self, count: usize);
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With its size, and whether it has holes.
    File {
        size: u64,
        is_sparse: bool,
    },
    Directory,
    /// With its target.
    Symlink(Vec<u8>),
    /// A hard link, with its target.
    Link(Vec<u8>),
    /// Major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// An entry, without its data.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As the archive has it.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
}

/// What stands before an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    pax: Option<Records>,
    path: Option<Vec<u8>>,
    link_path: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link_path.is_none()
    }
}

/// An archive while it is read.
pub(crate) struct Archive<'a, S> {
    source: &'a mut S,
    config: &'a Config,
    /// How many bytes were read.
    at: u64,
    /// It has answered with an error.
    is_source_broken: bool,
    /// What is left of the entry's data, and of the padding behind it.
    left: u64,
    padding: u64,
    /// Where that data belongs in the file.
    map: Vec<Segment>,
    /// The sum of the sizes of all files, holes and all.
    expanded: u64,
}

impl<'a, S: Source> Archive<'a, S> {
    pub(crate) fn new(source: &'a mut S, config: &'a Config) -> Self {
        Self {
            source,
            config,
            at: 0,
            is_source_broken: false,
            left: 0,
            padding: 0,
            map: Vec::new(),
            expanded: 0,
        }
    }

    /// The next entry; `None` at the end of the archive. Data that was not copied is skipped.
    ///
    /// # Errors
    /// `Corrupt`: the archive is malformed, or has what a layer cannot have. `ResourceExhausted`:
    /// a limit. Those of the source.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip(self.left)?;
        self.skip(self.padding)?;
        (self.left, self.padding) = (0, 0);
        let start = self.at;
        let entry = self.next_entry();
        entry.map_err(|e| self.located(e, format_args!("layer archive, header at byte {start}")))
    }

    /// An error of the archive with its place; one of the source as it is.
    fn located(&self, error: Error, place: fmt::Arguments<'_>) -> Error {
        if self.is_source_broken { error } else { error.at(place) }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut before = Extensions::default();
        loop {
            let Some(block) = self.header_block()? else {
                if !before.is_empty() {
                    return Err(Error::corrupt("the archive ends behind an extended header"));
                }
                return Ok(None);
            };
            let header = Header::new(block)?;
            let is_again = match header.type_flag() {
                b'x' => {
                    let records = Records::parse(&self.extension(&header)?)?;
                    before.pax.replace(records).is_some()
                }
                b'L' => before.path.replace(self.long_name(&header)?).is_some(),
                b'K' => before.link_path.replace(self.long_name(&header)?).is_some(),
                b'g' => {
                    Records::check_global(&self.extension(&header)?)?;
                    // Go's reader forgets what stood before it, GNU tar's does not.
                    !before.is_empty()
                }
                _ => return self.entry(&header, before).map(Some),
            };
            if is_again {
                return Err(Error::corrupt("an entry has two extended headers of one kind"));
            }
        }
    }

    /// The next block; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let Some(block) = self.block_or_end()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        // The end is two blocks of zeros; some writers make one, or none.
        match self.block_or_end()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => Ok(None),
            Some(_) => Err(Error::corrupt("a lone block of zeros inside of the archive")),
        }
    }

    fn block_or_end(&mut self) -> Result<Option<[u8; BLOCK]>> {
        match self.peek()? {
            [] => Ok(None),
            _ => self.block().map(Some),
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        self.take(BLOCK as u64, |bytes| {
            block[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
            Ok(())
        })?;
        Ok(block)
    }

    fn peek(&mut self) -> Result<&[u8]> {
        self.source.peek().inspect_err(|_| self.is_source_broken = true)
    }

    /// Hands out the next bytes in pieces.
    fn take(&mut self, mut left: u64, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while left > 0 {
            let at = self.at;
            let bytes = self.peek()?;
            if bytes.is_empty() {
                return Err(Error::corrupt(format!("the layer archive breaks off at byte {at}")));
            }
            let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            each(&bytes[..count])?;
            self.source.consume(count);
            self.at += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.take(len, |_| Ok(()))
    }

    /// The body of an extended header, with its padding behind it skipped.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > MAX_EXTENSION_BYTES {
            return Err(Error::corrupt(format!(
                "an extended header of {size} bytes; {MAX_EXTENSION_BYTES} is the most that is read"
            )));
        }
        let mut body = Vec::new();
        self.take(size, |bytes| {
            body.extend_from_slice(bytes);
            Ok(())
        })?;
        self.skip(padding(size))?;
        Ok(body)
    }

    /// The body of a GNU long name: text, and a NUL behind it.
    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>> {
        let body = self.extension(header)?;
        let mut parts = body.splitn(2, |&byte| byte == 0);
        match (parts.next(), parts.next()) {
            (Some(name), Some(rest)) if !name.is_empty() && rest.iter().all(|&byte| byte == 0) => {
                Ok(name.to_vec())
            }
            _ => Err(Error::corrupt(format!("the long name {} is malformed", Shown(&body)))),
        }
    }

    /// What a header and the extensions before it say together.
    fn entry(&mut self, header: &Header, before: Extensions) -> Result<Entry> {
        let mut records = before.pax.unwrap_or_default();
        let path = only(records.path.take(), before.path)?.unwrap_or_else(|| header.path());
        let link_path = only(records.link_path.take(), before.link_path)?
            .unwrap_or_else(|| header.link_path().to_vec());
        let path = records.sparse.name.take().unwrap_or(path);
        let stored = match records.size {
            Some(size) => size,
            None => header.size()?,
        };
        let kind = self.kind(header, &records, &path, link_path, stored);
        let kind = kind.map_err(|e| self.located(e, format_args!("entry {}", Shown(&path))))?;
        let modified_at = match records.modified_at {
            Some(time) => time,
            None => Timespec { tv_sec: header.modified_at(), tv_nsec: 0 },
        };
        let attributes = Attributes {
            uid: records.uid.map_or_else(|| header.uid(), Ok)?,
            gid: records.gid.map_or_else(|| header.gid(), Ok)?,
            mode: header.mode(),
            times: Times {
                accessed: records.accessed_at.unwrap_or(modified_at),
                modified: modified_at,
            },
            xattrs: records.xattrs,
        };
        Ok(Entry { path, kind, attributes })
    }

    fn kind(
        &mut self,
        header: &Header,
        records: &Records,
        path: &[u8],
        link_path: Vec<u8>,
        stored: u64,
    ) -> Result<Kind> {
        let is_directory_name = path.ends_with(b"/");
        let kind = match header.type_flag() {
            // Before there was a type for directories, a slash said it.
            0 if is_directory_name => Kind::Directory,
            0 | b'0' | b'S' if is_directory_name => {
                return Err(Error::corrupt("a file with the name of a directory"));
            }
            b'S' if header.is_gnu() && !records.sparse.is_used => {
                return self.old_sparse_file(header, stored);
            }
            0 | b'0' if records.sparse.is_used && header.is_ustar() => {
                return self.sparse_file(records, stored);
            }
            // GNU tar does not look at the map then.
            0 | b'0' if records.sparse.is_used => {
                return Err(Error::corrupt("a sparse file in a format without them"));
            }
            0 | b'0' => {
                let map = vec![Segment { offset: 0, len: stored }];
                return self.file(map, stored, stored, false);
            }
            b'1' => Kind::Link(link_path),
            b'2' => Kind::Symlink(link_path),
            b'3' => header.device().map(|(major, minor)| Kind::CharDevice(major, minor))?,
            b'4' => header.device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => {
                let flag = char::from(flag);
                return Err(Error::corrupt(format!("its type {flag:?} has no place in a layer")));
            }
        };
        if records.sparse.is_used {
            return Err(Error::corrupt("holes in what is no file"));
        }
        // For a hard link all readers agree that no data follows, whatever the size says. For the
        // others GNU tar skips data, and Go's reader does not.
        if stored != 0 && !matches!(kind, Kind::Link(_)) {
            return Err(Error::corrupt(format!("data of {stored} bytes in what is no file")));
        }
        Ok(kind)
    }

    fn file(
        &mut self,
        map: Vec<Segment>,
        real_size: u64,
        stored: u64,
        is_sparse: bool,
    ) -> Result<Kind> {
        self.charge(real_size)?;
        (self.left, self.padding, self.map) = (stored, padding(stored), map);
        Ok(Kind::File { size: real_size, is_sparse })
    }

    /// Counts bytes that a file of the layer has.
    ///
    /// # Errors
    /// `ResourceExhausted`: `max_bytes`.
    pub(crate) fn charge(&mut self, size: u64) -> Result<()> {
        self.expanded = self.expanded.saturating_add(size);
        if self.expanded > self.config.max_bytes {
            let what = "bytes in the layer's files, with their holes";
            return Err(exceeded(what, "max_bytes", self.config.max_bytes));
        }
        Ok(())
    }

    fn old_sparse_file(&mut self, header: &Header, stored: u64) -> Result<Kind> {
        let mut map = OldMap::start(header.block())?;
        while map.has_more {
            map.extend(&self.block()?)?;
        }
        sparse::check(&map.segments, map.real_size, stored)?;
        self.file(map.segments, map.real_size, stored, true)
    }

    fn sparse_file(&mut self, records: &Records, mut stored: u64) -> Result<Kind> {
        let real_size = records.sparse.real_size;
        let real_size =
            real_size.ok_or_else(|| Error::corrupt("a sparse file without its real size"))?;
        let map = match records.sparse.map()? {
            Some(map) => map,
            None => {
                let mut map = NewMap::default();
                loop {
                    stored = stored.checked_sub(BLOCK as u64).ok_or_else(|| {
                        Error::corrupt("the map of a sparse file is longer than the file")
                    })?;
                    if let Some(map) = map.extend(&self.block()?)? {
                        break map;
                    }
                }
            }
        };
        sparse::check(&map, real_size, stored)?;
        self.file(map, real_size, stored, true)
    }

    /// Hands out the data of the entry that came last: pieces, and where in the file they belong.
    ///
    /// # Errors
    /// Those of `sink`. `Corrupt`: the archive breaks off. Those of the source.
    pub(crate) fn copy(&mut self, mut sink: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        for Segment { mut offset, len } in std::mem::take(&mut self.map) {
            self.take(len, |bytes| {
                sink(offset, bytes)?;
                offset += bytes.len() as u64;
                Ok(())
            })?;
            self.left -= len;
        }
        Ok(())
    }
}

/// The bytes from the end of data to the end of its block.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// What is given once. GNU tar prefers the pax record, Go's reader the GNU header.
fn only(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(Error::corrupt("an entry has a pax and a GNU name")),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}
