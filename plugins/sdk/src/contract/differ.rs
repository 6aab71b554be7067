//! differ: layer archives in and out of trees.

use std::fmt;
use std::io::{Read, Write};
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

/// Where the bytes of a layer go.
pub struct LayerSink(pub Box<dyn Write + Send>);

impl fmt::Debug for LayerSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerSink")
    }
}

/// Writes what a tree has and its parent has not as a layer. The same trees give the same bytes.
///
/// Deletions are explicit whiteouts. A directory is written if it changed itself, its time among that;
/// those above it are not. Sockets and character devices 0/0 are nothing. All names of a file that has
/// several are written if one of them changed.
///
/// `InvalidArgument`: a media type that it cannot write. `FailedPrecondition`: a file that a layer cannot
/// hold. `Aborted`: the tree was changed meanwhile. `ResourceExhausted`: the layer would trip a limit of
/// the configuration when it is applied; it is named.
///
/// After an error the sink has a part of a layer.
#[derive(Debug)]
pub struct Diff {
    /// Shows the parent; none = an empty tree.
    pub parent: Vec<Mount>,
    /// Shows the tree. Of an overlay whose lower layers are the parent only the upper one is read.
    pub tree: Vec<Mount>,
    /// An OCI layer type: plain, gzip or zstd.
    pub media_type: String,
    /// It ends when the layer does.
    pub out: LayerSink,
}

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diffed {
    /// Digest of the bytes that were written.
    pub digest: Digest,
    /// Of these.
    pub size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
}

/// One layer of a tree.
#[derive(Debug)]
pub struct VerifyLayer {
    /// Its archive.
    pub stream: LayerStream,
    /// Of that.
    pub media_type: String,
}

/// Compares a tree with the layers that it was made of, file by file, byte by byte.
///
/// A path is compared with the topmost layer that has it, unless one above hides it. In one layer of an
/// overlay what the layer does not have is a difference, too: `extra`, which a repair removes. A repair
/// puts something new beside what is damaged, and gives it its name when it is whole; attributes are set
/// in place. Where a link leads elsewhere that should be a directory, it takes a second run.
///
/// `Corrupt`: a layer cannot be read. `InvalidArgument`: no layer, or several for one layer of an overlay.
/// `ResourceExhausted`: a limit of the configuration, which is named.
#[derive(Debug)]
pub struct Verify {
    /// Top first. One, if the tree is one layer of an overlay.
    pub layers: Vec<VerifyLayer>,
    /// Show the tree.
    pub mounts: Vec<Mount>,
    /// How deletions are written in it.
    pub whiteouts: Whiteouts,
    /// Also puts right what differs.
    pub is_repair: bool,
}

/// A file that is not as its layer has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Below the root of the tree.
    pub path: PathBuf,
    /// In what, with commas between: `missing`, `extra`, `type`, `size`, `content`, `target`, `device`, `link`
    /// (it is not the file that it was linked to), `mode`, `owner`, `mtime`, `xattrs`, `whiteout`, `opaque`.
    pub what: String,
    /// It is right now.
    pub is_repaired: bool,
}

crate::contract! {
    /// The contract of kind `differ`.
    Differ ("differ") as DifferAddr {
        apply: Apply => Applied,
        settle: Settle => () [again],
        diff: Diff => Diffed,
        verify: Verify => Vec<Difference>,
    }
}
