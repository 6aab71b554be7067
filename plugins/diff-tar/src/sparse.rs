//! Sparse files (GNU tar manual, "Storing Sparse Files"): which parts of a file the archive has.

use capstan_sdk::{Error, Result};

use crate::header::{BLOCK, number};

/// What a map may take in an archive; Go's reader has the same limit. It bounds memory.
pub(crate) const MAX_MAP_BYTES: usize = 1 << 20;

/// A part of a file that is in the archive; the rest are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// A segment per pair of numbers.
pub(crate) fn pairs(numbers: &[u64]) -> Result<Vec<Segment>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::corrupt("the map of a sparse file has an offset without a length"));
    }
    Ok(pairs.iter().map(|&[offset, len]| Segment { offset, len }).collect())
}

/// Checks that a map is in order, ends with the file, and is for just the bytes that the archive
/// has. Where it does not end with the file, readers make files of different sizes.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn check(map: &[Segment], real_size: u64, stored: u64) -> Result<()> {
    let mut end = 0;
    let mut sum = 0_u64;
    for segment in map {
        let next = segment.offset.checked_add(segment.len);
        let (true, Some(next)) = (segment.offset >= end, next) else {
            return Err(Error::corrupt("the map of a sparse file is out of order"));
        };
        end = next;
        sum += segment.len;
    }
    if end != real_size || sum != stored {
        return Err(Error::corrupt(format!(
            "the map of a sparse file of {real_size} bytes ends at byte {end} and has {sum} bytes, \
             where the archive has {stored}"
        )));
    }
    Ok(())
}

/// The map of old GNU headers: four entries in the header, then as many as follow in blocks of 21.
#[derive(Debug, Default)]
pub(crate) struct OldMap {
    pub(crate) segments: Vec<Segment>,
    pub(crate) has_more: bool,
    pub(crate) real_size: u64,
}

impl OldMap {
    /// From a header.
    pub(crate) fn start(block: &[u8; BLOCK]) -> Result<Self> {
        let real_size = unsigned(&block[483..495])?;
        let mut map = Self { real_size, ..Self::default() };
        map.add(&block[386..482], block[482])?;
        Ok(map)
    }

    /// From a block behind the header.
    pub(crate) fn extend(&mut self, block: &[u8; BLOCK]) -> Result<()> {
        self.add(&block[..504], block[504])
    }

    fn add(&mut self, entries: &[u8], more: u8) -> Result<()> {
        for entry in entries.as_chunks::<24>().0 {
            // The first one that is empty ends the map; Go's reader looks at the offset, GNU tar's
            // at the length.
            match (entry[0], entry[12]) {
                (0, 0) => break,
                (0, _) | (_, 0) => return Err(Error::corrupt("half an entry in a sparse map")),
                _ => {}
            }
            let (offset, len) = (unsigned(&entry[..12])?, unsigned(&entry[12..])?);
            self.segments.push(Segment { offset, len });
        }
        self.has_more = more != 0;
        if self.segments.len() * 24 > MAX_MAP_BYTES {
            return Err(too_long());
        }
        Ok(())
    }
}

/// The map of format 1.0, which stands before the data: decimal lines, the first of which says how
/// many pairs follow.
#[derive(Debug, Default)]
pub(crate) struct NewMap {
    numbers: Vec<u64>,
    line: Vec<u8>,
    bytes: usize,
}

impl NewMap {
    /// Takes one block; the map when it is complete. What follows in its last block is padding.
    pub(crate) fn extend(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<Segment>>> {
        self.bytes += BLOCK;
        if self.bytes > MAX_MAP_BYTES {
            return Err(too_long());
        }
        for &byte in block {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            self.numbers.push(decimal(&self.line)?);
            self.line.clear();
            let pairs_left = self.numbers[0].checked_mul(2).map(|n| n + 1);
            if pairs_left == Some(self.numbers.len() as u64) {
                return pairs(&self.numbers[1..]).map(Some);
            }
        }
        Ok(None)
    }
}

fn too_long() -> Error {
    Error::corrupt(format!("the map of a sparse file is longer than {MAX_MAP_BYTES} bytes"))
}

fn unsigned(field: &[u8]) -> Result<u64> {
    let what = "offset or length of a sparse file";
    let number = number(field, what)?;
    u64::try_from(number).map_err(|_| Error::corrupt(format!("the {what} {number} is negative")))
}

/// Decimal digits, at least one, nothing else.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn decimal(text: &[u8]) -> Result<u64> {
    let number = match text {
        [] => None,
        digits => digits.iter().try_fold(0_u64, |number, &byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        }),
    };
    number.ok_or_else(|| {
        Error::corrupt(format!("{} is no decimal number", crate::error::Shown(text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        assert_eq!(decimal(b"0").unwrap(), 0);
        assert_eq!(decimal(b"18446744073709551615").unwrap(), u64::MAX);
        for bad in ["", "18446744073709551616", "+1", "-1", " 1", "1 ", "0x1", "1.0"] {
            assert!(decimal(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn maps_are_checked() {
        let check = |numbers: &[u64], real: u64, stored: u64, is_good: bool| {
            let result = pairs(numbers).and_then(|map| super::check(&map, real, stored));
            assert_eq!(result.is_ok(), is_good, "{numbers:?} {real} {stored}: {result:?}");
        };
        check(&[], 0, 0, true);
        check(&[], 1 << 40, 0, false);
        check(&[1 << 40, 0], 1 << 40, 0, true);
        check(&[0, 5], 5, 5, true);
        check(&[0, 5, 5, 5, 100, 0], 100, 10, true);
        check(&[10, 5, 100, 5], 105, 10, true);
        check(&[10, 5, 100, 5], 104, 10, false);
        check(&[10, 5, 100, 5], 106, 10, false);
        check(&[10, 5, 100, 5], 105, 9, false);
        check(&[10, 5, 100, 5], 105, 11, false);
        check(&[10, 5, 14, 5], 100, 10, false);
        check(&[10, 5, 0, 5], 100, 10, false);
        check(&[u64::MAX, 1], u64::MAX, 1, false);
        check(&[0, u64::MAX, u64::MAX, 0], u64::MAX, u64::MAX, true);
        check(&[0], 5, 0, false);
    }

    #[test]
    fn new_maps_come_in_blocks() {
        let blocks = |text: &str| -> Result<Option<Vec<Segment>>> {
            let mut map = NewMap::default();
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            for block in bytes.as_chunks::<BLOCK>().0 {
                if let Some(done) = map.extend(block)? {
                    return Ok(Some(done));
                }
            }
            Ok(None)
        };
        assert_eq!(blocks("0\n").unwrap(), Some(vec![]));
        assert_eq!(blocks("1\n5\n6\n").unwrap(), Some(vec![Segment { offset: 5, len: 6 }]));
        let many = format!("200\n{}", "1000\n2\n".repeat(200));
        assert_eq!(blocks(&many).unwrap().map(|map| map.len()), Some(200));
        assert_eq!(blocks("2\n5\n6\n").unwrap(), None);
        assert!(blocks("1\nx\n6\n").is_err());
        assert!(blocks("\n").is_err());
        assert!(blocks(&format!("300000\n{}", "1\n1\n".repeat(300_000))).is_err());
        assert!(blocks(&format!("{}\n1\n", u64::MAX)).unwrap().is_none());
    }
}
