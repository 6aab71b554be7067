//! Media types of layers, and what they say about the bytes.

use std::fmt;

use capstan_sdk::{Error, Result};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// What a layer of this media type must be compressed with.
    ///
    /// # Errors
    /// `InvalidArgument`: it is no media type of a layer.
    pub(crate) fn of_media_type(media_type: &str) -> Result<Self> {
        Ok(match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Self::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Self::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Self::Zstd,
            other => {
                return Err(Error::invalid(format!(
                    "media type {other:?} is not that of a layer archive: want \
                     application/vnd.oci.image.layer.v1.tar, with +gzip or +zstd if it is compressed"
                )));
            }
        })
    }

    /// What the first bytes say; four are enough.
    pub(crate) fn of_bytes(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame of data, or one to be skipped, which some writers put first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn check(media_type: &str, want: Option<Compression>) {
        match Compression::of_media_type(media_type) {
            Ok(compression) => assert_eq!(Some(compression), want, "{media_type}"),
            Err(error) => {
                assert_eq!(want, None, "{media_type}: {error}");
                assert_eq!(error.class(), Class::InvalidArgument);
            }
        }
    }

    #[test]
    fn media_types_are_exact() {
        use Compression::{Gzip, None as Plain, Zstd};
        check("application/vnd.oci.image.layer.v1.tar", Some(Plain));
        check("application/vnd.oci.image.layer.v1.tar+gzip", Some(Gzip));
        check("application/vnd.oci.image.layer.v1.tar+zstd", Some(Zstd));
        check("application/vnd.oci.image.layer.nondistributable.v1.tar", Some(Plain));
        check("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Gzip));
        check("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Some(Zstd));
        check("application/vnd.docker.image.rootfs.diff.tar", Some(Plain));
        check("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Gzip));
        check("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Zstd));
        check("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Gzip));
        check("application/vnd.oci.image.layer.v1.tar+bzip2", None);
        check("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None);
        check("application/vnd.oci.image.layer.v1.tar+gzip ", None);
        check("application/vnd.oci.image.layer.v1.TAR", None);
        check("application/vnd.oci.image.config.v1+json", None);
        check("", None);
    }

    #[test]
    fn bytes_tell_their_compression() {
        let check =
            |bytes: &[u8], want| assert_eq!(Compression::of_bytes(bytes), want, "{bytes:x?}");
        check(&[0x1f, 0x8b, 8, 0], Compression::Gzip);
        check(&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd);
        check(&[0x5a, 0x2a, 0x4d, 0x18], Compression::Zstd);
        check(&[0x28, 0xb5, 0x2f], Compression::None);
        check(b"etc/", Compression::None);
        check(&[], Compression::None);
    }
}
