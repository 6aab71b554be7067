//! From a task to the runtime that has it.

use std::sync::Arc;

use capstan_sdk::contract::containers::{Container, Get, Rootfs};
use capstan_sdk::contract::runtime::{Create, Stdio, TaskInfo, TaskKey};
use capstan_sdk::contract::{Containers, Runtime, Snapshotter};
use capstan_sdk::{Context, Link, Result};

/// Finds runtimes.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    context: Context,
    pub(crate) containers: Link<Containers>,
}

impl Router {
    pub(crate) fn new(context: Context) -> Result<Self> {
        let containers = context.link::<Containers>()?;
        Ok(Self { context, containers })
    }

    pub(crate) async fn container(&self, key: &TaskKey) -> Result<Container> {
        let get = Get { namespace: key.namespace.clone(), id: key.id.clone() };
        self.containers.send(get).await
    }

    /// The plugin `snapshotter.<name>`.
    pub(crate) fn snapshotter(&self, name: &str) -> Result<Link<Snapshotter>> {
        self.context.link_named::<Snapshotter>(name)
    }

    /// The plugin for a runtime's name: the one that is called so, else the preferred one, which knows
    /// several runtimes by name.
    pub(crate) fn runtime(&self, name: &str) -> Result<Link<Runtime>> {
        if !name.is_empty()
            && let Ok(own) = self.context.link_named::<Runtime>(name)
        {
            return Ok(own);
        }
        self.context.link::<Runtime>()
    }

    /// The runtime that has a container's task.
    pub(crate) async fn runtime_of(&self, key: &TaskKey) -> Result<Link<Runtime>> {
        let container = self.container(key).await?;
        self.runtime(&container.runtime)
    }

    /// Makes the task of a container.
    pub(crate) async fn make_task(
        &self,
        key: &TaskKey,
        container: &Container,
        stdio: Stdio,
    ) -> Result<TaskInfo> {
        let (namespace, id) = (key.namespace.clone(), key.id.clone());
        let rootfs = self.containers.send(Rootfs { namespace, id }).await?;
        let create = Create {
            key: key.clone(),
            runtime: container.runtime.clone(),
            spec: Arc::from(container.spec.as_slice()),
            rootfs,
            stdio,
            has_terminal: has_terminal(&container.spec),
        };
        self.runtime(&container.runtime)?.send(create).await
    }

    /// All runtime plugins.
    pub(crate) fn runtimes(&self) -> Result<Vec<Link<Runtime>>> {
        let plugins = self.context.kernel()?.plugins();
        let names = plugins.iter().filter_map(|plugin| plugin.id.strip_prefix("runtime."));
        names.map(|name| self.context.link_named::<Runtime>(name)).collect()
    }
}

pub(crate) fn has_terminal(spec: &[u8]) -> bool {
    let spec: serde_json::Value = serde_json::from_slice(spec).unwrap_or_default();
    spec["process"]["terminal"].as_bool().unwrap_or(false)
}
