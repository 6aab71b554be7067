//! A checksum on each stored value, over its key too: a reader never takes damaged bytes for a record, and what can
//! still be read of a damaged file can be told from what cannot.

use capstan_sdk::{Error, Result};
use crc32fast::Hasher;

fn sum(key: &[u8], value: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

/// What is stored for a value.
pub(crate) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + 4);
    stored.extend_from_slice(value);
    stored.extend_from_slice(&sum(key, value));
    stored
}

/// The value in what is stored.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn open<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8]> {
    match stored.split_last_chunk::<4>() {
        Some((value, found)) if *found == sum(key, value) => Ok(value),
        _ => Err(Error::corrupt(format!(
            "metadata: the record {:?} is damaged",
            String::from_utf8_lossy(key).replace('\0', "/")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() {
        let stored = seal(b"key", b"value");
        assert_eq!(open(b"key", &stored).unwrap(), b"value");
        assert!(open(b"kez", &stored).is_err());
        for index in 0..stored.len() {
            let mut bad = stored.clone();
            bad[index] ^= 1;
            assert!(open(b"key", &bad).is_err(), "{index}");
        }
        assert!(open(b"key", b"abc").is_err());
    }
}
