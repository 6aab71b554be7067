//! Media types: which documents and layers there are, in the words of OCI and of Docker.
//!
//! Strict on purpose: a type that is not listed is an error, never a guess, because two programs
//! that guess differently see two images behind one digest.

use capstan_schema::{Error, Result};

/// What a descriptor points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One image for one platform.
    Manifest,
    /// Images for several platforms.
    Index,
    /// The configuration of an image.
    Config,
    /// A layer.
    Layer(Layer),
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Around the tar stream.
    pub compression: Compression,
    /// Whether the registry may not have it, because it must not be passed on. Only some old
    /// Windows base images have such layers; their descriptors have URLs of where they are.
    pub is_foreign: bool,
}

/// What is around a tar stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Nothing.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// An image of OCI.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index of OCI.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The configuration of an image of OCI.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer of OCI; `+gzip` and `+zstd` may follow.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer of OCI that must not be passed on; `+gzip` and `+zstd` may follow.
pub const OCI_FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// An image of Docker, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An index of Docker.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The configuration of an image of Docker.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A layer of Docker; `.gzip` may follow.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// A layer of Docker that must not be passed on; `.gzip` may follow.
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Schema 1 of Docker, with or without a signature behind it: no digest covers what it means.
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// The `Accept` header of a request for a manifest: both kinds of manifest and of index.
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

impl Kind {
    /// What a media type means. Parameters are not allowed: descriptors have none.
    ///
    /// # Errors
    /// `Unimplemented`: not one of the listed types.
    pub fn of(media_type: &str) -> Result<Self> {
        match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST => return Ok(Self::Manifest),
            OCI_INDEX | DOCKER_INDEX => return Ok(Self::Index),
            OCI_CONFIG | DOCKER_CONFIG => return Ok(Self::Config),
            _ => {}
        }
        if media_type.starts_with(DOCKER_SCHEMA1) {
            return Err(Error::unimplemented(
                "the image is in Docker's old schema 1, which has no safe digests; \
                 push it again with a current tool",
            ));
        }
        layer(media_type).map(Self::Layer).ok_or_else(|| {
            let shown: String = media_type.chars().take(100).collect();
            Error::unimplemented(format!(
                "media type {shown:?} is no part of a container image of OCI or Docker schema 2"
            ))
        })
    }
}

fn layer(media_type: &str) -> Option<Layer> {
    // No name here is the beginning of another one, so the first that fits is the only one.
    [
        (OCI_LAYER, '+', false),
        (OCI_FOREIGN_LAYER, '+', true),
        (DOCKER_LAYER, '.', false),
        (DOCKER_FOREIGN_LAYER, '.', true),
    ]
    .into_iter()
    .find_map(|(name, mark, is_foreign)| {
        let suffix = media_type.strip_prefix(name)?;
        let compression = match suffix.strip_prefix(mark) {
            None if suffix.is_empty() => Compression::None,
            Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            _ => return None,
        };
        Some(Layer { compression, is_foreign })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_schema::Class;

    fn check(media_type: &str, want: Option<Kind>) {
        let got = Kind::of(media_type);
        assert_eq!(got.as_ref().ok(), want.as_ref(), "{media_type}");
        if let Err(error) = got {
            assert_eq!(error.class(), Class::Unimplemented);
        }
    }

    #[test]
    fn media_types() {
        let layer = |compression, is_foreign| Some(Kind::Layer(Layer { compression, is_foreign }));
        check("application/vnd.oci.image.manifest.v1+json", Some(Kind::Manifest));
        check("application/vnd.oci.image.index.v1+json", Some(Kind::Index));
        check("application/vnd.oci.image.config.v1+json", Some(Kind::Config));
        check("application/vnd.oci.image.layer.v1.tar", layer(Compression::None, false));
        check("application/vnd.oci.image.layer.v1.tar+gzip", layer(Compression::Gzip, false));
        check("application/vnd.oci.image.layer.v1.tar+zstd", layer(Compression::Zstd, false));
        check(
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            layer(Compression::None, true),
        );
        check(
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            layer(Compression::Gzip, true),
        );
        check(
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            layer(Compression::Zstd, true),
        );
        check("application/vnd.docker.distribution.manifest.v2+json", Some(Kind::Manifest));
        check("application/vnd.docker.distribution.manifest.list.v2+json", Some(Kind::Index));
        check("application/vnd.docker.container.image.v1+json", Some(Kind::Config));
        check("application/vnd.docker.image.rootfs.diff.tar", layer(Compression::None, false));
        check("application/vnd.docker.image.rootfs.diff.tar.gzip", layer(Compression::Gzip, false));
        check("application/vnd.docker.image.rootfs.diff.tar.zstd", layer(Compression::Zstd, false));
        check(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            layer(Compression::Gzip, true),
        );
        check("application/vnd.docker.distribution.manifest.v1+json", None);
        check("application/vnd.docker.distribution.manifest.v1+prettyjws", None);
        check("application/vnd.oci.image.layer.v1.tar.gzip", None);
        check("application/vnd.oci.image.layer.v1.tar+xz", None);
        check("application/vnd.oci.image.layer.v1.tar+", None);
        check("application/vnd.oci.image.layer.v1.tar+gzip+gzip", None);
        check("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None);
        check("application/vnd.docker.image.rootfs.diff.tar+gzip", None);
        check("application/vnd.oci.image.manifest.v1+json; charset=utf-8", None);
        check("Application/vnd.oci.image.manifest.v1+json", None);
        check("application/vnd.oci.empty.v1+json", None);
        check("application/json", None);
        check("text/html", None);
        check("", None);
    }

    #[test]
    fn what_is_asked_for_is_what_is_understood() {
        for media_type in ACCEPT_MANIFESTS.split(", ") {
            let kind = Kind::of(media_type).unwrap();
            assert!(matches!(kind, Kind::Manifest | Kind::Index), "{media_type}");
        }
        assert_eq!(ACCEPT_MANIFESTS.split(", ").count(), 4);
    }
}
