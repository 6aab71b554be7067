//! How a key is written: `bucket NUL namespace NUL name`, so that a bucket, and a namespace in it,
//! are one stretch each.

use capstan_sdk::contract::metadata::Key;
use capstan_sdk::{Error, Namespace, Result};

/// The bucket of the namespaces themselves. The writer makes records in it, because a namespace
/// exists as soon as something is in it.
pub(crate) const NAMESPACES: &str = "namespaces";

/// The bytes of a key.
///
/// # Errors
/// `InvalidArgument`: an empty name, or a NUL.
pub(crate) fn encode(key: &Key) -> Result<Vec<u8>> {
    if key.name.is_empty() || key.bucket.is_empty() {
        return Err(Error::invalid(format!("a name in {:?} must not be empty", key.bucket)));
    }
    if key.name.contains('\0') || key.bucket.contains('\0') {
        return Err(Error::invalid(format!("the name {:?} has a NUL in it", key.name)));
    }
    let mut bytes = prefix(&key.bucket, key.namespace.as_ref());
    bytes.extend_from_slice(key.name.as_bytes());
    Ok(bytes)
}

/// What all keys of a namespace in a bucket begin with.
pub(crate) fn prefix(bucket: &str, namespace: Option<&Namespace>) -> Vec<u8> {
    let namespace = namespace.map(Namespace::as_str).unwrap_or_default();
    let mut bytes = Vec::with_capacity(bucket.len() + namespace.len() + 64);
    bytes.extend_from_slice(bucket.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(namespace.as_bytes());
    bytes.push(0);
    bytes
}

/// The first bytes behind everything that begins with `prefix`, which ends with NUL.
pub(crate) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    end
}

/// The parts of stored bytes.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Key> {
    let bad = || Error::corrupt(format!("a stored key is not readable: {bytes:02x?}"));
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    let mut parts = text.splitn(3, '\0');
    let (Some(bucket), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let namespace = match namespace {
        "" => None,
        namespace => Some(Namespace::parse(namespace).map_err(|_| bad())?),
    };
    Ok(Key { bucket: bucket.into(), namespace, name: name.into() })
}
