//! transfer: images from registries into content and snapshots.

use std::fmt;
use std::io::{Read, Write};

use bytes::Bytes;
use capstan_schema::{Descriptor, Digest, Labels, Namespace, Platform};
use tokio::sync::{mpsc, oneshot, watch};

use crate::contract::access::{Access, Secret};
use crate::contract::images::{Image, Presence};

/// How far one descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    /// Not begun.
    Waiting,
    /// Bytes come.
    Downloading,
    /// All bytes are here, files are still written.
    Extracting,
    /// Ready.
    Done,
    /// It was there before.
    Exists,
    /// Bytes go to the registry, or into the archive.
    Uploading,
    /// The registry took it from another repository of its own.
    Mounted,
    /// The registry is asked what a name means.
    Resolving,
    /// It is packed anew.
    Converting,
}

/// The progress of one descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `layer-sha256:...`, `manifest-sha256:...`, `config-sha256:...`, `index-sha256:...`.
    pub name: String,
    /// How far.
    pub state: ItemState,
    /// Bytes so far.
    pub offset: u64,
    /// Bytes in all; 0 = not known.
    pub total: u64,
}

/// All items of an operation, in the order in which they became known. The newest state wins:
/// a reader that looks rarely misses steps, never the end.
pub type ProgressSender = watch::Sender<Vec<Item>>;

/// Brings an image from a registry: resolve, fetch, verify, unpack, name.
///
/// After an error nothing half-made is left: no name, no snapshot. What came of blobs can be resumed, unless it was wrong or
/// the disk is full. Classes are those of `Transfer.pull` in transfer.capnp.
///
/// Cancel safety: the pull is given up when the receiving half of `progress` is dropped.
#[derive(Clone, Debug)]
pub struct Pull {
    /// In which namespace.
    pub namespace: Namespace,
    /// `host[:port]/path[:tag][@digest]`.
    pub reference: String,
    /// For which platform.
    pub platform: Platform,
    /// How the registry is reached.
    pub access: Access,
    /// Name without kind; empty = the preferred one.
    pub snapshotter: String,
    /// Whether to make the snapshots too.
    pub is_unpacked: bool,
    /// Layers fetched at once; 0 = as configured.
    pub concurrency: u32,
    /// Whether to fetch what an index has for all platforms. `platform` is the one that is unpacked then.
    pub is_for_all_platforms: bool,
    /// Where to tell how far it is.
    pub progress: ProgressSender,
}

/// How the layers of a push are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repack {
    /// As they are stored.
    Keep,
    /// Anew, with zstd. The image that arrives has other digests.
    Zstd,
}

/// Sends an image that is here to a registry, and names it there. Answers what it is there.
///
/// What the registry has is not sent; what it has in another repository is mounted from there. Classes are those of
/// `Transfer.push` in transfer.capnp.
///
/// Cancel safety: the push is given up when the receiving half of `progress` is dropped; no name is given then.
#[derive(Clone, Debug)]
pub struct Push {
    /// In which namespace.
    pub namespace: Namespace,
    /// `host[:port]/path[:tag][@digest]`.
    pub reference: String,
    /// The image's name here, or `name@digest` for one of the documents below it.
    pub source: String,
    /// How the registry is reached.
    pub access: Access,
    /// Only this one of an index, whose manifest then is what arrives; `None`: all, which must be here.
    pub platform: Option<Platform>,
    /// How layers are packed.
    pub repack: Repack,
    /// Blobs sent at once; 0 = as configured.
    pub concurrency: u32,
    /// Where to tell how far it is.
    pub progress: ProgressSender,
}

/// Brings an image from one registry to another one, or to another name in the same. Answers what it is there.
///
/// What the target has, or can mount from another repository of its own, is not fetched. Blobs pass through the content
/// store; nothing gets a name here. Classes are those of `Transfer.copy` in transfer.capnp.
///
/// Cancel safety: the copy is given up when the receiving half of `progress` is dropped; no name is given then.
#[derive(Clone, Debug)]
pub struct CopyImage {
    /// Through the content of which namespace.
    pub namespace: Namespace,
    /// `host[:port]/path[:tag][@digest]`.
    pub source: String,
    /// `host[:port]/path[:tag][@digest]`.
    pub target: String,
    /// How the registry of the source is reached.
    pub source_access: Access,
    /// How the registry of the target is reached.
    pub target_access: Access,
    /// Only this one of an index, whose manifest then is what arrives; `None`: all.
    pub platform: Option<Platform>,
    /// Whether what refers to it in its registry goes along, and what refers to that.
    pub has_referrers: bool,
    /// Blobs on their way at once; 0 = as configured for pushes.
    pub concurrency: u32,
    /// Where to tell how far it is.
    pub progress: ProgressSender,
}

/// One document or blob as a registry has it. Nothing is stored. Done when all its bytes were taken, and verified.
///
/// Cancel safety: it is given up when the receiving half of `bytes` is dropped.
#[derive(Debug)]
pub struct GetObject {
    /// `host[:port]/path[:tag][@digest]`.
    pub reference: String,
    /// How the registry is reached.
    pub access: Access,
    /// Told what it is, before the first byte.
    pub found: oneshot::Sender<Descriptor>,
    /// Where the bytes go.
    pub bytes: mpsc::Sender<Bytes>,
}

/// Sends one blob or document that is here.
#[derive(Clone, Debug)]
pub struct PutObject {
    /// Where it is.
    pub namespace: Namespace,
    /// `host[:port]/path[:tag][@digest]`; a document gets the tag.
    pub reference: String,
    /// What.
    pub object: Descriptor,
    /// How the registry is reached.
    pub access: Access,
}

/// What a registry has that refers to an image. Answers an empty list where nothing does.
#[derive(Clone, Debug)]
pub struct ListReferrers {
    /// `host[:port]/path[:tag][@digest]`.
    pub reference: String,
    /// Only these; empty = all.
    pub artifact_type: String,
    /// How the registry is reached.
    pub access: Access,
}

/// What refers to an image, such as a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its manifest.
    pub manifest: Descriptor,
    /// What it is.
    pub artifact_type: String,
    /// What it says of itself.
    pub annotations: Labels,
}

/// Makes the snapshots of an image that is present; answers the chain id of the top one.
///
/// Idempotent. `NotFound`: image, manifest or content.
#[derive(Clone, Debug)]
pub struct Unpack {
    /// In which namespace.
    pub namespace: Namespace,
    /// The full reference.
    pub image: String,
    /// For which platform.
    pub platform: Platform,
    /// Name without kind; empty = the preferred one.
    pub snapshotter: String,
}

/// An archive on its way in.
pub struct ArchiveStream(pub Box<dyn Read + Send>);

impl fmt::Debug for ArchiveStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveStream")
    }
}

/// An archive on its way out.
pub struct ArchiveSink(pub Box<dyn Write + Send>);

impl fmt::Debug for ArchiveSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveSink")
    }
}

/// Which of the names in an archive an import takes. Who made the archive chose them, not who imports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// These. An archive with one image that has no name gives it the one that is asked for. With none, images
    /// are stored by digest only, until somebody names them.
    Only(Vec<String>),
    /// All that are not the names of other images here.
    Fresh,
    /// All, also those that then mean another image than before.
    All,
}

/// Takes images from an archive: an OCI image layout or what `docker save` writes, plain or compressed. Nothing of it is held
/// in memory but its documents.
///
/// `InvalidArgument`: it is no such archive. `Corrupt`: its parts do not match their digests, or are missing.
/// `NotFound`: it has nothing of a name that is asked for. `AlreadyExists`: with [`Names::Fresh`], a name in it is that of
/// another image. `ResourceExhausted`: disk, or a limit of the configuration. After an error, or cancelled by dropping the
/// receiving half of `progress`, there is no name, no snapshot and no ingest of it; verified blobs stay for the next try,
/// or for garbage collection.
#[derive(Debug)]
pub struct Import {
    /// Where.
    pub namespace: Namespace,
    /// Its bytes.
    pub archive: ArchiveStream,
    /// Which of its names to take.
    pub names: Names,
    /// Which platform to unpack; all are stored. An image that is not for it is not unpacked.
    pub platform: Platform,
    /// Where to unpack, without kind; empty = the preferred one.
    pub snapshotter: String,
    /// Whether to unpack at all.
    pub is_unpacked: bool,
    /// Where to tell how far it is.
    pub progress: ProgressSender,
}

/// An image that came from an archive.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What it is called now; empty: only its digest is known.
    pub name: String,
    /// What it is.
    pub target: Descriptor,
}

/// How an archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout in a tar, that `docker load` reads too.
    Oci,
}

/// Writes images into an archive. `NotFound`: an image, or content of it.
#[derive(Debug)]
pub struct Export {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub names: Vec<String>,
    /// `None`: every platform whose content is there.
    pub platform: Option<Platform>,
    /// How.
    pub format: ArchiveFormat,
    /// Where the bytes go. It ends when the archive does.
    pub archive: ArchiveSink,
    /// Where to tell how far it is.
    pub progress: ProgressSender,
}

/// Stores what a snapshot has and its parent has not as a layer blob.
#[derive(Clone, Debug)]
pub struct Diff {
    /// Where.
    pub namespace: Namespace,
    /// Without kind; empty = the preferred one.
    pub snapshotter: String,
    /// Which snapshot.
    pub key: String,
    /// Compare with this one; `None` = with its own parent.
    pub parent: Option<String>,
    /// An OCI layer type; empty = gzip.
    pub media_type: String,
}

/// A layer blob that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The blob.
    pub layer: Descriptor,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
}

/// Unpacks a layer blob into an active snapshot. Answers its diff id. `FailedPrecondition`: the snapshot is not active.
#[derive(Clone, Debug)]
pub struct Apply {
    /// Where.
    pub namespace: Namespace,
    /// Without kind; empty = the preferred one.
    pub snapshotter: String,
    /// Which snapshot.
    pub key: String,
    /// Which blob.
    pub layer: Descriptor,
}

/// Fetches a blob again from where it came (label [`LABEL_SOURCE`]). `NotFound`: nobody knows where that is, or it is not
/// there any more. Does nothing where the blob is whole.
#[derive(Clone, Debug)]
pub struct Refetch {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub digest: Digest,
    /// As whom its registry is asked; how it is reached, the label says.
    pub access: Access,
}

/// The label of a blob that says from which repository it came: `https://host/path`. More than one are told apart by what
/// follows a dot.
pub const LABEL_SOURCE: &str = "capstan/source";

/// Whether a registry lets in whom `access` names. Answers the identity token that its token server gives in return, to be
/// told in place of the password; `None`: it gives none. `InvalidArgument`: it is no host. `FailedPrecondition`: it asks nobody
/// who he is. `PermissionDenied`: it does not let us in. `Unavailable`: it cannot be reached.
#[derive(Clone, Debug)]
pub struct CheckLogin {
    /// `host[:port]`.
    pub host: String,
    /// How the registry is reached, and as whom.
    pub access: Access,
}

crate::contract! {
    /// The contract of kind `transfer`.
    Transfer ("transfer") as TransferAddr {
        pull: Pull => (Image, Presence) [again, lasting],
        unpack: Unpack => Option<Digest> [again, lasting],
        import: Import => Vec<Imported> [lasting],
        export: Export => () [lasting],
        diff: Diff => Stored [lasting],
        apply: Apply => Digest [lasting],
        refetch: Refetch => () [again, lasting],
        push: Push => Descriptor [again, lasting],
        get_object: GetObject => () [lasting],
        put_object: PutObject => () [again, lasting],
        referrers: ListReferrers => Vec<Referrer> [again],
        check_login: CheckLogin => Option<Secret> [again, lasting],
        copy: CopyImage => Descriptor [again, lasting],
    }
}
