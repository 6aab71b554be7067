//! Unpacked layers against their blobs.

use std::collections::{HashMap, HashSet};

use capstan_sdk::contract::content::Open;
use capstan_sdk::contract::differ::{
    Apply, Difference, LayerStream, Pending, Settle, Verify, VerifyLayer, Whiteouts,
};
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::images::{self, Image, Manifest, ResolveTarget};
use capstan_sdk::contract::snapshotter::{Ask, LABEL_OWNER, OwnLayer, Remove, Use, View};
use capstan_sdk::contract::{Page, Snapshotter};
use capstan_sdk::{
    Class, Digest, Error, Labels, Link, Mount, Namespace, Platform, Result, random,
};

use crate::audit::Found;
use crate::owners::Owners;

/// Files of one layer that are named, at most.
const NAMED: usize = 8;

/// An image for a platform that is there.
pub(crate) struct Variant {
    pub(crate) image: Image,
    pub(crate) platform: Platform,
    pub(crate) manifest: Manifest,
}

/// All images of a namespace, for each platform that is there. What is missing of one is told by the images plugin.
pub(crate) async fn variants(owners: &Owners, namespace: &Namespace) -> Result<Vec<Variant>> {
    let mut found = Vec::new();
    let list = images::List { namespace: namespace.clone(), page: Page::all() };
    for (image, presence) in owners.images.send(list).await?.items {
        for platform in presence.platforms {
            let resolve = ResolveTarget {
                namespace: namespace.clone(),
                target: image.target.clone(),
                platform: platform.clone(),
            };
            match owners.images.send(resolve).await {
                Ok(manifest) => found.push(Variant { image: image.clone(), platform, manifest }),
                Err(error) if error.class() == Class::Unavailable => return Err(error),
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// Compares the unpacked layers of a namespace's images with their blobs, one after the other; with `is_repair` puts
/// right what differs. Those that `is_passed` says by their resource are left out.
pub(crate) async fn compare(
    owners: &Owners,
    namespace: &Namespace,
    is_repair: bool,
    is_passed: impl Fn(&str) -> bool,
) -> Result<Vec<Found>> {
    let _hold = owners.hold(namespace).await?;
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for Variant { manifest, .. } in variants(owners, namespace).await? {
        for (name, link) in owners.snapshotters()? {
            let can_rebase = link.send(Ask).await?.can_rebase;
            for top in 0..manifest.chain_ids.len() {
                let layer = Layer { owners, namespace, name: &name, link: &link, can_rebase };
                let what = layer.resource(&manifest, top);
                if !is_passed(&what) && seen.insert(what) {
                    found.extend(layer.compare(&manifest, top, is_repair).await?);
                }
            }
        }
    }
    Ok(found)
}

/// How many layers each layer of an image stands on, by its chain id.
pub(crate) async fn heights(owners: &Owners) -> Result<HashMap<String, usize>> {
    let mut heights = HashMap::new();
    for namespace in owners.namespaces(None).await? {
        for Variant { manifest, .. } in variants(owners, &namespace).await? {
            for (height, chain_id) in manifest.chain_ids.iter().enumerate() {
                heights.insert(chain_id.to_string(), height);
            }
        }
    }
    Ok(heights)
}

/// Unpacks a layer whose files are gone in its place, so that what stands on it may stay. Those below must be there.
/// `None`: no image has such a layer, or its snapshotter has no place for it.
pub(crate) async fn restore(
    owners: &Owners,
    namespace: &Namespace,
    name: &str,
    key: &str,
) -> Result<Option<()>> {
    let _hold = owners.hold(namespace).await?;
    let link = owners.snapshotter(name)?;
    let can_rebase = link.send(Ask).await?.can_rebase;
    for Variant { manifest, .. } in variants(owners, namespace).await? {
        let index = manifest.chain_ids.iter().position(|chain_id| chain_id.as_str() == key);
        let Some(top) = index else { continue };
        let layer = Layer { owners, namespace, name, link: &link, can_rebase };
        return match layer.unpack(&manifest, top).await {
            Err(error) if error.class() == Class::Unimplemented => Ok(None),
            unpacked => unpacked.map(Some),
        };
    }
    Ok(None)
}

/// Where the layers of one snapshotter are compared.
struct Layer<'a> {
    owners: &'a Owners,
    namespace: &'a Namespace,
    name: &'a str,
    link: &'a Link<Snapshotter>,
    can_rebase: bool,
}

impl Layer<'_> {
    fn resource(&self, manifest: &Manifest, top: usize) -> String {
        let key = manifest.chain_ids[top].to_string();
        Resource::Snapshot { snapshotter: self.name.into(), key }.to_string()
    }

    async fn compare(
        &self,
        manifest: &Manifest,
        top: usize,
        is_repair: bool,
    ) -> Result<Option<Found>> {
        let detail = match self.differences(manifest, top, is_repair).await {
            Ok(differences) if differences.is_empty() => return Ok(None),
            Ok(differences) => {
                let is_mended = differences.iter().all(|difference| difference.is_repaired);
                let detail = format!("not as its layer has it: {}", named(&differences));
                return Ok(Some(self.found(manifest, top, detail, is_mended)));
            }
            Err(error) => match error.class() {
                // It is not unpacked, or was removed meanwhile; or its blob is missing, which is told of the blob; or its
                // snapshotter has no files that could be compared.
                Class::NotFound | Class::Unimplemented => return Ok(None),
                Class::Unavailable | Class::Aborted => return Err(error),
                _ => format!("it cannot be compared with its layer: {}", error.message()),
            },
        };
        Ok(Some(self.found(manifest, top, detail, false)))
    }

    fn found(&self, manifest: &Manifest, top: usize, detail: String, is_mended: bool) -> Found {
        let finding = Finding {
            namespace: Some(self.namespace.clone()),
            what: self.resource(manifest, top),
            flaw: Flaw::Damaged,
            detail,
        };
        Found { finding, is_mended }
    }

    /// How a snapshot differs from its layer. `NotFound`: the snapshot, or a blob that it needs.
    /// `Unimplemented`: the snapshotter has no files that could be compared.
    async fn differences(
        &self,
        manifest: &Manifest,
        top: usize,
        is_repair: bool,
    ) -> Result<Vec<Difference>> {
        let key = manifest.chain_ids[top].to_string();
        let namespace = self.namespace;
        // From now on it is not collected under our hands.
        self.link.send(Use { namespace: namespace.clone(), key: key.clone() }).await?;
        // One that copies has the whole tree; else each layer has its own.
        let lowest = if self.can_rebase { top } else { 0 };
        let mut layers = Vec::new();
        for descriptor in manifest.layers[lowest..=top].iter().rev() {
            layers.push(VerifyLayer {
                stream: self.stream(&descriptor.digest).await?,
                media_type: descriptor.media_type.clone(),
            });
        }
        let mounts = self.link.send(OwnLayer { namespace: namespace.clone(), key }).await?;
        let whiteouts = if self.can_rebase { Whiteouts::Overlay } else { Whiteouts::Remove };
        self.owners.differ.send(Verify { layers, mounts, whiteouts, is_repair }).await
    }

    async fn unpack(&self, manifest: &Manifest, top: usize) -> Result<()> {
        let key = manifest.chain_ids[top].to_string();
        let own = OwnLayer { namespace: self.namespace.clone(), key };
        let mounts = self.link.send(own).await?;
        if !self.can_rebase {
            for index in 0..=top {
                self.apply(manifest, index, &mounts, Whiteouts::Remove).await?;
            }
            return Ok(());
        }
        let pending = self.apply(manifest, top, &mounts, Whiteouts::Overlay).await?;
        match top.checked_sub(1) {
            Some(below) if !pending.is_empty() => {
                self.settle(&manifest.chain_ids[below], mounts, pending).await
            }
            _ => Ok(()),
        }
    }

    async fn apply(
        &self,
        manifest: &Manifest,
        index: usize,
        mounts: &[Mount],
        whiteouts: Whiteouts,
    ) -> Result<Pending> {
        let descriptor = &manifest.layers[index];
        let apply = Apply {
            layer: self.stream(&descriptor.digest).await?,
            media_type: descriptor.media_type.clone(),
            mounts: mounts.to_vec(),
            whiteouts,
        };
        let applied = self.owners.differ.send(apply).await;
        let applied = applied.map_err(|error| error.at(format!("layer {}", descriptor.digest)))?;
        let want = &manifest.diff_ids[index];
        if applied.diff_id == *want {
            return Ok(applied.pending);
        }
        let (layer, got) = (&descriptor.digest, applied.diff_id);
        Err(Error::corrupt(format!("layer {layer} unpacks to {got}, its image says {want}")))
    }

    async fn settle(&self, below: &Digest, layer: Vec<Mount>, pending: Pending) -> Result<()> {
        let key = format!("heal-{}-{below}", random::hex::<8>()?);
        let view = View {
            namespace: self.namespace.clone(),
            key: key.clone(),
            parent: below.to_string(),
            // One that a crash leaves is swept as those of unpacks are.
            labels: Labels::from([(LABEL_OWNER.to_owned(), "unpack".to_owned())]),
        };
        let parent = self.link.send(view).await?;
        let outcome = self.owners.differ.send(Settle { layer, parent, pending }).await;
        self.link.send(Remove { namespace: self.namespace.clone(), key }).await?;
        outcome
    }

    async fn stream(&self, digest: &Digest) -> Result<LayerStream> {
        let open = Open { namespace: self.namespace.clone(), digest: digest.clone() };
        let blob = self.owners.content.send(open).await.map_err(|error| match error.class() {
            // Damaged or gone: the audit of the content tells of it.
            Class::Corrupt => Error::not_found(error.message().to_owned()),
            _ => error,
        })?;
        Ok(LayerStream(Box::new(blob.reader())))
    }
}

fn named(differences: &[Difference]) -> String {
    let mut named: Vec<String> = differences
        .iter()
        .take(NAMED)
        .map(|difference| format!("/{} ({})", difference.path.display(), difference.what))
        .collect();
    if differences.len() > NAMED {
        named.push(format!("and {} more", differences.len() - NAMED));
    }
    named.join(", ")
}
