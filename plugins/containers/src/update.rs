//! Changes of a record: what the mask names, and nothing else. Two changes at once both happen.

use std::fs;

use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::containers::{Container, Label, Update};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::snapshotter::{self, LABEL_SIZE};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::{ContainerId, Error, Labels, Namespace, Result, clock, merge_labels};

use crate::plugin::{LocalContainers, missing};
use crate::{record, spec};

/// The limit of the writable layer, which holds at once.
const STORAGE: &str = "storageBytes";

/// What an empty mask means.
const ALL: [&str; 5] = ["labels", "image", "runtime", "spec", "rootfs"];

impl LocalContainers {
    pub(crate) async fn label(self, label: Label) -> Result<Container> {
        let Label { namespace, id, labels } = label;
        self.change(&namespace, &id, |container| {
            merge_labels(&mut container.labels, &labels);
            Ok(())
        })
        .await
    }

    pub(crate) async fn update(self, update: Update) -> Result<Container> {
        let Update { namespace, id, wanted, mask } = update;
        let mask = match mask.is_empty() {
            true => ALL.map(str::to_owned).to_vec(),
            false => mask,
        };
        let change = |container: &mut Container| {
            for field in &mask {
                self.change_field(&namespace, container, &wanted, field)?;
            }
            Ok(())
        };
        if mask.iter().any(|field| field == STORAGE) {
            let container = self.get(&namespace, &id).await?;
            // What is wrong with another field is found before the limit is another.
            change(&mut container.clone())?;
            self.limit(&namespace, container, wanted.storage_bytes).await?;
        }
        self.change(&namespace, &id, change).await
    }

    /// Has the snapshotter change the limit of a writable layer.
    async fn limit(&self, namespace: &Namespace, container: Container, bytes: u64) -> Result<()> {
        if container.snapshotter.is_empty() {
            return Err(Error::invalid(format!(
                "{STORAGE}: container {} has no writable layer of its own: a directory is used as it is",
                container.id
            )));
        }
        let link = self.context.link_named::<Snapshotter>(&container.snapshotter)?;
        let value = if bytes == 0 { String::new() } else { bytes.to_string() };
        let labels = Labels::from([(LABEL_SIZE.into(), value)]);
        let (namespace, key) = (namespace.clone(), container.snapshot_key);
        link.send(snapshotter::Label { namespace, key, labels }).await.map(drop)
    }

    fn change_field(
        &self,
        namespace: &Namespace,
        container: &mut Container,
        wanted: &Container,
        field: &str,
    ) -> Result<()> {
        match field {
            "labels" => container.labels = wanted.labels.clone(),
            "image" => container.image = wanted.image.clone(),
            "runtime" => {
                container.runtime = match wanted.runtime.is_empty() {
                    true => self.config.runtime.clone(),
                    false => wanted.runtime.clone(),
                };
            }
            "spec" => {
                let cgroup = spec::cgroup(&container.spec)
                    .unwrap_or_else(|| self.cgroups_path(namespace, &container.id, ""));
                container.spec = spec::adopt(&wanted.spec, &cgroup)?;
            }
            STORAGE => container.storage_bytes = wanted.storage_bytes,
            "rootfs" => {
                check_rootfs(container, &wanted.rootfs)?;
                container.rootfs = wanted.rootfs.clone();
            }
            field => match field.strip_prefix("labels.") {
                Some(key) if !key.is_empty() => {
                    let value = wanted.labels.get(key).cloned().unwrap_or_default();
                    merge_labels(&mut container.labels, &Labels::from([(key.into(), value)]));
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "cannot update {field:?} field: name {}, {STORAGE} or labels.KEY",
                        ALL.join(", ")
                    )));
                }
            },
        }
        Ok(())
    }

    async fn change(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        change: impl Fn(&mut Container) -> Result<()>,
    ) -> Result<Container> {
        revise(&self.metadata, &record::key(namespace, id), |old| {
            let mut container = record::read(id.as_str(), old.ok_or_else(|| missing(id))?)
                .map_err(|error| error.at(format!("container {id}")))?;
            change(&mut container)?;
            container.updated_at_unix_ns = clock::now_unix_ns();
            let labels: Vec<String> =
                container.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let event = NewEvent::new(namespace, "/containers/update")
                .with("id", id)
                .with("image", &container.image)
                .with("labels", labels.join(","))
                .with("rootfs", &container.rootfs);
            Ok(Revision::write(record::write(&container), container).with(event))
        })
        .await
    }
}

fn check_rootfs(container: &Container, rootfs: &str) -> Result<()> {
    if rootfs.is_empty() {
        return match container.snapshotter.is_empty() {
            false => Ok(()),
            true => Err(Error::invalid("rootfs: the container has no snapshot, so it needs one")),
        };
    }
    if !rootfs.starts_with('/') || !fs::metadata(rootfs).is_ok_and(|about| about.is_dir()) {
        return Err(Error::invalid(format!(
            "root filesystem {rootfs:?}: write an absolute path of a directory"
        )));
    }
    Ok(())
}
