//! All that is stored against itself.

use std::collections::HashSet;

use capstan_sdk::contract::content::{self, Open};
use capstan_sdk::contract::differ::{Verify, VerifyLayer, Whiteouts};
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::images::{Manifest, ResolveTarget};
use capstan_sdk::contract::snapshotter::{self, Ask, OwnLayer, Stat};
use capstan_sdk::contract::{Page, Snapshotter, containers, images};
use capstan_sdk::{Class, Link, Namespace, Result};
use tracing::warn;

use crate::owners::Owners;

/// Files of one layer that are named, at most.
const NAMED: usize = 8;

/// What an audit does beyond looking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    /// Reads and hashes everything.
    pub(crate) is_full: bool,
    /// Removes orphans, and puts files of layers back.
    pub(crate) is_healing: bool,
}

/// What was found, and whether it is mended already.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) finding: Finding,
    pub(crate) is_mended: bool,
}

impl Found {
    /// An owner that was told to clean has removed its orphans.
    fn cleaned(finding: Finding, is_cleaning: bool) -> Self {
        let is_mended = is_cleaning && finding.flaw == Flaw::Orphan;
        Self { finding, is_mended }
    }
}

/// Asks every owner.
pub(crate) async fn audit(owners: &Owners, depth: Depth) -> Result<Vec<Found>> {
    let Depth { is_full, is_healing } = depth;
    let mut found = Vec::new();
    let message = content::Audit { is_full, is_cleaning: is_healing };
    for finding in owners.content.send(message).await? {
        found.push(Found::cleaned(finding, is_healing));
    }
    for (name, link) in owners.snapshotters()? {
        let message = snapshotter::Audit { is_full, is_cleaning: is_healing };
        match link.send(message).await {
            Err(error) if error.class() == Class::Unimplemented => {}
            findings => {
                for finding in findings.map_err(|error| error.at(format!("snapshotter {name}")))? {
                    found.push(Found::cleaned(finding, is_healing));
                }
            }
        }
    }
    for namespace in owners.namespaces(None).await? {
        for finding in owners.images.send(images::Audit(namespace.clone())).await? {
            found.push(Found::cleaned(finding, false));
        }
        for finding in owners.containers.send(containers::Audit(namespace.clone())).await? {
            found.push(Found::cleaned(finding, false));
        }
        if is_full {
            found.extend(layers(owners, &namespace, is_healing).await?);
        }
    }
    // Content and an image that needs it tell of the same blob.
    let mut seen = HashSet::new();
    found
        .retain(|found| seen.insert((found.finding.namespace.clone(), found.finding.what.clone())));
    Ok(found)
}

/// Compares the unpacked layers of a namespace's images with their blobs.
async fn layers(owners: &Owners, namespace: &Namespace, is_repair: bool) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let list = images::List { namespace: namespace.clone(), page: Page::all() };
    for (image, presence) in owners.images.send(list).await?.items {
        for platform in presence.platforms {
            let target = image.target.clone();
            let resolve = ResolveTarget { namespace: namespace.clone(), target, platform };
            // What is missing is told by the images plugin.
            let Ok(manifest) = owners.images.send(resolve).await else { continue };
            for (name, link) in owners.snapshotters()? {
                let can_rebase = match link.send(Ask).await {
                    Ok(abilities) => abilities.can_rebase,
                    Err(_) => continue,
                };
                for top in 0..manifest.chain_ids.len() {
                    // One that copies has the whole tree at the top, and the layers below share it with nobody.
                    if !seen.insert((name.clone(), manifest.chain_ids[top].clone())) {
                        continue;
                    }
                    let layer = Layer { owners, namespace, name: &name, link: &link };
                    let outcome = layer.verify(&manifest, top, can_rebase, is_repair).await;
                    match outcome {
                        Ok(finding) => found.extend(finding),
                        Err(error) => {
                            warn!(image = image.name, snapshotter = name, %error, "not verified");
                        }
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Where the layers of one snapshotter are verified.
struct Layer<'a> {
    owners: &'a Owners,
    namespace: &'a Namespace,
    name: &'a str,
    link: &'a Link<Snapshotter>,
}

impl Layer<'_> {
    async fn verify(
        &self,
        manifest: &Manifest,
        top: usize,
        can_rebase: bool,
        is_repair: bool,
    ) -> Result<Option<Found>> {
        let key = manifest.chain_ids[top].to_string();
        let namespace = self.namespace;
        let stat = Stat { namespace: namespace.clone(), key: key.clone() };
        match self.link.send(stat).await {
            Err(error) if error.class() == Class::NotFound => return Ok(None),
            found => found.map(drop)?,
        }
        let own = OwnLayer { namespace: namespace.clone(), key: key.clone() };
        let mounts = match self.link.send(own).await {
            // It checks its layers by itself.
            Err(error) if error.class() == Class::Unimplemented => return Ok(None),
            mounts => mounts?,
        };
        let mut layers = Vec::new();
        let lowest = if can_rebase { top } else { 0 };
        for index in (lowest..=top).rev() {
            let descriptor = &manifest.layers[index];
            let open = Open { namespace: namespace.clone(), digest: descriptor.digest.clone() };
            // Without its blob nothing can be said of it; that is told of the blob.
            let Ok(blob) = self.owners.content.send(open).await else { return Ok(None) };
            layers.push(VerifyLayer {
                stream: capstan_sdk::contract::differ::LayerStream(Box::new(blob.reader())),
                media_type: descriptor.media_type.clone(),
            });
        }
        let whiteouts = if can_rebase { Whiteouts::Overlay } else { Whiteouts::Remove };
        let verify = Verify { layers, mounts, whiteouts, is_repair };
        let differences = match self.owners.differ.send(verify).await {
            Err(error) if error.class() == Class::Unimplemented => return Ok(None),
            differences => differences?,
        };
        if differences.is_empty() {
            return Ok(None);
        }
        let mut named: Vec<String> = differences
            .iter()
            .take(NAMED)
            .map(|difference| format!("/{} ({})", difference.path.display(), difference.what))
            .collect();
        if differences.len() > NAMED {
            named.push(format!("and {} more", differences.len() - NAMED));
        }
        let what = Resource::Snapshot { snapshotter: self.name.into(), key };
        let finding = Finding {
            namespace: Some(namespace.clone()),
            what: what.to_string(),
            flaw: Flaw::Damaged,
            detail: format!("not as its layer has it: {}", named.join(", ")),
        };
        let is_mended = differences.iter().all(|difference| difference.is_repaired);
        Ok(Some(Found { finding, is_mended }))
    }
}
