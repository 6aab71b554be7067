//! What operations that broke off left: mounts, and snapshots that nobody works on any more.
//!
//! Each plugin sweeps its own at its start; this finds what came since then.

use std::path::{Path, PathBuf};

use capstan_sdk::contract::graph::{Finding, Flaw, Node, Resource};
use capstan_sdk::contract::snapshotter::{LABEL_OWNER, Nodes, Remove, Stat};
use capstan_sdk::contract::{Snapshotter, containers};
use capstan_sdk::{Class, Error, Link, Namespace, Result, blocking, clock, mount};
use rustix::mount::{UnmountFlags, unmount};

use crate::audit::Found;
use crate::owners::Owners;

/// Who works on a snapshot for a while holds (`leases::Hold`), or is done with it sooner than this.
const GRACE_NS: i64 = 60_000_000_000;

/// Mounts below the daemon's directories that are of no task. Those below `state` are unmounted when it heals; what
/// somebody mounted below `root` is only told of.
pub(crate) async fn mounts(owners: &Owners, is_healing: bool) -> Result<Vec<Found>> {
    let daemon = owners.daemon()?;
    let (root, state) = (daemon.root.clone(), daemon.state.clone());
    let candidates = blocking::run("list the mounts", move || {
        let points = mount::seen()?.into_iter().map(|seen| seen.target);
        Ok(points.filter(|point| is_suspect(point, &root, &state)).collect::<Vec<_>>())
    });
    let mut found = Vec::new();
    // From the inside out: what was mounted last goes first.
    for point in candidates.await?.into_iter().rev() {
        if let Some((namespace, id)) = task(&point, &daemon.state)
            && has_container(owners, namespace, &id).await?
        {
            continue;
        }
        let is_ours = point.starts_with(&daemon.state);
        let mut detail = match is_ours {
            true => "a mount that no task has; heal, or unmount it".to_owned(),
            false => "a mount that is none of capstan's; unmount it by hand, or mount it elsewhere"
                .to_owned(),
        };
        let mut is_mended = false;
        if is_healing && is_ours {
            match remove(point.clone()).await {
                Ok(()) => is_mended = true,
                Err(error) => detail = format!("{detail} ({})", error.message()),
            }
        }
        let what = point.to_string_lossy().into_owned();
        let finding = Finding { namespace: None, what, flaw: Flaw::Leftover, detail };
        found.push(Found { finding, is_mended });
    }
    Ok(found)
}

async fn remove(point: PathBuf) -> Result<()> {
    blocking::run("unmount what is left over", move || {
        // Not lazily: what is still in use is not left over.
        unmount(&point, UnmountFlags::NOFOLLOW)
            .map_err(|error| Error::io(format!("unmount {}", point.display()), error))
    })
    .await
}

async fn has_container(owners: &Owners, namespace: Namespace, id: &str) -> Result<bool> {
    let wanted = Resource::Container(id.to_owned());
    let nodes = owners.containers.send(containers::Nodes(namespace)).await?;
    Ok(nodes.iter().any(|node| node.resource == wanted))
}

/// Whether a mount is below one of the directories and may be nobody's. A plugin's directory may be a disk of its own,
/// and what a snapshotter mounts below its own is its business.
fn is_suspect(point: &Path, root: &Path, state: &Path) -> bool {
    let Some(below) = [root, state].iter().find_map(|dir| point.strip_prefix(dir).ok()) else {
        return false;
    };
    let mut parts = below.iter().map(|part| part.to_string_lossy());
    let Some(first) = parts.next() else { return false };
    // Plugin ids are `kind.name`.
    let is_plugins = first.contains('.') && parts.next().is_none();
    !is_plugins && !first.starts_with("snapshotter.")
}

/// The task in whose directory a path is.
fn task(point: &Path, state: &Path) -> Option<(Namespace, String)> {
    let below = point.strip_prefix(state).ok()?;
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    match parts.as_slice() {
        [runtime, tasks, namespace, id, ..]
            if runtime.starts_with("runtime.") && tasks == "tasks" =>
        {
            Some((Namespace::parse(namespace).ok()?, id.to_string()))
        }
        _ => None,
    }
}

/// Snapshots that were made for an operation which is over: unpacks without a hold, root filesystems without a
/// container.
pub(crate) async fn snapshots(
    owners: &Owners,
    namespace: &Namespace,
    is_healing: bool,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (name, link) in owners.snapshotters()? {
        let nodes = match link.send(Nodes(namespace.clone())).await {
            Err(error) if error.class() == Class::Unimplemented => continue,
            nodes => nodes?,
        };
        // Asked for afterwards: who had begun before the list was made, and holds, is found.
        let made: Vec<Node> =
            nodes.into_iter().filter(|node| node.labels.contains_key(LABEL_OWNER)).collect();
        if made.is_empty() {
            continue;
        }
        let is_held = owners.is_held(namespace).await?;
        let containers = owners.containers.send(containers::Nodes(namespace.clone())).await?;
        let now = clock::now_unix_ns();
        for node in made {
            let Resource::Snapshot { key, .. } = &node.resource else { continue };
            let has_container =
                containers.iter().any(|container| container.references.contains(&node.resource));
            if is_left(&node, is_held, has_container, now)
                && is_there(&link, namespace, key).await?
            {
                found.push(told(&link, namespace, &name, key, is_healing).await);
            }
        }
    }
    Ok(found)
}

/// Whether nobody works on a snapshot any more, as far as can be told.
fn is_left(node: &Node, is_held: bool, has_container: bool, now_unix_ns: i64) -> bool {
    let is_old = now_unix_ns.saturating_sub(node.used_at_unix_ns) > GRACE_NS;
    match node.labels.get(LABEL_OWNER).map(String::as_str) {
        Some("unpack") => is_old && !is_held,
        Some("container") => is_old && !has_container,
        // Of others it is not known how long they take.
        _ => false,
    }
}

async fn is_there(link: &Link<Snapshotter>, namespace: &Namespace, key: &str) -> Result<bool> {
    match link.send(Stat { namespace: namespace.clone(), key: key.into() }).await {
        Ok(info) => Ok(info.labels.contains_key(LABEL_OWNER)),
        Err(error) if error.class() == Class::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn told(
    link: &Link<Snapshotter>,
    namespace: &Namespace,
    name: &str,
    key: &str,
    is_healing: bool,
) -> Found {
    let what = Resource::Snapshot { snapshotter: name.into(), key: key.into() }.to_string();
    let mut detail = "an operation that is over left it; heal, or remove it".to_owned();
    let mut is_mended = false;
    if is_healing {
        match link.send(Remove { namespace: namespace.clone(), key: key.into() }).await {
            Ok(()) => is_mended = true,
            Err(error) => detail = format!("{detail} ({})", error.message()),
        }
    }
    let namespace = Some(namespace.clone());
    Found { finding: Finding { namespace, what, flaw: Flaw::Leftover, detail }, is_mended }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Labels;

    #[test]
    fn only_what_is_below_and_no_plugins_own_is_suspect() {
        let (root, state) = (Path::new("/r"), Path::new("/s"));
        for (point, want) in [
            ("/", false),
            ("/r", false),
            ("/rest", false),
            ("/r/content.local", false),
            ("/r/snapshotter.btrfs/volume", false),
            ("/r/left", true),
            ("/s/runtime.linux", false),
            ("/s/runtime.linux/tasks/default/web/rootfs", true),
            ("/s/differ.tar/mnt", true),
            ("/s/x y", true),
        ] {
            assert_eq!(is_suspect(Path::new(point), root, state), want, "{point}");
        }
        let found = task(Path::new("/s/runtime.linux/tasks/here/web/rootfs/x"), state);
        assert_eq!(found, Some((Namespace::parse("here").unwrap(), "web".to_owned())));
        assert_eq!(task(Path::new("/s/runtime.linux/tasks/here"), state), None);
        assert_eq!(task(Path::new("/r/runtime.linux/tasks/here/web"), state), None);
    }

    #[test]
    fn what_somebody_works_on_is_not_left_over() {
        let node = |owner: &str| Node {
            resource: Resource::Snapshot { snapshotter: "s".into(), key: "k".into() },
            references: Vec::new(),
            root: "it is active".into(),
            size: 0,
            created_at_unix_ns: 0,
            used_at_unix_ns: 1000,
            labels: Labels::from([(LABEL_OWNER.to_owned(), owner.to_owned())]),
        };
        let later = 1001 + GRACE_NS;
        assert!(is_left(&node("unpack"), false, false, later));
        assert!(!is_left(&node("unpack"), true, false, later));
        assert!(!is_left(&node("unpack"), false, false, later - 1));
        assert!(is_left(&node("container"), true, false, later));
        assert!(!is_left(&node("container"), false, true, later));
        assert!(!is_left(&node("container"), false, false, later - 1));
        assert!(!is_left(&node("checkpoint"), false, false, later));
    }
}
