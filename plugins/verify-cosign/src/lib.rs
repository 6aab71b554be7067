//! verifier.cosign: lets only images that certain keys signed have certain names.
//!
//! Rules are read from the top, and the first that is about a name decides: so many of its keys must have signed the
//! image. Signatures are those of `cosign sign --key`, as it stores them beside the image: a payload of the kind "simple
//! signing" below the tag `sha256-HEX.sig`, or a sigstore bundle that refers to the image. Everything is verified with
//! the keys of the configuration alone; no other server is asked, and certificates and transparency logs play no part.
//! Without rules everything is accepted, and nothing is fetched.
//!
//! ```toml
//! [[plugins."verifier.cosign".rules]]
//! images = "registry.example/prod/**"
//! keys = ["/etc/capstan/release.pub"]   # or the text of a key: -----BEGIN PUBLIC KEY-----...
//! required = 1                          # how many of them must have signed
//! ```
//!
//! A payload says which repository it is for, and that must be the image's, or what `identity` says. A bundle says
//! nothing of the kind: it binds the digest alone, so what was signed for one name proves as much for another of the
//! same rule. For a second name of an image that is here no registry is asked: the signatures that it came with count.
//!
//! Keys are ECDSA on P-256 or P-384, Ed25519, and RSA from 2048 bits on (PKCS #1 v1.5), always with SHA-256 where a hash
//! is chosen. The cryptography is ring's, and rustls-webpki reads the keys: the TLS of the registry client has both in the
//! program already. (The `sigstore` crates do far more than this, and bring hundreds of others.)

mod bundle;
mod config;
mod key;
mod plugin;
mod simple;

pub use config::{Config, Rule};
pub use plugin::CosignVerifier;
