//! Layers out of snapshots and into them, on request.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use capstan_sdk::contract::content::{Ingest, Open, OpenIngest};
use capstan_sdk::contract::differ::{self, LayerSink, LayerStream, Whiteouts};
use capstan_sdk::contract::snapshotter::{Kind, Mounts, SnapshotInfo, Stat, View};
use capstan_sdk::contract::transfer::{Apply, Diff, Stored};
use capstan_sdk::contract::{Content, Differ};
use capstan_sdk::oci::media::OCI_LAYER;
use capstan_sdk::{Algorithm, Descriptor, Digest, Error, Link, Mount, Result, random};
use tokio::runtime::Handle;

use crate::unpack::{Target, owned};

/// Bytes that go to the store at once.
const CHUNK: usize = 256 << 10;

/// What makes and applies layers.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) content: Link<Content>,
    pub(crate) differ: Link<Differ>,
}

/// A view that goes when it is not needed any more, also when its owner is cancelled.
struct Scratch {
    target: Target,
    key: String,
    is_gone: bool,
}

impl Scratch {
    async fn leave(mut self) {
        self.is_gone = true;
        self.target.remove(&self.key).await;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_gone {
            let (target, key) = (self.target.clone(), self.key.clone());
            actix::spawn(async move { target.remove(&key).await });
        }
    }
}

async fn stat(target: &Target, key: &str) -> Result<SnapshotInfo> {
    let stat = Stat { namespace: target.namespace.clone(), key: key.into() };
    target.snapshotter.send(stat).await
}

/// How a snapshot is seen: by its own mounts, or by those of a view that is made for it.
async fn see(target: &Target, info: &SnapshotInfo) -> Result<(Vec<Mount>, Option<Scratch>)> {
    let namespace = target.namespace.clone();
    if info.kind != Kind::Committed {
        let mounts = Mounts { namespace, key: info.key.clone() };
        return Ok((target.snapshotter.send(mounts).await?, None));
    }
    let key = format!("diff-{}", random::hex::<16>()?);
    let scratch = Scratch { target: target.clone(), key: key.clone(), is_gone: false };
    let view = View { namespace, key, parent: info.key.clone(), labels: owned() };
    let mounts = target.snapshotter.send(view).await?;
    Ok((mounts, Some(scratch)))
}

impl Layers {
    /// Stores what a snapshot has and its parent has not.
    pub(crate) async fn diff(self, diff: Diff, target: Target) -> Result<Stored> {
        let info = stat(&target, &diff.key).await?;
        let parent = diff.parent.unwrap_or_else(|| info.parent.clone());
        let (tree, tree_view) = see(&target, &info).await?;
        let (below, parent_view) = match parent.as_str() {
            "" => (Vec::new(), None),
            key => see(&target, &stat(&target, key).await?).await?,
        };
        let media_type = match diff.media_type.as_str() {
            "" => format!("{OCI_LAYER}+gzip"),
            given => given.to_owned(),
        };
        let outcome = self.store(&target, below, tree, media_type).await;
        for view in [tree_view, parent_view].into_iter().flatten() {
            view.leave().await;
        }
        outcome.map_err(|error| error.at(format_args!("diff of snapshot {:?}", diff.key)))
    }

    async fn store(
        &self,
        target: &Target,
        parent: Vec<Mount>,
        tree: Vec<Mount>,
        media_type: String,
    ) -> Result<Stored> {
        let reference = format!("diff-{}", random::hex::<16>()?);
        let open = OpenIngest {
            // The differ hashes like this.
            algorithm: Some(Algorithm::Sha256),
            ..OpenIngest::new(&target.namespace, reference)
        };
        let ingest = Arc::new(self.content.send(open).await?);
        let sink = Sink { ingest: Arc::clone(&ingest), runtime: Handle::current() };
        let out = LayerSink(Box::new(io::BufWriter::with_capacity(CHUNK, sink)));
        let message = differ::Diff { parent, tree, media_type: media_type.clone(), out };
        let diffed = self.differ.send(message).await;
        // The differ is done with it, or is gone.
        let ingest = Arc::try_unwrap(ingest)
            .map_err(|_| Error::internal("the differ keeps the layer after it is written"))?;
        let diffed = match diffed {
            Ok(diffed) => diffed,
            Err(error) => {
                // The store may have ended it by itself, after an error of its own.
                let _ = ingest.abort().await;
                return Err(error);
            }
        };
        let (digest, size) = ingest.commit(Some(diffed.digest), diffed.size).await?;
        let layer = Descriptor { media_type, digest, size, platform: None };
        Ok(Stored { layer, diff_id: diffed.diff_id })
    }

    /// Unpacks a blob into an active snapshot.
    pub(crate) async fn apply(self, apply: Apply, target: Target) -> Result<Digest> {
        let info = stat(&target, &apply.key).await?;
        if info.kind != Kind::Active {
            return Err(Error::precondition(format!(
                "snapshot {:?} is {}; a layer goes into an active one (capstan snapshots prepare)",
                apply.key,
                info.kind.name()
            )));
        }
        let namespace = target.namespace.clone();
        let mounts = Mounts { namespace: namespace.clone(), key: apply.key.clone() };
        let mounts = target.snapshotter.send(mounts).await?;
        let open = Open { namespace, digest: apply.layer.digest.clone() };
        let blob = self.content.send(open).await?;
        let message = differ::Apply {
            layer: LayerStream(Box::new(blob.reader())),
            media_type: apply.layer.media_type,
            mounts,
            whiteouts: Whiteouts::Remove,
        };
        let applied = self.differ.send(message).await.map_err(|error| {
            error.at(format_args!("apply {} to snapshot {:?}", apply.layer.digest, apply.key))
        })?;
        Ok(applied.diff_id)
    }
}

/// Writes into an ingest, from a thread that may block.
struct Sink {
    ingest: Arc<Ingest>,
    runtime: Handle,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.runtime.block_on(self.ingest.write(Bytes::copy_from_slice(bytes)));
        written.map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
