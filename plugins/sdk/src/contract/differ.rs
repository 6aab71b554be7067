//! differ: layer archives in and out of trees.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use capstan_schema::{Digest, Mount};

/// How a deletion in a layer is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// The target shows the parent layers: remove what the whiteout names.
    Remove,
    /// The target is one layer of an overlay: write a 0/0 device node, or the opaque attribute.
    Overlay,
}

/// A stream of a layer's bytes, compressed or not.
pub struct LayerStream(pub Box<dyn Read + Send>);

impl fmt::Debug for LayerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerStream")
    }
}

/// Unpacks a layer into a tree.
///
/// Media types: OCI and Docker layers, plain, gzip or zstd; what the bytes say must agree with the
/// media type. `InvalidArgument`: no layer media type. `Corrupt`: no valid archive, or one that
/// reaches out of the tree. `ResourceExhausted`: disk, or a limit of the configuration, which is named.
///
/// After an error the tree is in an unknown state: remove the snapshot.
#[derive(Debug)]
pub struct Apply {
    /// The bytes.
    pub layer: LayerStream,
    /// Of the layer's descriptor.
    pub media_type: String,
    /// Where to: mounted in a mount namespace of the differ's own, so none is ever left over.
    pub mounts: Vec<Mount>,
    /// How to delete.
    pub whiteouts: Whiteouts,
}

/// What came of an [`Apply`].
#[derive(Debug)]
pub struct Applied {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub size: u64,
    /// What can only be settled when the parent layers are there; for [`Whiteouts::Overlay`] alone.
    pub pending: Pending,
}

/// What a layer takes from its parents: to be settled when they are there.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// Directories that the layer has files in but does not describe itself, parents first.
    pub directories: Vec<PathBuf>,
    /// Hard links to files of the parents: (link, target).
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl Pending {
    /// Whether nothing needs the parents.
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.links.is_empty()
    }
}

/// Gives a layer what it takes from its parents.
///
/// `FailedPrecondition`: it cannot be done in overlay form (a directory of the layer is a symbolic
/// link in the parents); apply the layer on its parent instead, with [`Whiteouts::Remove`].
#[derive(Clone, Debug)]
pub struct Settle {
    /// The layer's own tree.
    pub layer: Vec<Mount>,
    /// A view of the parents.
    pub parent: Vec<Mount>,
    /// What to settle.
    pub pending: Pending,
}

crate::contract! {
    /// The contract of kind `differ`.
    Differ ("differ") as DifferAddr {
        apply: Apply => Applied,
        settle: Settle => () [again],
    }
}
