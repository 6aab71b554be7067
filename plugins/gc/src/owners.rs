//! Everybody who has something.

use capstan_sdk::contract::graph::Node;
use capstan_sdk::contract::leases::Hold;
use capstan_sdk::contract::{
    Containers, Content, Differ, GcPolicy, Images, Leases, Metadata, Namespaces, Page, Snapshotter,
    Transfer, containers, content, images, leases, namespaces, snapshotter,
};
use capstan_sdk::{Class, Context, DaemonInfo, Error, Link, Namespace, Result, clock};
use tracing::debug;

use crate::graph::Graph;

/// The owner of an audit's holds.
const AUDIT: &str = "audit";

/// Links to all owners. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    context: Context,
    pub(crate) metadata: Link<Metadata>,
    pub(crate) content: Link<Content>,
    pub(crate) images: Link<Images>,
    pub(crate) containers: Link<Containers>,
    leases: Link<Leases>,
    namespaces: Link<Namespaces>,
    pub(crate) transfer: Link<Transfer>,
    pub(crate) differ: Link<Differ>,
}

/// A look at a namespace.
pub(crate) struct Look {
    pub(crate) graph: Graph,
    /// When it began: what is used later is not removed.
    pub(crate) began_at_unix_ns: i64,
}

impl Owners {
    pub(crate) fn new(context: Context) -> Result<Self> {
        Ok(Self {
            metadata: context.link()?,
            content: context.link()?,
            images: context.link()?,
            containers: context.link()?,
            leases: context.link()?,
            namespaces: context.link()?,
            transfer: context.link()?,
            differ: context.link()?,
            context,
        })
    }

    /// The asked-for namespace, or all.
    pub(crate) async fn namespaces(&self, asked: Option<Namespace>) -> Result<Vec<Namespace>> {
        match asked {
            Some(name) => {
                self.namespaces.send(namespaces::Get(name.clone())).await?;
                Ok(vec![name])
            }
            None => {
                let all = self.namespaces.send(namespaces::List(Page::all())).await?;
                Ok(all.items.into_iter().map(|namespace| namespace.name).collect())
            }
        }
    }

    /// The daemon's directories, among others.
    pub(crate) fn daemon(&self) -> Result<DaemonInfo> {
        Ok(self.context.kernel()?.daemon())
    }

    /// What is used in a namespace while this is held is not collected.
    pub(crate) async fn hold(&self, namespace: &Namespace) -> Result<Hold> {
        let owner = AUDIT.into();
        self.leases.send(leases::TakeHold { namespace: namespace.clone(), owner }).await
    }

    /// Whether an operation is under way in a namespace, other than an audit.
    pub(crate) async fn is_held(&self, namespace: &Namespace) -> Result<bool> {
        let held = self.leases.send(leases::Holds).await?;
        Ok(held.iter().any(|held| held.namespace == *namespace && held.owner != AUDIT))
    }

    /// All snapshotters that run, by their name without kind. One that failed to start has nothing that could be asked
    /// or removed.
    pub(crate) fn snapshotters(&self) -> Result<Vec<(String, Link<Snapshotter>)>> {
        self.context.links()
    }

    pub(crate) fn snapshotter(&self, name: &str) -> Result<Link<Snapshotter>> {
        self.context.link_named(name)
    }

    /// All policies that run.
    pub(crate) fn policies(&self) -> Result<Vec<Link<GcPolicy>>> {
        let plugins = self.context.kernel()?.plugins();
        let names = plugins.iter().filter_map(|plugin| {
            let name = plugin.id.strip_prefix("gc-policy.")?;
            (plugin.state == capstan_sdk::PluginState::Running).then_some(name)
        });
        names.map(|name| self.context.link_named(name)).collect()
    }

    /// Asks every owner what it has in a namespace.
    ///
    /// # Errors
    /// `Unavailable` and others: one does not answer.
    pub(crate) async fn look(&self, namespace: &Namespace) -> Result<Look> {
        // The order is what makes it right without locks: the time first; then holds, so that an operation that ends
        // meanwhile was held or has given its things a name; then what there is.
        let began_at_unix_ns = clock::steady_unix_ns();
        let held = self.leases.send(leases::Holds).await?;
        let held_since = held
            .into_iter()
            .filter(|held| held.namespace == *namespace)
            .min_by_key(|held| held.since_unix_ns)
            .map(|held| (held.since_unix_ns, held.owner));
        let here = || namespace.clone();
        let mut nodes = self.images.send(images::Nodes(here())).await?;
        nodes.extend(self.containers.send(containers::Nodes(here())).await?);
        nodes.extend(self.leases.send(leases::Nodes(here())).await?);
        nodes.extend(self.content.send(content::Nodes(here())).await?);
        for (name, link) in self.snapshotters()? {
            nodes.extend(snapshots(&name, &link, here()).await?);
        }
        let graph = Graph::new(nodes, held_since.as_ref(), clock::now_unix_ns());
        Ok(Look { graph, began_at_unix_ns })
    }
}

async fn snapshots(
    name: &str,
    link: &Link<Snapshotter>,
    namespace: Namespace,
) -> Result<Vec<Node>> {
    match link.send(snapshotter::Nodes(namespace)).await {
        // Of one that knows nothing of graphs nothing can be collected.
        Err(error) if error.class() == Class::Unimplemented => {
            debug!(snapshotter = name, "takes no part in garbage collection");
            Ok(Vec::new())
        }
        nodes => nodes.map_err(|error: Error| error.at(format!("snapshotter {name}"))),
    }
}
