//! Public keys, and what they sign.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use capstan_sdk::{Error, Result};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use webpki::ring::{ECDSA_P256_SHA256, ECDSA_P384_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256};

/// How a text begins that is a key, and not the path of one.
const PEM_BEGIN: &str = "-----BEGIN ";

/// The largest file of keys, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// All that there is; each fits keys of one kind.
static ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 4] =
    [ECDSA_P256_SHA256, ECDSA_P384_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256];

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(SubjectPublicKeyInfoDer<'static>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The keys that an entry of the configuration names: a text, or an absolute path. It may block.
    ///
    /// # Errors
    /// `InvalidArgument`: they are no keys that can be used. Those of reading the file.
    pub(crate) fn load(entry: &str) -> Result<Vec<Self>> {
        let entry = entry.trim();
        if entry.starts_with(PEM_BEGIN) {
            return Self::parse(entry.as_bytes()).map_err(|error| error.at("key"));
        }
        let path = Path::new(entry);
        if !path.is_absolute() {
            let shown: String = entry.chars().take(80).collect();
            return Err(Error::invalid(format!(
                "key {shown:?}: give the absolute path of a PEM file, or its text"
            )));
        }
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text))
            .map_err(|error| Error::io(format!("read key {entry}"), error))?;
        Self::parse(&text).map_err(|error| error.at(format_args!("key {entry}")))
    }

    fn parse(pem: &[u8]) -> Result<Vec<Self>> {
        let mut keys = Vec::new();
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let key = key.map_err(|error| Error::invalid(format!("it is no PEM: {error}")))?;
            let key = Self(key.into_owned());
            key.check()?;
            keys.push(key);
        }
        match keys.is_empty() {
            true => Err(Error::invalid(
                "there is no public key in it (-----BEGIN PUBLIC KEY-----); of a private one, cosign \
                 public-key and openssl pkey -pubout make it",
            )),
            false => Ok(keys),
        }
    }

    fn entity(&self) -> Result<RawPublicKeyEntity<'_>> {
        RawPublicKeyEntity::try_from(&self.0)
            .map_err(|error| Error::invalid(format!("it is no public key: {error}")))
    }

    /// Whether it is of a kind that is known: with the algorithm that fits, an empty signature is a wrong one, and no
    /// more than that.
    fn check(&self) -> Result<()> {
        let entity = self.entity()?;
        let is_known = ALGORITHMS.iter().any(|algorithm| {
            entity.verify_signature(*algorithm, b"", b"")
                == Err(webpki::Error::InvalidSignatureForPublicKey)
        });
        match is_known {
            true => Ok(()),
            false => Err(Error::invalid(
                "keys are ECDSA on P-256 or P-384, Ed25519, or RSA; this one is not",
            )),
        }
    }

    /// Whether it signed the message.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.entity().is_ok_and(|entity| {
            ALGORITHMS.iter().any(|a| entity.verify_signature(*a, message, signature).is_ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    /// Made by openssl: key and signature of [`MESSAGE`], of each kind.
    const SIGNED: [(&str, &str, &[u8]); 4] = [
        ("p256", include_str!("../tests/data/p256.pub"), include_bytes!("../tests/data/p256.sig")),
        ("p384", include_str!("../tests/data/p384.pub"), include_bytes!("../tests/data/p384.sig")),
        (
            "ed25519",
            include_str!("../tests/data/ed25519.pub"),
            include_bytes!("../tests/data/ed25519.sig"),
        ),
        ("rsa", include_str!("../tests/data/rsa.pub"), include_bytes!("../tests/data/rsa.sig")),
    ];

    const MESSAGE: &[u8] = include_bytes!("../tests/data/message");

    #[test]
    fn each_kind_of_key_knows_its_own_signature_only() {
        let keys: Vec<Key> =
            SIGNED.iter().flat_map(|(_, pem, _)| Key::load(pem).unwrap()).collect();
        assert_eq!(keys.len(), SIGNED.len());
        for (number, (name, _, signature)) in SIGNED.iter().enumerate() {
            for (other, key) in keys.iter().enumerate() {
                assert_eq!(key.signed(MESSAGE, signature), number == other, "{name} {other}");
                assert!(!key.signed(b"other", signature), "{name}");
                assert!(!key.signed(MESSAGE, &signature[1..]), "{name}");
                assert!(!key.signed(MESSAGE, b""), "{name}");
            }
        }
    }

    #[test]
    fn a_file_may_hold_several_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let all: String = SIGNED.iter().map(|(_, pem, _)| *pem).collect();
        std::fs::write(&path, format!("Ours:\n{all}")).unwrap();
        assert_eq!(Key::load(path.to_str().unwrap()).unwrap().len(), SIGNED.len());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let other_curve = include_str!("../tests/data/p521.pub");
        let private = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        let empty = "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n";
        for bad in [other_curve, private, empty, "-----BEGIN PUBLIC KEY-----\n", "keys/a.pub", ""] {
            assert_eq!(Key::load(bad).unwrap_err().class(), Class::InvalidArgument, "{bad}");
        }
        assert_eq!(Key::load("/none/at/all").unwrap_err().class(), Class::NotFound);
    }
}
