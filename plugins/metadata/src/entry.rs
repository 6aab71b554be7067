//! One entry of the journal, in and out of bytes.
//!
//! `MARK, length (u32), checksum (u32) of length and payload, payload`. The payload: kind (u8), sequence number of the
//! transaction (u64), newest cursor (u64), number of the part (u32), then operations. All little-endian.

use crc32fast::Hasher;

/// What an entry begins with, so that one behind a damaged stretch is found.
pub(crate) const MARK: [u8; 4] = [0xC5, 0x4A, 0x9E, 0x1D];

/// Bytes in front of the payload.
pub(crate) const HEAD: usize = 12;

/// Bytes of a payload in front of its operations.
const FIXED: usize = 21;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A committed transaction.
    Change = 0,
    /// A part of the state that the journal begins with.
    Base = 1,
    /// Behind the last part; its part number is how many there are.
    BaseEnd = 2,
}

/// One change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op<'a> {
    Put(&'a [u8], &'a [u8]),
    Delete(&'a [u8]),
    Event(u64, &'a [u8]),
    Trim(u64),
}

fn sum(payload: &[u8], len: u32) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a record is less than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// An entry that is being written.
#[derive(Debug)]
pub(crate) struct Draft(Vec<u8>);

impl Draft {
    pub(crate) fn new() -> Self {
        Self(vec![0; HEAD + FIXED])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == HEAD + FIXED
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, op: &Op<'_>) {
        let out = &mut self.0;
        match op {
            Op::Put(key, value) => {
                out.push(0);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Op::Delete(key) => {
                out.push(1);
                put_bytes(out, key);
            }
            Op::Event(cursor, value) => {
                out.push(2);
                out.extend_from_slice(&cursor.to_le_bytes());
                put_bytes(out, value);
            }
            Op::Trim(cursor) => {
                out.push(3);
                out.extend_from_slice(&cursor.to_le_bytes());
            }
        }
    }

    /// The bytes of the entry.
    pub(crate) fn finish(mut self, kind: Kind, sequence: u64, cursor: u64, part: u32) -> Vec<u8> {
        let bytes = &mut self.0;
        let len = u32::try_from(bytes.len() - HEAD).expect("an entry is less than 4 GiB");
        let payload = &mut bytes[HEAD..];
        payload[0] = kind as u8;
        payload[1..9].copy_from_slice(&sequence.to_le_bytes());
        payload[9..17].copy_from_slice(&cursor.to_le_bytes());
        payload[17..21].copy_from_slice(&part.to_le_bytes());
        let sum = sum(payload, len);
        bytes[..4].copy_from_slice(&MARK);
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        self.0
    }
}

/// How long the payload is that a head announces; `None`: it is no head.
pub(crate) fn payload_len(head: &[u8; HEAD]) -> Option<u32> {
    let len = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
    (head[..4] == MARK && len as usize >= FIXED).then_some(len)
}

/// An entry that was read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    pub(crate) cursor: u64,
    pub(crate) part: u32,
    payload: Vec<u8>,
}

impl Entry {
    /// `None`: it is damaged.
    pub(crate) fn read(head: &[u8; HEAD], payload: Vec<u8>) -> Option<Self> {
        let len = payload_len(head)?;
        let found = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        if payload.len() != len as usize || sum(&payload, len) != found {
            return None;
        }
        let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("8 bytes"));
        let kind = match payload[0] {
            0 => Kind::Change,
            1 => Kind::Base,
            2 => Kind::BaseEnd,
            _ => return None,
        };
        let part = u32::from_le_bytes(payload[17..21].try_into().expect("four bytes"));
        Some(Self { kind, sequence: word(1), cursor: word(9), part, payload })
    }

    /// Its operations; `None` for one that is not readable, and then it is the last.
    pub(crate) fn ops(&self) -> impl Iterator<Item = Option<Op<'_>>> {
        let mut rest = &self.payload[FIXED..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let op = take_op(&mut rest);
            if op.is_none() {
                rest = &[];
            }
            Some(op)
        })
    }
}

fn take_op<'a>(rest: &mut &'a [u8]) -> Option<Op<'a>> {
    let (kind, more) = rest.split_first()?;
    *rest = more;
    Some(match kind {
        0 => Op::Put(take_bytes(rest)?, take_bytes(rest)?),
        1 => Op::Delete(take_bytes(rest)?),
        2 => Op::Event(take_word(rest)?, take_bytes(rest)?),
        3 => Op::Trim(take_word(rest)?),
        _ => return None,
    })
}

fn take_word(rest: &mut &[u8]) -> Option<u64> {
    let (word, more) = rest.split_first_chunk::<8>()?;
    *rest = more;
    Some(u64::from_le_bytes(*word))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, more) = rest.split_first_chunk::<4>()?;
    let (bytes, more) = more.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *rest = more;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_no_damage_is_missed() {
        let ops =
            [Op::Put(b"k", b"v"), Op::Delete(b"gone"), Op::Event(7, b"event"), Op::Trim(u64::MAX)];
        let mut draft = Draft::new();
        assert!(draft.is_empty());
        ops.iter().for_each(|op| draft.push(op));
        let bytes = draft.finish(Kind::Change, 3, 7, 0);
        let read = |bytes: &[u8]| {
            let head: [u8; HEAD] = bytes[..HEAD].try_into().unwrap();
            Entry::read(&head, bytes[HEAD..].to_vec())
        };
        let entry = read(&bytes).unwrap();
        assert_eq!((entry.kind, entry.sequence, entry.cursor), (Kind::Change, 3, 7));
        assert!(entry.ops().map(Option::unwrap).eq(ops));
        for index in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[index] ^= 0x10;
            assert!(read(&bad).is_none(), "{index}");
        }
    }
}
