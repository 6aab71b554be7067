//! The files of a tar, one after the other, in constant memory: headers of any dialect, sizes and names from extended
//! headers, and no more than that. What an entry means is for who reads it.

use std::io::{self, Read};

use capstan_sdk::{Error, Result};
use tar::EntryType;

/// Tars are made of these.
const BLOCK: usize = 512;

/// Bytes that are skipped at once.
const CHUNK: usize = 256 << 10;

/// Extended headers of one entry: a path and a few attributes.
const MAX_HEADER_BYTES: u64 = 64 << 10;

/// Entries of any kind; real archives have hundreds.
const MAX_ENTRIES: usize = 1_000_000;

/// What is read of an archive, and is none.
pub(crate) fn no_archive(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("it is no archive of images: {why}"))
}

/// What reading says: an error of ours as it was.
pub(crate) fn broken(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(no_archive)
}

/// Reads a small file.
pub(crate) fn read_small(from: &mut impl Read, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > limit {
        return Err(Error::exhausted(format!(
            "{what} of the archive is larger than {limit} bytes, the limit of such documents"
        )));
    }
    Ok(bytes)
}

/// What an archive says of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: EntryType,
    pub(crate) name: Vec<u8>,
    /// Empty if it is no link.
    pub(crate) link: Vec<u8>,
    /// Its bytes, which [`Entries`] gives until the next entry is asked for.
    pub(crate) size: u64,
}

/// What extended headers say of the entry behind them.
#[derive(Default, PartialEq, Eq)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A tar that is read from its beginning to its end.
pub(crate) struct Entries<R> {
    source: R,
    /// Of the entry: bytes that nobody has read, and what fills its last block.
    rest: u64,
    padding: u64,
    count: usize,
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, rest: 0, padding: 0, count: 0 }
    }

    /// What is behind the end of the tar.
    pub(crate) fn into_inner(self) -> R {
        self.source
    }

    /// The next file; what is left of the one before is skipped. `None`: that was all.
    ///
    /// # Errors
    /// `InvalidArgument`: it is no tar. `Corrupt`: it is cut off. `ResourceExhausted`: more than any archive has.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        while let Some(entry) = self.next_header()? {
            match entry.kind {
                EntryType::GNULongName => extended.name = Some(text(self.header()?)),
                EntryType::GNULongLink => extended.link = Some(text(self.header()?)),
                EntryType::XGlobalHeader => {
                    let mut global = Extended::default();
                    global.read(&self.header()?)?;
                    if global != Extended::default() {
                        return Err(no_archive("a global header has a name or a size in it"));
                    }
                }
                EntryType::XHeader => extended.read(&self.header()?)?,
                _ => {
                    let size = extended.size.unwrap_or(entry.size);
                    self.begin(size)?;
                    let name = extended.name.unwrap_or(entry.name);
                    let link = extended.link.unwrap_or(entry.link);
                    return Ok(Some(Entry { kind: entry.kind, name, link, size }));
                }
            }
        }
        if extended != Extended::default() {
            return Err(cut_off("before the file of a header"));
        }
        Ok(None)
    }

    fn header(&mut self) -> Result<Vec<u8>> {
        read_small(self, MAX_HEADER_BYTES, "a header")
    }

    /// The next entry of any kind, as its own block has it.
    fn next_header(&mut self) -> Result<Option<Entry>> {
        self.skip()?;
        let mut block = Vec::with_capacity(BLOCK);
        (&mut self.source).take(BLOCK as u64).read_to_end(&mut block).map_err(broken)?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if block.len() < BLOCK {
            return Err(match self.count {
                0 => no_archive("it is no tar"),
                _ => cut_off("in a header"),
            });
        }
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(Error::exhausted(format!("more than {MAX_ENTRIES} entries")));
        }
        let header = tar::Header::from_byte_slice(&block);
        // The sum is made as if its own field were spaces.
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let sum = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
        if header.cksum().map_err(no_archive)? != sum {
            return Err(no_archive("the sum of a header is wrong"));
        }
        let size = header.entry_size().map_err(no_archive)?;
        self.begin(size)?;
        Ok(Some(Entry {
            kind: header.entry_type(),
            name: header.path_bytes().into_owned(),
            link: header.link_name_bytes().map(Into::into).unwrap_or_default(),
            size,
        }))
    }

    fn skip(&mut self) -> Result<()> {
        self.rest += std::mem::take(&mut self.padding);
        let mut scratch = vec![0; CHUNK.min(usize::try_from(self.rest).unwrap_or(CHUNK))];
        while self.rest > 0 {
            match self.read(&mut scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => _ = outcome.map_err(broken)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        let blocks = size.checked_next_multiple_of(BLOCK as u64);
        let blocks = blocks.ok_or_else(|| no_archive(format!("a file of {size} bytes")))?;
        (self.rest, self.padding) = (size, blocks - size);
        Ok(())
    }
}

/// The bytes of the entry.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.source).take(self.rest).read(buffer)?;
        if count == 0 && self.rest > 0 && !buffer.is_empty() {
            return Err(io::Error::other(cut_off("in a file")));
        }
        self.rest -= count as u64;
        Ok(count)
    }
}

impl Extended {
    /// Takes in what a pax header says (pax(1), "pax Extended Header").
    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for extension in tar::PaxExtensions::new(bytes) {
            let extension = extension.map_err(no_archive)?;
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| no_archive("a size that is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Error::unimplemented(
                        "a file in the archive is written as a sparse one; make the archive without --sparse",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Up to the NUL.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    bytes
}

fn cut_off(place: &str) -> Error {
    Error::corrupt(format!("the archive ends early, {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn block(kind: EntryType, name: &str, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn headers(kind: EntryType, records: &[(&str, &str)]) -> Vec<u8> {
        let mut text = String::new();
        for (key, value) in records {
            // Its own length is in front of it.
            let rest = format!(" {key}={value}\n");
            let length = (1..).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
            text += &format!("{length}{rest}");
        }
        [block(kind, "x", text.len() as u64), padded(text.into())].concat()
    }

    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        headers(EntryType::XHeader, records)
    }

    fn global(key: &str) -> Vec<u8> {
        headers(EntryType::XGlobalHeader, &[(key, "1")])
    }

    /// That many bytes, which take no time: they are not there but for the first of a read.
    struct Sevens(u64);

    impl Read for Sevens {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = usize::try_from(self.0).unwrap().min(buffer.len());
            if let Some(first) = buffer[..count].first_mut() {
                *first = 7;
            }
            self.0 -= count as u64;
            Ok(count)
        }
    }

    fn names(tar: &[u8]) -> Result<Vec<(String, u64)>> {
        let mut entries = Entries::new(tar);
        let mut all = Vec::new();
        while let Some(entry) = entries.next()? {
            all.push((String::from_utf8(entry.name).unwrap(), entry.size));
        }
        Ok(all)
    }

    /// Such were refused. The header's own field has eleven octal digits, so large files have their size elsewhere.
    #[test]
    fn sizes_are_those_of_pax_headers() {
        const SIZE: u64 = (9 << 30) + 1;
        let head = [
            pax(&[("size", &SIZE.to_string()), ("mtime", "1.5")]),
            block(EntryType::Regular, "large.tar", 0),
        ];
        let tail = [
            vec![0; BLOCK - 1],
            block(EntryType::Regular, "small", 3),
            padded(b"abc".to_vec()),
            vec![0; 2 * BLOCK],
        ];
        let (head, tail) = (head.concat(), tail.concat());
        let source = head.as_slice().chain(Sevens(SIZE)).chain(tail.as_slice());
        let mut entries = Entries::new(source);
        let large = entries.next().unwrap().unwrap();
        assert_eq!((large.name.as_slice(), large.size), (&b"large.tar"[..], SIZE));
        let mut byte = [0];
        entries.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [7]);
        let small = entries.next().unwrap().unwrap();
        assert_eq!((small.name.as_slice(), small.size), (&b"small"[..], 3));
        let mut bytes = Vec::new();
        entries.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"abc");
        assert_eq!(entries.next().unwrap(), None);
    }

    #[test]
    fn extended_headers_count_for_one_file() {
        let file = |name| [block(EntryType::Regular, name, 1), padded(b"x".to_vec())].concat();
        let long = "n".repeat(200);
        let tar = [
            pax(&[("path", "by/pax"), ("linkpath", "link")]),
            file("a"),
            block(EntryType::GNULongName, "././@LongLink", 201),
            padded(format!("{long}\0").into()),
            file("b"),
            global("comment"),
            file("c"),
        ];
        let want = [("by/pax", 1), (&*long, 1), ("c", 1)].map(|(name, n)| (name.to_owned(), n));
        // The end may lack its two blocks.
        assert_eq!(names(&tar.concat()).unwrap(), want);
    }

    #[test]
    fn what_is_wrong_has_its_class() {
        let class = |tar: &[u8]| names(tar).unwrap_err().class();
        let good = [block(EntryType::Regular, "a", 5), padded(b"12345".to_vec())].concat();
        for cut in [BLOCK + 3, BLOCK + 100] {
            assert_eq!(class(&good[..cut]), Class::Corrupt, "{cut}");
        }
        let headers = [pax(&[("path", "a")]), good.clone()].concat();
        assert_eq!(class(&headers[..2 * BLOCK]), Class::Corrupt, "no file behind its header");
        assert_eq!(class(&headers[..2 * BLOCK + 9]), Class::Corrupt);
        assert_eq!(class(b"no tar"), Class::InvalidArgument);
        let mut other = good.clone();
        other[0] = b'b';
        assert_eq!(class(&other), Class::InvalidArgument);
        for (records, want) in [
            ([("size", "-1")], Class::InvalidArgument),
            ([("size", "18446744073709551615")], Class::InvalidArgument),
            ([("size", "6k")], Class::InvalidArgument),
            ([("GNU.sparse.major", "1")], Class::Unimplemented),
        ] {
            let tar = [pax(&records), good.clone()].concat();
            assert_eq!(class(&tar), want, "{records:?}");
        }
        // Some readers take them for those of every file, and some do not.
        for key in ["path", "linkpath", "size"] {
            assert_eq!(
                class(&[global(key), good.clone()].concat()),
                Class::InvalidArgument,
                "{key}"
            );
        }
        let large = [block(EntryType::XHeader, "x", 1 << 20), vec![b'a'; 1 << 20]].concat();
        assert_eq!(class(&large), Class::ResourceExhausted);
    }
}
