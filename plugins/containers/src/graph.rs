//! What containers keep, and whether it is there.

use capstan_sdk::contract::containers::Container;
use capstan_sdk::contract::graph::{Finding, Flaw, Node, Resource};
use capstan_sdk::contract::metadata::{Get, Scan};
use capstan_sdk::contract::snapshotter::Stat;
use capstan_sdk::contract::{Listed, Page, Snapshotter};
use capstan_sdk::{Class, ContainerId, Namespace, Result};

use crate::plugin::LocalContainers;
use crate::record;

impl LocalContainers {
    async fn all(&self, namespace: &Namespace) -> Result<Vec<Container>> {
        let (bucket, page) = (record::BUCKET.into(), Page::all());
        let scan = Scan { bucket, namespace: Some(namespace.clone()), page };
        let rows = self.metadata.send(scan).await?;
        Ok(Listed::decode(&rows, usize::MAX, record::read)?.items)
    }

    pub(crate) async fn nodes(self, namespace: Namespace) -> Result<Vec<Node>> {
        let containers = self.all(&namespace).await?;
        Ok(containers
            .into_iter()
            .map(|container| {
                let image = Some(container.image).filter(|image| !image.is_empty());
                // A container on a directory of somebody's has no snapshot.
                let snapshot = match container.snapshotter.is_empty() {
                    true => None,
                    false => Some(Resource::Snapshot {
                        snapshotter: container.snapshotter,
                        key: container.snapshot_key,
                    }),
                };
                Node {
                    resource: Resource::Container(container.id.to_string()),
                    references: image.map(Resource::Image).into_iter().chain(snapshot).collect(),
                    root: "it is a container".into(),
                    size: 0,
                    created_at_unix_ns: container.created_at_unix_ns,
                    used_at_unix_ns: container.updated_at_unix_ns,
                    labels: container.labels,
                }
            })
            .collect())
    }

    pub(crate) async fn audit(self, namespace: Namespace) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for container in self.all(&namespace).await? {
            if container.snapshotter.is_empty() {
                continue;
            }
            let found = async {
                let link = self.context.link_named::<Snapshotter>(&container.snapshotter)?;
                let key = container.snapshot_key.clone();
                link.send(Stat { namespace: namespace.clone(), key }).await
            };
            let detail = match found.await {
                Ok(_) => continue,
                Err(error) if error.class() == Class::NotFound => format!(
                    "its root filesystem, snapshot {:?} of {}, is gone; remove the container",
                    container.snapshot_key, container.snapshotter
                ),
                Err(error) => return Err(error),
            };
            if self.is_there(&namespace, &container.id).await? {
                findings.push(Finding {
                    namespace: Some(namespace.clone()),
                    what: Resource::Container(container.id.to_string()).to_string(),
                    flaw: Flaw::Missing,
                    detail,
                });
            }
        }
        Ok(findings)
    }

    /// Whether it was not deleted meanwhile.
    async fn is_there(&self, namespace: &Namespace, id: &ContainerId) -> Result<bool> {
        Ok(self.metadata.send(Get(record::key(namespace, id))).await?.is_some())
    }
}
