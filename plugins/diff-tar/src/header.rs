//! One header block of a tar archive (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar
//! manual, "Basic Tar Format").

use std::ops::Range;

use capstan_sdk::{Error, Result};

use crate::error::Shown;

/// Everything in an archive is in blocks of this many bytes.
pub(crate) const BLOCK: usize = 512;

const CHECKSUM: Range<usize> = 148..156;

/// What the fields behind the link name mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Nothing.
    V7,
    Ustar,
    /// Ustar with a shorter prefix and times behind it.
    Star,
    Gnu,
}

impl Format {
    fn of(block: &[u8; BLOCK]) -> Self {
        match (&block[257..265], &block[508..]) {
            (b"ustar  \0", _) => Self::Gnu,
            ([b'u', b's', b't', b'a', b'r', 0, ..], b"tar\0") => Self::Star,
            ([b'u', b's', b't', b'a', b'r', 0, ..], _) => Self::Ustar,
            _ => Self::V7,
        }
    }
}

/// A header block that is not all zeros.
///
/// All numbers are decoded, even those that an extension may override: there are readers for which
/// the archive ends at the first one that does not decode.
pub(crate) struct Header {
    block: [u8; BLOCK],
    format: Format,
    mode: i64,
    uid: i64,
    gid: i64,
    size: i64,
    modified_at: i64,
    device: (i64, i64),
}

impl Header {
    /// # Errors
    /// `Corrupt`: the checksum is wrong, a number does not decode, or readers do not agree on the
    /// format.
    pub(crate) fn new(block: [u8; BLOCK]) -> Result<Self> {
        let field = |range: Range<usize>, what| number(&block[range], what);
        // Some old writers summed signed bytes; every reader takes both.
        let sum = field(CHECKSUM, "checksum")?;
        if sum != sum_of(&block, i64::from) && sum != sum_of(&block, |b| i64::from(b.cast_signed()))
        {
            return Err(Error::corrupt("the checksum of the header is wrong"));
        }
        let format = Format::of(&block);
        // Python's reader takes a prefix from every format.
        let has_prefix = block[345] != 0 && block[156] != b'S';
        if has_prefix && matches!(format, Format::V7 | Format::Gnu) {
            return Err(Error::corrupt(
                "the header has a prefix, but is of a format that has none",
            ));
        }
        // Python's reader decodes them in every format, and takes an archive to end where it cannot.
        let device = (field(329..337, "major number")?, field(337..345, "minor number")?);
        let device = if format == Format::V7 { (-1, -1) } else { device };
        Ok(Self {
            block,
            format,
            mode: field(100..108, "mode")?,
            uid: field(108..116, "uid")?,
            gid: field(116..124, "gid")?,
            size: field(124..136, "size")?,
            modified_at: field(136..148, "mtime")?,
            device,
        })
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    pub(crate) fn is_gnu(&self) -> bool {
        self.format == Format::Gnu
    }

    pub(crate) fn is_ustar(&self) -> bool {
        matches!(self.format, Format::Ustar | Format::Star)
    }

    /// The bytes, for what only one format has.
    pub(crate) fn block(&self) -> &[u8; BLOCK] {
        &self.block
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match self.format {
            Format::Ustar => text(&self.block[345..500]),
            Format::Star => text(&self.block[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(crate) fn link_path(&self) -> &[u8] {
        text(&self.block[157..257])
    }

    /// Permissions; other bits, which some writers leave in, are not.
    pub(crate) fn mode(&self) -> u32 {
        u32::try_from(self.mode & 0o7777).expect("twelve bits are left")
    }

    pub(crate) fn uid(&self) -> Result<u32> {
        owner(self.uid)
    }

    pub(crate) fn gid(&self) -> Result<u32> {
        owner(self.gid)
    }

    pub(crate) fn size(&self) -> Result<u64> {
        let size = self.size;
        u64::try_from(size).map_err(|_| Error::corrupt(format!("the size {size} is negative")))
    }

    /// Seconds.
    pub(crate) fn modified_at(&self) -> i64 {
        self.modified_at
    }

    /// Major and minor number of a device, within what the kernel has.
    pub(crate) fn device(&self) -> Result<(u32, u32)> {
        let (major, minor) = self.device;
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(major @ ..=0xfff), Ok(minor @ ..=0xf_ffff)) => Ok((major, minor)),
            _ => Err(Error::corrupt(format!("there can be no device {major}:{minor}"))),
        }
    }
}

/// The sum of all bytes, with spaces in the checksum's place.
fn sum_of(block: &[u8; BLOCK], byte: impl Fn(u8) -> i64) -> i64 {
    let sum = |bytes: &[u8]| -> i64 { bytes.iter().map(|&b| byte(b)).sum() };
    sum(block) - sum(&block[CHECKSUM]) + 8 * i64::from(b' ')
}

/// A user or group id: -1 is none, it means "leave as it is" to the kernel.
pub(crate) fn owner(number: i64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::corrupt(format!("there can be no user or group {number}"))),
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number: octal digits between spaces and NULs, or, behind a byte 0x80 or 0xff, big-endian
/// binary, positive or negative.
///
/// # Errors
/// `Corrupt`: anything else, or a number that needs more than 64 bits.
pub(crate) fn number(field: &[u8], what: &str) -> Result<i64> {
    let bad = || Error::corrupt(format!("the {what} {} is no number", Shown(field)));
    match field {
        [sign @ (0x80 | 0xff), rest @ ..] => {
            let start = if *sign == 0xff { -1 } else { 0 };
            rest.iter().try_fold(start, |number: i64, &byte| {
                number.checked_mul(256).map(|n| n | i64::from(byte)).ok_or_else(bad)
            })
        }
        _ => {
            let start = field.iter().position(|b| !matches!(b, b' ' | 0)).unwrap_or(field.len());
            let digits = &field[start..];
            let end = digits.iter().position(|b| matches!(b, b' ' | 0)).unwrap_or(digits.len());
            if digits[end..].iter().any(|b| !matches!(b, b' ' | 0)) {
                return Err(bad());
            }
            digits[..end].iter().try_fold(0_i64, |number, &byte| match byte {
                b'0'..=b'7' => Ok(number << 3 | i64::from(byte - b'0')),
                _ => Err(bad()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn numbers() {
        let check = |field: &[u8], want: Option<i64>| match number(field, "size") {
            Ok(number) => assert_eq!(Some(number), want, "{field:x?}"),
            Err(error) => {
                assert_eq!(want, None, "{field:x?}: {error}");
                assert_eq!(error.class(), Class::Corrupt);
            }
        };
        check(b"0000644\0", Some(0o644));
        check(b"  644 \0\0", Some(0o644));
        check(b"\0\x00644\0\0\0", Some(0o644));
        check(b"777777777777", Some(0o777_777_777_777));
        check(b"        ", Some(0));
        check(b"\0\0\0\0", Some(0));
        check(b"", Some(0));
        check(b"0000648\0", None);
        check(b"12\x0034\0", None);
        check(b"-0000012", None);
        check(b"0x12\0\0\0\0", None);
        check(b"\x80\0\0\0\0\0\x01\0", Some(256));
        check(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None);
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        check(&[0xff; 12], Some(-1));
        check(b"\xff\xff\xff\xff\xff\xff\xff\0", Some(-256));
        check(b"\xff\0\0\0\0\0\0\0\0\0\0\0", None);
        check(b"\x81\0\0\0\0\0\0\x01", None);
        check(b"\xbd000644\0", None);
        check(b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None);
    }

    #[test]
    fn minus_one_is_no_owner() {
        assert_eq!(owner(0).unwrap(), 0);
        assert_eq!(owner(4_294_967_294).unwrap(), 4_294_967_294);
        assert!(owner(4_294_967_295).is_err());
        assert!(owner(4_294_967_296).is_err());
        assert!(owner(-1).is_err());
    }

    /// A valid header of a format, with a change to it before it is summed.
    fn header(magic: &[u8], change: impl FnOnce(&mut [u8; BLOCK])) -> Result<Header> {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(b"name");
        block[257..257 + magic.len()].copy_from_slice(magic);
        change(&mut block);
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Header::new(block)
    }

    #[test]
    fn formats_differ_in_the_prefix() {
        let check = |magic: &[u8], prefix: &[u8], trailer: &[u8], want: Option<&str>| {
            let header = header(magic, |block| {
                block[345..345 + prefix.len()].copy_from_slice(prefix);
                block[508..508 + trailer.len()].copy_from_slice(trailer);
            });
            let got = header.ok().map(|header| header.path());
            assert_eq!(got.as_deref(), want.map(str::as_bytes));
        };
        check(b"ustar\x0000", b"prefix", b"", Some("prefix/name"));
        check(b"ustar\x0000", b"prefix", b"tar\0", Some("prefix/name"));
        check(b"ustar\x0000", b"", b"", Some("name"));
        check(b"ustar  \0", b"", b"", Some("name"));
        check(b"", b"", b"", Some("name"));
        check(b"ustar  \0", b"prefix", b"", None);
        check(b"", b"prefix", b"", None);
        let long = [[b'p'; 131].as_slice(), b"1600000000"].concat();
        let name = format!("{}/name", "p".repeat(131));
        check(b"ustar\x0000", &long, b"tar\0", Some(&name));
    }

    #[test]
    fn all_numbers_must_decode() {
        for at in [100, 108, 116, 124, 136, 329, 337] {
            let header = header(b"ustar\x0000", |block| block[at] = b'x');
            assert_eq!(header.err().map(|e| e.class()), Some(Class::Corrupt), "{at}");
        }
    }

    #[test]
    fn checksums_are_verified_signed_or_not() {
        let mut block = *header(b"ustar\x0000", |block| block[0] = 0xe4).unwrap().block();
        assert!(Header::new(block).is_ok());
        let unsigned = number(&block[CHECKSUM], "checksum").unwrap();
        block[CHECKSUM].copy_from_slice(format!("{:06o}\0 ", unsigned - 256).as_bytes());
        assert!(Header::new(block).is_ok());
        block[1] ^= 1;
        assert_eq!(Header::new(block).err().map(|e| e.class()), Some(Class::Corrupt));
    }
}
