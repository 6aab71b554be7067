//! How trouble with a tree becomes an error: by class, with the name that it is about.

use std::fmt;

use capstan_sdk::{Class, Error};
use rustix::io::Errno;

/// How much of a name an error shows: names may be as long as an archive makes them.
const SHOWN: usize = 256;

/// A name as errors show it: quoted, escaped, and not too long.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..SHOWN) {
            Some(start) if start.len() < self.0.len() => {
                write!(f, "{:?}...", String::from_utf8_lossy(start))
            }
            _ => write!(f, "{:?}", String::from_utf8_lossy(self.0)),
        }
    }
}

/// A system call on the tree failed: `failed("make", name)(errno)`.
///
/// What only the layer's own names and values can cause is `Corrupt`. A name that is missing or
/// taken although it was looked at is a race or a defect, and must not pass for a missing layer.
pub(crate) fn failed<'a>(
    what: &'a str,
    name: impl AsRef<[u8]> + 'a,
) -> impl FnOnce(Errno) -> Error + 'a {
    move |errno| {
        let error = Error::io(format!("{what} {}", Shown(name.as_ref())), errno);
        let class = match errno {
            Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::ILSEQ
            | Errno::RANGE => Class::Corrupt,
            Errno::MLINK => Class::ResourceExhausted,
            Errno::NOENT | Errno::EXIST | Errno::NOTEMPTY => Class::Internal,
            _ => return error,
        };
        error.as_class(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(Shown(b"a\nb").to_string(), r#""a\nb""#);
        assert_eq!(Shown(b"\xff").to_string(), "\"\u{fffd}\"");
        assert_eq!(Shown(&[b'x'; SHOWN + 1]).to_string(), format!("\"{}\"...", "x".repeat(SHOWN)));
        assert_eq!(Shown(&[b'x'; SHOWN]).to_string(), format!("\"{}\"", "x".repeat(SHOWN)));
    }

    #[test]
    fn error_numbers_have_classes() {
        let check = |errno, class| assert_eq!(failed("make", b"x")(errno).class(), class);
        check(Errno::NOSPC, Class::ResourceExhausted);
        check(Errno::DQUOT, Class::ResourceExhausted);
        check(Errno::MFILE, Class::ResourceExhausted);
        check(Errno::MLINK, Class::ResourceExhausted);
        check(Errno::NAMETOOLONG, Class::Corrupt);
        check(Errno::NOENT, Class::Internal);
        check(Errno::PERM, Class::PermissionDenied);
        check(Errno::ROFS, Class::FailedPrecondition);
    }
}
