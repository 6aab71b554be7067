//! The members of a gzip file, as one stream (RFC 1952).
//!
//! flate2 has such a reader. This one takes only its inflate: the checksum of its reader costs a fifth of the time that
//! inflating takes, this one next to nothing.

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::{Decompress, FlushDecompress, Status};

/// Flags of a header (section 2.3.1).
const HAS_CRC: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Where in the file the next byte is.
enum Place {
    /// Before the first member: one there must be.
    Start,
    /// In the compressed data of one.
    Data,
    /// Behind one: the next, or the end.
    Between,
    End,
}

/// Reads what the members of a gzip file have, one behind the other.
pub(crate) struct Members<R> {
    input: R,
    inflate: Decompress,
    /// Of this member so far.
    checksum: crc32fast::Hasher,
    place: Place,
}

impl<R: BufRead> Members<R> {
    pub(crate) fn new(input: R) -> Self {
        let inflate = Decompress::new(false);
        Self { input, inflate, checksum: crc32fast::Hasher::new(), place: Place::Start }
    }

    /// Inflates some; nothing means that the member has ended.
    fn inflate(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill_buf()?;
            let is_end = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, buffer, FlushDecompress::None)?;
            let taken = usize::try_from(self.inflate.total_in() - before_in).expect("of a slice");
            let made = usize::try_from(self.inflate.total_out() - before_out).expect("of a slice");
            self.input.consume(taken);
            self.checksum.update(&buffer[..made]);
            if made > 0 || status == Status::StreamEnd {
                return Ok(made);
            }
            if is_end {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.place {
                Place::Between if self.input.fill_buf()?.is_empty() => self.place = Place::End,
                Place::Start | Place::Between => {
                    skip_header(&mut self.input)?;
                    self.inflate.reset(false);
                    self.checksum.reset();
                    self.place = Place::Data;
                }
                Place::Data => match self.inflate(buffer)? {
                    0 => {
                        let size = self.inflate.total_out();
                        check_trailer(&mut self.input, self.checksum.clone().finalize(), size)?;
                        self.place = Place::Between;
                    }
                    made => return Ok(made),
                },
                Place::End => return Ok(0),
            }
        }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The header of a member (section 2.3): nothing in it is of use here.
fn skip_header(input: &mut impl BufRead) -> io::Result<()> {
    let mut header = Header { input, checksum: crc32fast::Hasher::new() };
    let [first, second, method, flags, ..] = header.take::<10>()?;
    if [first, second] != [0x1f, 0x8b] {
        return Err(damaged("there is no gzip member where one has to begin"));
    }
    if method != 8 || flags & RESERVED != 0 {
        return Err(damaged("a gzip member is of a kind that RFC 1952 does not have"));
    }
    if flags & HAS_EXTRA != 0 {
        for _ in 0..u16::from_le_bytes(header.take()?) {
            header.take::<1>()?;
        }
    }
    for text in [HAS_NAME, HAS_COMMENT] {
        while flags & text != 0 && header.take()? != [0] {}
    }
    if flags & HAS_CRC != 0 {
        let [low, high, ..] = header.checksum.clone().finalize().to_le_bytes();
        if header.take()? != [low, high] {
            return Err(damaged("the checksum of a gzip header is wrong"));
        }
    }
    Ok(())
}

struct Header<'r, R> {
    input: &'r mut R,
    checksum: crc32fast::Hasher,
}

impl<R: Read> Header<'_, R> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.checksum.update(&bytes);
        Ok(bytes)
    }
}

/// What is behind the data of a member: its checksum, and its size by 2^32.
fn check_trailer(input: &mut impl Read, checksum: u32, size: u64) -> io::Result<()> {
    let mut trailer = [0; 8];
    input.read_exact(&mut trailer)?;
    if trailer[..4] != checksum.to_le_bytes() {
        return Err(damaged("the checksum of a gzip member is wrong"));
    }
    if trailer[4..] != size.to_le_bytes()[..4] {
        return Err(damaged("a gzip member has another size than it says"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::{DeflateEncoder, GzEncoder};
    use flate2::{Compression, GzBuilder};
    use std::io::{BufReader, Write as _};

    fn read(bytes: &[u8]) -> Result<Vec<u8>, ErrorKind> {
        let read = |capacity| {
            let mut all = Vec::new();
            let mut members = Members::new(BufReader::with_capacity(capacity, bytes));
            let outcome = members.read_to_end(&mut all).map_err(|error| error.kind());
            outcome.map(|_| all)
        };
        // In one piece, and byte by byte.
        let whole = read(1 << 20);
        assert_eq!(read(1), whole);
        whole
    }

    fn text() -> Vec<u8> {
        (0..50_000_u32).flat_map(|n| (n / 3).to_le_bytes()).collect()
    }

    #[test]
    fn members_follow_one_another() {
        let text = text();
        let member = |data: &[u8], builder: GzBuilder| {
            let mut encoder = builder.write(Vec::new(), Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        };
        let full = GzBuilder::new()
            .extra(vec![7; 300])
            .filename("layer.tar")
            .comment("nobody reads this")
            .mtime(17);
        let parts = [
            member(&text[..9], GzBuilder::new()),
            member(b"", GzBuilder::new()),
            member(&text[9..], full),
            member(b"", GzBuilder::new()),
        ];
        assert_eq!(read(&parts.concat()).unwrap(), text);
        assert_eq!(read(&parts[1]).unwrap(), b"");
    }

    /// One made by hand, with the checksum of its header, which flate2 does not write.
    fn by_hand() -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x8b, 8, HAS_CRC | HAS_NAME, 0, 0, 0, 0, 0, 255, b'x', 0];
        let mut checksum = crc32fast::hash(&bytes).to_le_bytes().to_vec();
        checksum.truncate(2);
        bytes.extend(checksum);
        let mut encoder = DeflateEncoder::new(bytes, Compression::best());
        encoder.write_all(b"by hand").unwrap();
        let mut bytes = encoder.finish().unwrap();
        bytes.extend(crc32fast::hash(b"by hand").to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn each_byte_of_a_header_and_of_a_trailer_counts() {
        let good = by_hand();
        assert_eq!(read(&good).unwrap(), b"by hand");
        let end = good.len();
        for at in (0..14).chain(end - 8..end) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let error = read(&bad).unwrap_err();
            assert!(
                matches!(error, ErrorKind::InvalidData | ErrorKind::UnexpectedEof),
                "byte {at}"
            );
        }
    }

    #[test]
    fn what_breaks_off_is_told_from_what_is_wrong() {
        let good = by_hand();
        for end in 0..good.len() {
            assert_eq!(read(&good[..end]), Err(ErrorKind::UnexpectedEof), "{end} bytes");
        }
        for behind in [&b"x"[..], &[0; 512]] {
            let bad = [&good[..], behind].concat();
            let outcome = read(&bad);
            assert!(outcome.is_err(), "{behind:?}");
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&text()).unwrap();
        let mut bad = encoder.finish().unwrap();
        let middle = bad.len() / 2;
        bad[middle] ^= 0xff;
        assert!(read(&bad).is_err());
    }
}
