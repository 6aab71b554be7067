//! Extended headers (POSIX.1-2017, pax, "pax Extended Header"): records of `length key=value\n`.

use std::collections::BTreeMap;

use capstan_sdk::{Error, Result};
use rustix::fs::Timespec;

use crate::error::Shown;
use crate::header::owner;
use crate::sparse::{Segment, decimal, pairs};

/// Extended attributes, by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What extended headers say about the entry behind them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) modified_at: Option<Timespec>,
    pub(crate) accessed_at: Option<Timespec>,
    pub(crate) xattrs: Xattrs,
    pub(crate) sparse: Sparse,
}

/// The records of GNU tar's sparse files, in all of its versions.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sparse {
    pub(crate) is_used: bool,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    major: u64,
    minor: u64,
    /// Offsets and lengths, in versions 0.0 and 0.1, and how many pairs there must be.
    numbers: Vec<u64>,
    pairs: Option<u64>,
}

impl Sparse {
    /// The map, if it is not in the data.
    ///
    /// # Errors
    /// `Corrupt`: of no known version.
    pub(crate) fn map(&self) -> Result<Option<Vec<Segment>>> {
        match (self.major, self.minor) {
            (0, 0 | 1) => {
                let map = pairs(&self.numbers)?;
                if self.pairs != Some(map.len() as u64) {
                    return Err(Error::corrupt(
                        "the map of a sparse file is not as long as it says",
                    ));
                }
                Ok(Some(map))
            }
            (1, 0) if self.numbers.is_empty() => Ok(None),
            (major, minor) => Err(Error::corrupt(format!(
                "a sparse file in format {major}.{minor}, or in two formats at once"
            ))),
        }
    }
}

impl Records {
    /// Decodes the body of an extended header.
    ///
    /// # Errors
    /// `Corrupt`: any record that is malformed, known or not.
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let mut records = Self::default();
        let mut foreign = Xattrs::new();
        for record in split(body) {
            let (key, value) = record?;
            records
                .set(key, value, &mut foreign)
                .map_err(|error| error.at(format_args!("extended header {}", Shown(key))))?;
        }
        // libarchive writes its own records beside the common ones; these are the ones to trust.
        for (name, value) in foreign {
            records.xattrs.entry(name).or_insert(value);
        }
        Ok(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8], foreign: &mut Xattrs) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(xattr_name(name)?, value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            foreign.insert(xattr_name(&percent_decoded(name)?)?, base64_decoded(value)?);
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            self.sparse.is_used = true;
            return self.sparse.set(key, value);
        }
        // An empty value takes the record back.
        let given = Some(value).filter(|value| !value.is_empty());
        match key {
            b"path" => self.path = given.map(text).transpose()?,
            b"linkpath" => self.link_path = given.map(text).transpose()?,
            b"size" => self.size = given.map(decimal).transpose()?,
            b"uid" => self.uid = given.map(id).transpose()?,
            b"gid" => self.gid = given.map(id).transpose()?,
            b"mtime" => self.modified_at = given.map(time).transpose()?,
            b"atime" => self.accessed_at = given.map(time).transpose()?,
            _ => {}
        }
        Ok(())
    }

    /// Checks the body of a global header, which is not applied to entries: Go's reader does not
    /// apply it either, GNU tar's does.
    ///
    /// # Errors
    /// `Corrupt`: a malformed record, or one by which the two would see different files.
    pub(crate) fn check_global(body: &[u8]) -> Result<()> {
        let records = Self::parse(body)?;
        let Self { path: None, link_path: None, size: None, sparse, .. } = records else {
            return Err(Error::corrupt("a global header has the name or size of all files"));
        };
        if sparse.is_used {
            return Err(Error::corrupt("a global header has the map of a sparse file"));
        }
        Ok(())
    }
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"major" => self.major = decimal(value)?,
            b"minor" => self.minor = decimal(value)?,
            b"name" => self.name = Some(text(value)?),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"offset" | b"numbytes" => {
                // They stand in pairs, in this order.
                if self.numbers.len() % 2 != usize::from(key == b"numbytes") {
                    return Err(Error::corrupt("it is out of order"));
                }
                self.numbers.push(decimal(value)?);
            }
            b"map" => {
                let numbers = value.split(|&byte| byte == b',');
                let numbers = numbers.filter(|_| !value.is_empty());
                self.numbers = numbers.map(decimal).collect::<Result<_>>()?;
            }
            b"numblocks" => self.pairs = Some(decimal(value)?),
            _ => return Err(Error::corrupt("it is not known")),
        }
        Ok(())
    }
}

/// Splits a body into keys and values.
fn split(mut body: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let record = first(body);
        body = record.map_or(&[], |(_, _, rest)| rest);
        let bad = || Error::corrupt("an extended header has a malformed record");
        Some(record.map(|(key, value, _)| (key, value)).ok_or_else(bad))
    })
}

/// The first record, and what is behind it.
fn first(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(&body[..space]).ok()?).ok()?;
    let (record, rest) = body.split_at_checked(len)?;
    let [pair @ .., b'\n'] = record.get(space + 1..)? else { return None };
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn text(value: &[u8]) -> Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(Error::corrupt("it has a NUL in it"));
    }
    Ok(value.to_vec())
}

fn id(value: &[u8]) -> Result<u32> {
    owner(i64::try_from(decimal(value)?).unwrap_or(i64::MAX))
}

/// Seconds since 1970, maybe negative, maybe with a fraction; what is below a nanosecond is dropped.
fn time(value: &[u8]) -> Result<Timespec> {
    let bad = || Error::corrupt(format!("{} is no time", Shown(value)));
    let (is_negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next().unwrap_or_default())?).map_err(|_| bad())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + i64::from(digit - b'0'));
    Ok(match (is_negative, nanos) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanos },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanos },
    })
}

fn xattr_name(name: &[u8]) -> Result<Vec<u8>> {
    if name.is_empty() || name.contains(&0) {
        return Err(Error::corrupt("an extended attribute without a name"));
    }
    Ok(name.to_vec())
}

/// `%XX` as its byte.
fn percent_decoded(text: &[u8]) -> Result<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(*rest.next()?).to_digit(16);
            let byte =
                digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            byte.ok_or_else(|| Error::corrupt("a name that is not URL encoded"))?
        } else {
            byte
        });
    }
    Ok(decoded)
}

/// RFC 4648, with padding or without: libarchive writes none.
fn base64_decoded(text: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::corrupt("a value that is not base64");
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for &byte in group {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return Err(bad()),
            };
            bits = bits << 6 | u32::from(six);
        }
        // Four characters are three bytes, three are two, two are one.
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            1 => return Err(bad()),
            len => decoded.extend_from_slice(&bytes[1..len]),
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    /// A record with its length.
    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let len =
            (1..).map(|digits| rest + digits).find(|len| len.to_string().len() + rest == *len);
        let mut record = format!("{} {key}=", len.unwrap()).into_bytes();
        record.extend_from_slice(value);
        record.push(b'\n');
        record
    }

    #[test]
    fn malformed_records_are_refused() {
        let bad = |body: &[u8]| match Records::parse(body) {
            Ok(records) => panic!("{} gave {records:?}", Shown(body)),
            Err(error) => assert_eq!(error.class(), Class::Corrupt),
        };
        bad(b"6 path=a\n");
        bad(b"11 path=a\n");
        bad(b"8 path=a\n");
        bad(b"0 path=a\n");
        bad(b"2 \n");
        bad(b"3 \n\n");
        bad(b"5 a=b");
        bad(b"5 a=bX");
        bad(b"6 path\n");
        bad(b"5 =b\n");
        bad(b"7 a\0b=\n");
        bad(b" 6 a=b\n");
        bad(b"+6 a=b\n");
        bad(b"-6 a=b\n");
        bad(b"99999999999999999999999 a=b\n");
        bad(b"6 a=b\n\0\0");
        bad(b"\n");
        bad(&record("path", b"a\0b"));
        bad(&record("linkpath", b"a\0b"));
        bad(&record("size", b"-1"));
        bad(&record("size", b"1.5"));
        bad(&record("size", b"18446744073709551616"));
        bad(&record("uid", b"4294967295"));
        bad(&record("gid", b"-1"));
        bad(&record("mtime", b"1.x"));
        bad(&record("mtime", b"."));
        bad(&record("mtime", b"1.2.3"));
        bad(&record("SCHILY.xattr.", b"x"));
        bad(&record("LIBARCHIVE.xattr.a%2", b"eA"));
        bad(&record("LIBARCHIVE.xattr.a%00", b"eA"));
        bad(&record("LIBARCHIVE.xattr.a", b"eA!"));
        bad(&record("LIBARCHIVE.xattr.a", b"eAeAe"));
        bad(&record("GNU.sparse.map", b"1,2,"));
        bad(&record("GNU.sparse.what", b"1"));
        bad(&record("GNU.sparse.numbytes", b"1"));
    }

    #[test]
    fn records_are_decoded() {
        let records = [
            record("path", b"first"),
            record("path", "caf\u{e9}/x".as_bytes()),
            record("size", b"8589934592"),
            record("uid", b"4000000000"),
            record("comment", b"\0 anything \xff"),
            record("linkpath", b"a\nb=c"),
            record("SCHILY.xattr.user.x", b"\0\n\xff"),
            record("SCHILY.xattr.user.empty", b""),
            record("LIBARCHIVE.xattr.user.x", b"aWdub3JlZA"),
            record("LIBARCHIVE.xattr.user.%3d", b"AP8B"),
            record("atime", b"5"),
        ];
        let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        let want = Records {
            path: Some("caf\u{e9}/x".into()),
            link_path: Some(b"a\nb=c".to_vec()),
            size: Some(8_589_934_592),
            uid: Some(4_000_000_000),
            accessed_at: Some(Timespec { tv_sec: 5, tv_nsec: 0 }),
            xattrs: Xattrs::from([
                xattr("user.x", b"\0\n\xff"),
                xattr("user.empty", b""),
                xattr("user.=", b"\0\xff\x01"),
            ]),
            ..Records::default()
        };
        assert_eq!(Records::parse(&records.concat()).unwrap(), want);
        let taken_back = [record("path", b"a"), record("path", b"")].concat();
        assert_eq!(Records::parse(&taken_back).unwrap(), Records::default());
    }

    #[test]
    fn times() {
        let check = |text: &str, tv_sec: i64, tv_nsec: i64| {
            assert_eq!(time(text.as_bytes()).unwrap(), Timespec { tv_sec, tv_nsec }, "{text}");
        };
        check("0", 0, 0);
        check("1700000000.123456789", 1_700_000_000, 123_456_789);
        check("1700000000.5", 1_700_000_000, 500_000_000);
        check("1.0000000019", 1, 1);
        check("1.", 1, 0);
        check("-1", -1, 0);
        check("-1.25", -2, 750_000_000);
    }

    #[test]
    fn global_headers_may_not_rename() {
        let check = |key: &str, value: &[u8], is_good: bool| {
            assert_eq!(Records::check_global(&record(key, value)).is_ok(), is_good, "{key}");
        };
        check("comment", b"a commit", true);
        check("mtime", b"1", true);
        check("path", b"a", false);
        check("linkpath", b"a", false);
        check("size", b"1", false);
        check("GNU.sparse.major", b"1", false);
        assert!(Records::check_global(b"7 a=b\n").is_err());
    }

    #[test]
    fn base64() {
        let check = |text: &str, want: &[u8]| {
            assert_eq!(base64_decoded(text.as_bytes()).unwrap(), want, "{text}");
        };
        check("", b"");
        check("Zg", b"f");
        check("Zg==", b"f");
        check("Zm8=", b"fo");
        check("Zm9v", b"foo");
        check("Zm9vYg", b"foob");
        check("+/+/", &[0xfb, 0xff, 0xbf]);
    }
}
