//! Digests: the names of blobs (OCI image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The hash functions that a digest may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the field's default.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// From its name.
    ///
    /// # Errors
    /// `InvalidArgument`: it is none of them.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            Error::invalid(format!("algorithm {name:?}: want sha256, sha384 or sha512"))
        })
    }

    /// How many hexadecimal characters stand behind the colon.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// A checked digest, such as `sha256:e3b0c442...`.
///
/// Only the registered algorithms, only lower-case hexadecimal, only the exact length: two
/// digests name the same bytes if and only if they are equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: Box<str>,
    algorithm: Algorithm,
}

impl Digest {
    /// The only way in.
    ///
    /// # Errors
    /// `InvalidArgument` for anything that is not a digest of a known algorithm.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            let shown: String = text.chars().take(80).collect();
            Error::invalid(format!(
                "digest {shown:?}: want sha256:<64 lower-case hex digits> (or sha384, sha512)"
            ))
        };
        let (name, hex) = text.split_once(':').ok_or_else(bad)?;
        let algorithm = Algorithm::ALL.into_iter().find(|a| a.name() == name).ok_or_else(bad)?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(is_hex) {
            return Err(bad());
        }
        Ok(Self { text: text.into(), algorithm })
    }

    /// A digest from the bytes that a hash function gave.
    ///
    /// # Panics
    /// If `hash` is not as long as `algorithm` makes it: that is a mix-up in the program.
    pub fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(8 + 2 * hash.len());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in hash {
            write!(text, "{byte:02x}").expect("a String takes everything");
        }
        Self::parse(&text).expect("the hash has the length of its algorithm")
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal part; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    fn check(text: &str, is_good: bool) {
        match Digest::parse(text) {
            Ok(digest) => {
                assert!(is_good, "{text} was accepted");
                assert_eq!(digest.as_str(), text);
                assert_eq!(format!("{}:{}", digest.algorithm().name(), digest.hex()), text);
            }
            Err(error) => {
                assert!(!is_good, "{text}: {error}");
                assert_eq!(error.class(), Class::InvalidArgument);
            }
        }
    }

    #[test]
    fn only_exact_digests_parse() {
        let hex = "0123456789abcdef".repeat(4);
        check(&format!("sha256:{hex}"), true);
        check(&format!("sha384:{hex}{}", &hex[..32]), true);
        check(&format!("sha512:{hex}{hex}"), true);
        check(&format!("sha256:{}", &hex[1..]), false);
        check(&format!("sha256:{hex}0"), false);
        check(&format!("sha256:{}", hex.to_uppercase()), false);
        check(&format!("sha512:{hex}"), false);
        check(&format!("md5:{}", &hex[..32]), false);
        check(&format!("SHA256:{hex}"), false);
        check(&hex, false);
        check("", false);
        check("sha256:", false);
        check(&format!("sha256:../{}", &hex[3..]), false);
    }

    #[test]
    fn a_hash_becomes_its_digest() {
        let digest = Digest::from_hash(Algorithm::Sha256, &[0xab; 32]);
        assert_eq!(digest.as_str(), format!("sha256:{}", "ab".repeat(32)));
    }
}
