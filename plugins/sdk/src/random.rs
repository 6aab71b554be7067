//! Names that nothing else has, in this run of the daemon or another.

use std::fs::File;
use std::io::Read as _;

use capstan_schema::{Error, Result};

/// So many random bytes, as twice as many hexadecimal digits.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::io("read /dev/urandom", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let (one, other) = (hex::<8>().unwrap(), hex::<8>().unwrap());
        assert_eq!(one.len(), 16);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
