//! Files with digests.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use capstan_sdk::{Digest, Error, Result};

/// The largest file, in bytes: more than two hundred thousand digests.
const MAX_BYTES: u64 = 16 << 20;

/// Whether a digest is in a file. Every line is looked at: one that is no digest is an error.
pub(crate) fn has(path: &Path, digest: &Digest) -> Result<bool> {
    let at = |error| Error::io(format!("read {}", path.display()), error);
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(at)?;
    if text.len() as u64 > MAX_BYTES {
        let path = path.display();
        return Err(Error::exhausted(format!("{path}: it has more than {MAX_BYTES} bytes")));
    }
    let mut has = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let listed = Digest::parse(line)
            .map_err(|error| error.at(format_args!("{}, line {number}", path.display())))?;
        has |= listed == *digest;
    }
    Ok(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn a_file_has_a_digest_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let digest = |digit: char| {
            Digest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap()
        };
        let (a, b, c) = (digest('a'), digest('b'), digest('c'));
        std::fs::write(&path, format!("# all\n\n  {a}  # one\n{b}\n#{c}\n")).unwrap();
        assert!(has(&path, &a).unwrap() && has(&path, &b).unwrap());
        assert!(!has(&path, &c).unwrap());
        std::fs::write(&path, format!("{a}\nsha256:short\n")).unwrap();
        let error = has(&path, &a).unwrap_err();
        assert!(error.message().contains("line 2"), "{error}");
        assert_eq!(has(&dir.path().join("none"), &a).unwrap_err().class(), Class::NotFound);
    }
}
