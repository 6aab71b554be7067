//! Unpacked layers against their blobs.

use std::collections::HashSet;

use capstan_sdk::contract::content::Open;
use capstan_sdk::contract::differ::{Difference, LayerStream, Verify, VerifyLayer, Whiteouts};
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::images::{self, Image, Manifest, ResolveTarget};
use capstan_sdk::contract::leases::Hold;
use capstan_sdk::contract::snapshotter::{Ask, OwnLayer, Use};
use capstan_sdk::contract::{Page, Snapshotter};
use capstan_sdk::{Class, Error, Link, Namespace, Platform, Result};

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

/// Makes the files of a layer that are gone or wrong again, in their place. `None`: no image has such a layer, or its
/// snapshotter has no place for it.
pub(crate) async fn restore(
    owners: &Owners,
    namespace: &Namespace,
    name: &str,
    key: &str,
) -> Result<Option<()>> {
    let _hold: Hold = owners.hold(namespace).await?;
    let link = owners.snapshotter(name)?;
    let can_rebase = link.send(Ask).await?.can_rebase;
    for Variant { manifest, .. } in variants(owners, namespace).await? {
        let index = manifest.chain_ids.iter().position(|chain_id| chain_id.as_str() == key);
        let Some(top) = index else { continue };
        let layer = Layer { owners, namespace, name, link: &link, can_rebase };
        let differences = match layer.differences(&manifest, top, true).await {
            Err(error) if error.class() == Class::Unimplemented => return Ok(None),
            differences => differences?,
        };
        let Some(left) = differences.iter().find(|difference| !difference.is_repaired) else {
            return Ok(Some(()));
        };
        return Err(Error::corrupt(format!("/{}: {}", left.path.display(), left.what)));
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

    async fn stream(&self, digest: &capstan_sdk::Digest) -> Result<LayerStream> {
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
