//! transfer: images from registries into content and snapshots.

use capstan_schema::{Digest, Namespace, Platform};
use tokio::sync::watch;

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
/// After an error nothing half-made is left: no name, no snapshot, no ingest. Classes are those of
/// `Transfer.pull` in transfer.capnp.
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
    /// http instead of https.
    pub is_plain_http: bool,
    /// Name without kind; empty = the preferred one.
    pub snapshotter: String,
    /// Whether to make the snapshots too.
    pub is_unpacked: bool,
    /// Layers fetched at once; 0 = as configured.
    pub concurrency: u32,
    /// Where to tell how far it is.
    pub progress: ProgressSender,
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

crate::contract! {
    /// The contract of kind `transfer`.
    Transfer ("transfer") as TransferAddr {
        pull: Pull => (Image, Presence) [again, lasting],
        unpack: Unpack => Option<Digest> [again, lasting],
    }
}
