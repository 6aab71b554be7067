//! Sizes as people write them: `1073741824`, `512m`, `1g`, `2GiB`.

use crate::{Error, Result};

/// Reads a number of bytes, or of `k`, `m`, `g` or `t`, which are powers of 1024, whichever way they are written: `5k`, `5KB`,
/// `5KiB`. What bounds make sense is the caller's matter.
///
/// # Errors
/// `InvalidArgument`: it is none, or more than a `u64` holds.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(format!(
            "size {text:?}: write bytes, or a number with k, m, g or t behind it"
        ))
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let shift = match text[digits..].to_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let check = |text: &str, want: Option<u64>| {
            assert_eq!(parse_bytes(text).ok(), want, "{text:?}");
        };
        check("0", Some(0));
        check("1024", Some(1024));
        check("10b", Some(10));
        check("64m", Some(64 << 20));
        check("1G", Some(1 << 30));
        check("2GiB", Some(2 << 30));
        check("5kb", Some(5 << 10));
        check("3t", Some(3 << 40));
        for bad in ["", "m", "1x", "-1", "1.5g", " 1", "1 m", "1gg"] {
            check(bad, None);
        }
        check("99999999999999999999", None);
        check("999999999999t", None);
        assert_eq!(parse_bytes("x").unwrap_err().class(), crate::Class::InvalidArgument);
    }
}
