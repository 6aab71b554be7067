//! What a crash between snapshot and record left: root filesystems of containers that do not exist.

use std::collections::HashSet;

use capstan_sdk::contract::metadata::ScanAll;
use capstan_sdk::contract::namespaces;
use capstan_sdk::contract::snapshotter::{LABEL_OWNER, List, Remove};
use capstan_sdk::contract::{Metadata, Namespaces, Page, Snapshotter};
use capstan_sdk::{Link, Namespace, Result};
use tracing::{info, warn};

use crate::record;

/// The owner of a container's root filesystem.
pub(crate) const OWNER: &str = "container";

/// A snapshot to be removed.
pub(crate) struct Leftover {
    snapshotter: Link<Snapshotter>,
    namespace: Namespace,
    key: String,
}

/// Finds root filesystems without a container. It must be done before the first create of this run.
pub(crate) async fn find(
    metadata: &Link<Metadata>,
    snapshotters: &[Link<Snapshotter>],
    namespaces: &Link<Namespaces>,
) -> Result<Vec<Leftover>> {
    let records = metadata.send(ScanAll(record::BUCKET.into())).await?;
    let known: HashSet<(Option<Namespace>, String)> =
        records.into_iter().map(|(key, _)| (key.namespace, key.name)).collect();
    let mut found = Vec::new();
    for namespace in namespaces.send(namespaces::List(Page::all())).await?.items {
        for snapshotter in snapshotters {
            let list = List { namespace: namespace.name.clone(), page: Page::all() };
            let snapshots = match snapshotter.send(list).await {
                Ok(listed) => listed.items,
                Err(error) => {
                    warn!(?snapshotter, %error, "not swept");
                    continue;
                }
            };
            for snapshot in snapshots {
                let is_ours = snapshot.labels.get(LABEL_OWNER).is_some_and(|owner| owner == OWNER);
                let name = (Some(namespace.name.clone()), snapshot.key);
                if is_ours && !known.contains(&name) {
                    found.push(Leftover {
                        snapshotter: snapshotter.clone(),
                        namespace: namespace.name.clone(),
                        key: name.1,
                    });
                }
            }
        }
    }
    Ok(found)
}

/// Removes them.
pub(crate) async fn remove(leftovers: Vec<Leftover>) {
    if !leftovers.is_empty() {
        info!(count = leftovers.len(), "root filesystems without a container are swept");
    }
    for Leftover { snapshotter, namespace, key } in leftovers {
        if let Err(error) = snapshotter.send(Remove { namespace, key: key.clone() }).await {
            warn!(key, %error, "a root filesystem without a container was not swept");
        }
    }
}
