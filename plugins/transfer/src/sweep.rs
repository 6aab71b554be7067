//! What a crash in the middle of an unpack left: snapshots that belong to nobody.

use capstan_sdk::contract::namespaces;
use capstan_sdk::contract::snapshotter::{LABEL_OWNER, List, Remove};
use capstan_sdk::contract::{Namespaces, Page, Snapshotter};
use capstan_sdk::{Link, Namespace, Result};
use tracing::{info, warn};

use crate::unpack::OWNER;

/// A snapshot to be removed.
pub(crate) struct Leftover {
    snapshotter: Link<Snapshotter>,
    namespace: Namespace,
    key: String,
}

/// Finds the leftovers of an earlier run. It must be done before the first unpack of this one.
pub(crate) async fn find(
    snapshotters: &[Link<Snapshotter>],
    namespaces: &Link<Namespaces>,
) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for namespace in namespaces.send(namespaces::List(Page::all())).await?.items {
        for snapshotter in snapshotters {
            let list = List { namespace: namespace.name.clone(), page: Page::all() };
            let snapshots = match snapshotter.send(list).await {
                Ok(listed) => listed.items,
                // One that is down has nothing that could be swept now.
                Err(error) => {
                    warn!(?snapshotter, %error, "not swept");
                    continue;
                }
            };
            let ours = snapshots.into_iter().filter(|snapshot| {
                snapshot.labels.get(LABEL_OWNER).is_some_and(|owner| owner == OWNER)
            });
            found.extend(ours.map(|snapshot| Leftover {
                snapshotter: snapshotter.clone(),
                namespace: namespace.name.clone(),
                key: snapshot.key,
            }));
        }
    }
    Ok(found)
}

/// Removes them.
pub(crate) async fn remove(leftovers: Vec<Leftover>) {
    if !leftovers.is_empty() {
        info!(count = leftovers.len(), "snapshots of unfinished unpacks are swept");
    }
    for Leftover { snapshotter, namespace, key } in leftovers {
        if let Err(error) = snapshotter.send(Remove { namespace, key: key.clone() }).await {
            warn!(key, %error, "a snapshot of an unfinished unpack was not swept");
        }
    }
}
