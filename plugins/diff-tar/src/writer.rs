//! Writes tar archives: ustar, and pax records for what ustar has no room for.
//!
//! One form for each value, and nothing of the time or the place of writing: the same entries give
//! the same bytes.

use std::io::Write;

use capstan_sdk::{Error, Result};
use rustix::fs::Timespec;

use crate::archive::{Kind, MAX_EXTENSION_BYTES, padding};
use crate::attributes::Attributes;
use crate::error::Shown;
use crate::header::BLOCK;

/// The most that the octal digits of a long and of a short field hold.
const LONG: u64 = 0o777_7777_7777;
const SHORT: u64 = 0o777_7777;

/// Names that are longer, or not ASCII, go into a record.
const NAME_BYTES: usize = 100;

/// What extended headers are called; it means nothing to any reader.
const EXTENSION_NAME: &[u8] = b"PaxHeaders/0";

/// An archive in the making.
pub(crate) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes all but the data of an entry; of a file that follows, by [`data`](Self::data).
    /// `path` is clean; the root is the empty one.
    ///
    /// # Errors
    /// `FailedPrecondition`: a value that no layer can hold. Those of the output.
    pub(crate) fn entry(
        &mut self,
        path: &[u8],
        kind: &Kind,
        attributes: &Attributes,
    ) -> Result<()> {
        let name = name_of(path, kind);
        let (target, size): (&[u8], u64) = match kind {
            Kind::Symlink(target) | Kind::Link(target) => (target, 0),
            Kind::File { size, .. } => (b"", *size),
            _ => (b"", 0),
        };
        let records = records(&name, target, size, kind, attributes)?;
        if records.len() as u64 > MAX_EXTENSION_BYTES {
            return Err(Error::precondition(format!(
                "{}: its name and extended attributes take {} bytes, and a layer holds {MAX_EXTENSION_BYTES}",
                Shown(path),
                records.len()
            )));
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            let header = Block::new(b'x', EXTENSION_NAME).size(size).summed();
            self.write(&header)?;
            self.write(&records)?;
            self.pad(size)?;
        }
        let mut header = Block::new(type_flag(kind), &name).size(size);
        header.number(100..108, attributes.mode.into());
        header.number(108..116, attributes.uid.into());
        header.number(116..124, attributes.gid.into());
        let seconds = u64::try_from(attributes.times.modified.tv_sec).unwrap_or(0);
        header.number(136..148, if seconds <= LONG { seconds } else { 0 });
        header.text(157, target);
        if let Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) = kind {
            // More than the reader takes.
            if *major > 0xfff || *minor > 0xf_ffff {
                return Err(Error::precondition(format!(
                    "{}: a layer cannot hold the device {major}:{minor}",
                    Shown(path)
                )));
            }
            header.number(329..337, (*major).into());
            header.number(337..345, (*minor).into());
        }
        self.write(&header.summed())
    }

    /// Writes some data of the file that was written last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }

    /// Ends the data of a file of `size` bytes.
    pub(crate) fn pad(&mut self, size: u64) -> Result<()> {
        let zeros = [0; BLOCK];
        let len = usize::try_from(padding(size)).expect("less than a block");
        self.write(&zeros[..len])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(explain)
    }
}

/// An error of the output: ours, if it has one of ours inside.
pub(crate) fn explain(error: std::io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("write the layer", error))
}

fn name_of(path: &[u8], kind: &Kind) -> Vec<u8> {
    match kind {
        Kind::Directory if path.is_empty() => b"./".to_vec(),
        Kind::Directory => [path, b"/"].concat(),
        _ => path.to_vec(),
    }
}

fn type_flag(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => b'0',
        Kind::Link(_) => b'1',
        Kind::Symlink(_) => b'2',
        Kind::CharDevice(..) => b'3',
        Kind::BlockDevice(..) => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// What goes into an extended header, in the order of the keys.
fn records(
    name: &[u8],
    target: &[u8],
    size: u64,
    kind: &Kind,
    attributes: &Attributes,
) -> Result<Vec<u8>> {
    let is_long = |text: &[u8]| text.len() > NAME_BYTES || !text.is_ascii();
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend_from_slice(&record(key, value));
    // An other name of a file has none of its own.
    if !matches!(kind, Kind::Link(_)) {
        for (key, value) in &attributes.xattrs {
            if key.contains(&b'=') {
                return Err(Error::precondition(format!(
                    "{}: a layer cannot hold the extended attribute {}",
                    Shown(name),
                    Shown(key)
                )));
            }
            add(&[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
    }
    if u64::from(attributes.gid) > SHORT {
        add(b"gid", attributes.gid.to_string().as_bytes());
    }
    if is_long(target) {
        add(b"linkpath", target);
    }
    let modified = attributes.times.modified;
    if modified.tv_nsec != 0 || !u64::try_from(modified.tv_sec).is_ok_and(|s| s <= LONG) {
        add(b"mtime", time(modified).as_bytes());
    }
    if is_long(name) {
        add(b"path", name);
    }
    if size > LONG {
        add(b"size", size.to_string().as_bytes());
    }
    if u64::from(attributes.uid) > SHORT {
        add(b"uid", attributes.uid.to_string().as_bytes());
    }
    Ok(records)
}

/// `length key=value\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    loop {
        let next = rest + len.to_string().len();
        if next == len {
            break;
        }
        len = next;
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Seconds, maybe negative, with a fraction if there is one.
fn time(time: Timespec) -> String {
    let (sign, seconds, nanos) = match (time.tv_sec, time.tv_nsec) {
        (seconds @ ..0, 0) => ("-", seconds.unsigned_abs(), 0),
        (seconds @ ..0, nanos) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
        (seconds, nanos) => ("", seconds.unsigned_abs(), nanos),
    };
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A header block in the making.
struct Block([u8; BLOCK]);

impl Block {
    fn new(type_flag: u8, name: &[u8]) -> Self {
        let mut block = Self([0; BLOCK]);
        block.text(0, name);
        block.0[156] = type_flag;
        block.text(257, b"ustar\x0000");
        for field in [100..108, 108..116, 116..124, 136..148, 329..337, 337..345] {
            block.number(field, 0);
        }
        block
    }

    fn size(mut self, size: u64) -> Self {
        self.number(124..136, size);
        self
    }

    /// As much of a text as a name's field holds.
    fn text(&mut self, at: usize, text: &[u8]) {
        let text = &text[..text.len().min(NAME_BYTES)];
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// Octal digits and a NUL, or big-endian binary if there are too many.
    fn number(&mut self, field: std::ops::Range<usize>, number: u64) {
        let field = &mut self.0[field];
        let digits = field.len() - 1;
        let text = format!("{number:0digits$o}");
        if text.len() == digits {
            field[..digits].copy_from_slice(text.as_bytes());
            return;
        }
        field.fill(0);
        let bytes = number.to_be_bytes();
        let len = bytes.len().min(digits);
        field[digits + 1 - len..].copy_from_slice(&bytes[bytes.len() - len..]);
        field[0] = 0x80;
    }

    fn summed(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for (len, want) in [(1, "6 k=x"), (90, "96 k="), (94, "101 k="), (95, "102 k=")] {
            let record = record(b"k", &vec![b'x'; len]);
            assert!(record.starts_with(want.as_bytes()), "{len}");
            let text = String::from_utf8(record.clone()).unwrap();
            let number: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(number, record.len());
        }
    }

    #[test]
    fn times_before_and_after_1970() {
        let check = |tv_sec, tv_nsec, want: &str| {
            assert_eq!(time(Timespec { tv_sec, tv_nsec }), want);
        };
        check(0, 0, "0");
        check(10, 0, "10");
        check(10, 500_000_000, "10.5");
        check(10, 1, "10.000000001");
        check(-1, 0, "-1");
        check(-1, 500_000_000, "-0.5");
        check(-3, 1, "-2.999999999");
        check(100, 100, "100.0000001");
    }

    #[test]
    fn numbers_that_are_too_long_are_binary() {
        let mut block = Block::new(b'0', b"f");
        block.number(108..116, 0o7_777_777);
        assert_eq!(&block.0[108..116], b"7777777\0");
        block.number(108..116, u64::from(u32::MAX));
        assert_eq!(&block.0[108..116], b"\x80\0\0\0\xff\xff\xff\xff");
        block.number(124..136, 1 << 40);
        assert_eq!(&block.0[124..136], b"\x80\0\0\0\0\0\x01\0\0\0\0\0");
    }
}
