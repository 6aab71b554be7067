//! The supervisor: starts plugins in order, and gives one that ended a new instance from its factory.
//!
//! One for one: a plugin's end is its own. Its dependents are not restarted; their links find
//! nobody for a while and answer `Unavailable`, then find the new instance.

mod policy;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_schema::{Error, Result};
use capstan_sdk::{Context, DaemonInfo, PluginDescriptor, PluginState, Running, clock};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tracing::{error, info, warn};

use self::policy::{Policy, Verdict};
use crate::graph::{self, Node};
use crate::{Config, Registry};

/// How long a factory may take. Recovery of a large store belongs behind the start, not into it.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// The running plugins of a daemon.
#[derive(Debug)]
pub struct Kernel {
    registry: Arc<Registry>,
    /// In start order.
    keepers: Vec<Keeper>,
}

/// The task that looks after one plugin.
#[derive(Debug)]
struct Keeper {
    id: &'static str,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Kernel {
    /// Starts all plugins that the configuration admits. It must run inside an actix system.
    ///
    /// A plugin that does not start is reported and skipped, with those that require it.
    ///
    /// # Errors
    /// What makes any boot impossible: a configuration that does not decode, a cycle, a duplicate.
    pub async fn boot(
        config: &Config,
        descriptors: &[PluginDescriptor],
        daemon: DaemonInfo,
    ) -> Result<Self> {
        let nodes: Vec<Node> = descriptors.iter().map(node).collect();
        let order = graph::order(&nodes)?;
        let config = config.clone().complete(descriptors)?;
        let registry = Arc::new(Registry::new(daemon));
        let ranked: Vec<(String, i32)> = descriptors
            .iter()
            .filter(|d| config.select.admits(d.info.id))
            .map(|d| (d.info.id.to_owned(), d.info.rank))
            .collect();
        registry.prefer(graph::preferred(&ranked, &config.prefer)?);
        for &index in &order {
            let descriptor = descriptors[index];
            let section = config.plugins.get(descriptor.info.id).cloned().unwrap_or_default();
            let state = match config.select.admits(descriptor.info.id) {
                true => PluginState::Starting,
                false => PluginState::Disabled,
            };
            registry.register(descriptor, section, state);
        }
        let mut kernel = Self { registry, keepers: Vec::new() };
        for &index in &order {
            let descriptor = descriptors[index];
            if config.select.admits(descriptor.info.id) {
                let section = config.plugins.get(descriptor.info.id).cloned().unwrap_or_default();
                kernel.start(descriptor, section, &config).await;
            }
        }
        Ok(kernel)
    }

    async fn start(&mut self, descriptor: PluginDescriptor, section: toml::Table, config: &Config) {
        let id = descriptor.info.id;
        if let Some(reason) = self.registry.unmet(descriptor.info.requires) {
            warn!(plugin = id, reason, "skipped");
            self.registry.set_down(id, PluginState::Skipped, &reason);
            return;
        }
        let context = Context::new(
            id,
            descriptor.info.requires,
            &config.root,
            &config.state,
            Arc::clone(&self.registry) as _,
            Arc::clone(&self.registry) as _,
        );
        let factory = Factory { descriptor, section, context };
        let begun = Instant::now();
        match factory.make().await {
            Ok(running) => {
                let elapsed = begun.elapsed();
                let (stop, stopped) = oneshot::channel();
                let instance = Instance::go_live(id, &self.registry, running);
                let registry = Arc::clone(&self.registry);
                let task = actix_rt::spawn(keep(factory, instance, registry, stopped));
                self.keepers.push(Keeper { id, stop, task });
                info!(plugin = id, ?elapsed, "started");
            }
            Err(error) => {
                error!(plugin = id, %error, "failed to start");
                self.registry.set_down(id, PluginState::Failed, &error.to_string());
            }
        }
    }

    /// What is live.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Ends all plugins, the last started first.
    pub async fn stop(self) {
        for keeper in self.keepers.into_iter().rev() {
            let _ = keeper.stop.send(());
            if let Err(error) = keeper.task.await {
                error!(plugin = keeper.id, %error, "its keeper failed");
            }
        }
    }
}

fn node(descriptor: &PluginDescriptor) -> Node {
    Node {
        id: descriptor.info.id.into(),
        requires: descriptor.info.requires.iter().map(|&r| r.into()).collect(),
    }
}

/// What makes instances of one plugin.
struct Factory {
    descriptor: PluginDescriptor,
    section: toml::Table,
    context: Context,
}

impl Factory {
    async fn make(&self) -> Result<Running> {
        let future = (self.descriptor.start)(self.section.clone(), self.context.clone());
        // On a task of its own, so that a panic in the factory ends there.
        let mut task = actix_rt::spawn(AssertUnwindSafe(future).0);
        match tokio::time::timeout(START_DEADLINE, &mut task).await {
            Ok(Ok(made)) => made,
            Ok(Err(ended)) => Err(Error::internal(describe(ended))),
            Err(_) => {
                task.abort();
                Err(Error::unavailable(format!("did not start within {START_DEADLINE:?}")))
            }
        }
    }
}

/// A live instance.
struct Instance {
    actor: JoinHandle<()>,
    since: Instant,
}

impl Instance {
    fn go_live(id: &str, registry: &Registry, running: Running) -> Self {
        registry.set_live(id, running.exports, clock::now_unix_ns());
        Self { actor: running.actor, since: Instant::now() }
    }
}

/// Looks after one plugin until it is stopped or given up.
async fn keep(
    factory: Factory,
    mut instance: Instance,
    registry: Arc<Registry>,
    mut stopped: oneshot::Receiver<()>,
) {
    let id = factory.descriptor.info.id;
    let mut policy = Policy::default();
    loop {
        let ended = tokio::select! {
            biased;
            _ = &mut stopped => {
                registry.set_down(id, PluginState::Stopped, "");
                instance.actor.abort();
                let _ = instance.actor.await;
                return;
            }
            ended = &mut instance.actor => ended,
        };
        let mut reason = match ended {
            Ok(()) => "it stopped by itself".to_owned(),
            Err(error) => describe(error),
        };
        let mut lived = instance.since.elapsed();
        instance = loop {
            let Verdict::Restart(wait) = policy.ended(lived) else {
                error!(plugin = id, reason, "given up after too many restarts");
                registry.set_down(id, PluginState::Failed, &format!("given up: {reason}"));
                return;
            };
            error!(plugin = id, reason, ?wait, "ended; a new instance follows");
            registry.set_down(id, PluginState::Restarting, &reason);
            tokio::select! {
                biased;
                _ = &mut stopped => {
                    registry.set_down(id, PluginState::Stopped, "");
                    return;
                }
                () = tokio::time::sleep(wait) => {}
            }
            match factory.make().await {
                Ok(running) => {
                    info!(plugin = id, "restarted");
                    break Instance::go_live(id, &registry, running);
                }
                Err(error) => {
                    reason = error.to_string();
                    lived = Duration::ZERO;
                }
            }
        };
    }
}

/// Why a task ended, for people.
fn describe(error: JoinError) -> String {
    if !error.is_panic() {
        return "it was cancelled".into();
    }
    let payload = error.into_panic();
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    format!("panicked: {text}")
}
