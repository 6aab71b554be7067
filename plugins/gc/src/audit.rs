//! All that is stored against itself.

use std::collections::HashSet;

use capstan_sdk::contract::graph::{Finding, Flaw};
use capstan_sdk::contract::{containers, content, images, metadata, snapshotter};
use capstan_sdk::{Class, Result};

use crate::owners::Owners;
use crate::{layers, leftovers};

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
    // A past damage is told until somebody has seen it; nothing is to be mended.
    for finding in owners.metadata.send(metadata::Audit { is_full }).await? {
        found.push(Found::cleaned(finding, false));
    }
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
    found.extend(leftovers::mounts(owners, is_healing).await?);
    for namespace in owners.namespaces(None).await? {
        found.extend(leftovers::snapshots(owners, &namespace, is_healing).await?);
        for finding in owners.images.send(images::Audit(namespace.clone())).await? {
            found.push(Found::cleaned(finding, false));
        }
        for finding in owners.containers.send(containers::Audit(namespace.clone())).await? {
            found.push(Found::cleaned(finding, false));
        }
        if is_full {
            // What has no files at all is told above.
            let is_missing = |snapshot: &str| {
                found.iter().any(|Found { finding, .. }| {
                    finding.flaw == Flaw::Missing && finding.what == snapshot
                })
            };
            let layers = layers::compare(owners, &namespace, is_healing, is_missing).await?;
            found.extend(layers);
        }
    }
    // Content and an image that needs it tell of the same blob. (Of a file of the metadata there is more to say.)
    let mut seen = HashSet::new();
    found.retain(|Found { finding, .. }| {
        finding.namespace.is_none()
            || seen.insert((finding.namespace.clone(), finding.what.clone()))
    });
    Ok(found)
}
