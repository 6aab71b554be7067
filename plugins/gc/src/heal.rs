//! Findings are repaired.

use std::collections::HashMap;

use capstan_sdk::contract::gc::{Heal, Healed};
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::snapshotter;
use capstan_sdk::contract::transfer::{Refetch, Unpack};
use capstan_sdk::{Error, Namespace, Result};

use crate::audit::{Depth, Found, audit};
use crate::layers::{self, Variant};
use crate::owners::Owners;

/// Audits, and repairs what it finds. Blobs first: layers are put back from them.
pub(crate) async fn heal(owners: &Owners, heal: Heal) -> Result<Vec<Healed>> {
    let Heal { is_full, access } = heal;
    let mut healed = Vec::new();
    let mut fetched = Vec::new();
    for Found { finding, .. } in audit(owners, Depth { is_full, is_healing: false }).await? {
        if let Some((namespace, digest)) = blob(&finding) {
            let refetch = Refetch { namespace, digest, access: access.clone() };
            let outcome = owners.transfer.send(refetch).await;
            let outcome = outcome.map(|()| "fetched again".to_owned());
            fetched.push(finding.what.clone());
            healed.push(Healed { finding, outcome: outcome.map_err(|error| told(&error)) });
        }
    }
    let mut found = audit(owners, Depth { is_full, is_healing: true }).await?;
    // A layer can only be made again on those below it.
    let heights = layers::heights(owners).await?;
    found.sort_by_key(|found| height(&found.finding, &heights));
    for Found { finding, is_mended } in found {
        if fetched.contains(&finding.what) {
            continue;
        }
        let outcome = match is_mended {
            true if matches!(finding.flaw, Flaw::Orphan | Flaw::Leftover) => {
                Ok("removed".to_owned())
            }
            true => Ok("put back from its layer".to_owned()),
            false => mend(owners, &finding).await.map_err(|error| told(&error)),
        };
        healed.push(Healed { finding, outcome });
    }
    Ok(healed)
}

/// How many layers the one that a finding is about stands on; 0 for what is none.
fn height(finding: &Finding, heights: &HashMap<String, usize>) -> usize {
    match finding.what.parse() {
        Ok(Resource::Snapshot { key, .. }) => heights.get(&key).copied().unwrap_or(0),
        _ => 0,
    }
}

fn told(error: &Error) -> String {
    format!("{}: {}", error.class().name(), error.message())
}

/// The blob that is missing or damaged.
fn blob(finding: &Finding) -> Option<(Namespace, capstan_sdk::Digest)> {
    let namespace = finding.namespace.clone()?;
    match finding.what.parse() {
        Ok(Resource::Content(digest)) if finding.flaw != Flaw::Orphan => Some((namespace, digest)),
        _ => None,
    }
}

/// Mends what is no blob.
async fn mend(owners: &Owners, finding: &Finding) -> Result<String> {
    let by_hand = || Error::precondition("it cannot be healed; what to do is in the detail");
    let namespace = finding.namespace.clone().ok_or_else(by_hand)?;
    match finding.what.parse() {
        Ok(Resource::Snapshot { snapshotter, key }) if finding.flaw == Flaw::Missing => {
            make_again(owners, namespace, &snapshotter, key).await
        }
        _ => Err(by_hand()),
    }
}

/// Unpacks a layer again in its place, so that what stands on it may stay; or has its image unpacked again.
async fn make_again(
    owners: &Owners,
    namespace: Namespace,
    name: &str,
    key: String,
) -> Result<String> {
    if layers::restore(owners, &namespace, name, &key).await?.is_some() {
        return Ok("unpacked again in its place".into());
    }
    for Variant { image, platform, manifest } in layers::variants(owners, &namespace).await? {
        if manifest.chain_ids.iter().any(|chain_id| chain_id.as_str() == key) {
            let remove = snapshotter::Remove { namespace: namespace.clone(), key };
            owners
                .snapshotter(name)?
                .send(remove)
                .await
                .map_err(|error| error.at("remove what stands on it, then pull the image again"))?;
            let told = format!("unpacked again from {}", image.name);
            let (image, snapshotter) = (image.name, name.to_owned());
            owners.transfer.send(Unpack { namespace, image, platform, snapshotter }).await?;
            return Ok(told);
        }
    }
    Err(Error::precondition(
        "no image has this layer; remove the snapshot, or the container whose it is",
    ))
}
