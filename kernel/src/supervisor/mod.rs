//! The supervisor: starts plugins in order, and gives one that ended a new instance from its factory.
//!
//! One for one: a plugin's end is its own. Its dependents are not restarted; their calls wait a moment for the new
//! instance, or answer `Unavailable`. Each plugin has a [`keeper`], which alone starts and ends its instances;
//! [`control`] changes which plugins there are, and [`reload`] takes a new configuration.

mod control;
mod keeper;
mod policy;
mod reload;
mod store;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use capstan_schema::Result;
use capstan_sdk::{DaemonInfo, PluginState};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

pub(crate) use self::keeper::Plan;
use self::keeper::{Keeper, Order};
use self::store::Store;
use crate::graph::{self, Node};
use crate::registry::Orders;
use crate::{Candidate, Config, Loader, Registry};

/// Reads the configuration anew: file, and the flags that beat it.
pub type Reread = Box<dyn Fn() -> Result<Config>>;

/// The running plugins of a daemon.
#[derive(Debug)]
pub struct Kernel {
    shared: Rc<Shared>,
    /// Carries out what plugins order.
    dispatcher: JoinHandle<()>,
    /// Starts what was skipped, once what it requires is there.
    reviver: JoinHandle<()>,
}

/// What a daemon starts from.
pub struct Setup {
    /// As it was read.
    pub config: Config,
    /// What is compiled in.
    pub builtins: Vec<Candidate>,
    /// For the rest.
    pub loader: Loader,
    /// For SIGHUP.
    pub reread: Reread,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Setup({} built in)", self.builtins.len())
    }
}

struct Shared {
    registry: Arc<Registry>,
    builtins: Vec<Candidate>,
    loader: Loader,
    store: Store,
    reread: Reread,
    /// In effect, and complete.
    config: RefCell<Config>,
    /// As it was before the defaults were filled in: what is said in it comes before what a library says.
    said: RefCell<Config>,
    keepers: RefCell<BTreeMap<Arc<str>, Keeper>>,
    /// Ids in start order.
    order: RefCell<Vec<Arc<str>>>,
    /// Held by whoever changes which plugins there are.
    structure: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.registry)
    }
}

/// All plugins of a configuration: what is compiled in, and what it loads.
///
/// # Errors
/// `InvalidArgument`: two of one id. Those of a library that cannot be loaded.
pub async fn gather(
    config: &Config,
    builtins: &[Candidate],
    loader: &Loader,
) -> Result<Vec<Candidate>> {
    let mut all = builtins.to_vec();
    all.extend(loader.directories(&config.plugin_dirs).await?);
    for (id, load) in &config.load {
        let candidate = loader.section(id, load).await?;
        // Said by name, it may take the place of one that is compiled in.
        all.retain(|other| other.manifest.id != candidate.manifest.id);
        all.push(candidate);
    }
    Ok(all)
}

impl Kernel {
    /// Starts all plugins that the configuration admits. It must run inside an actix system.
    ///
    /// A plugin that does not start is reported and skipped, with those that require it.
    ///
    /// # Errors
    /// What makes any boot impossible: a configuration that does not decode, a library in it that cannot be loaded,
    /// a cycle, a duplicate.
    pub async fn boot(setup: Setup, daemon: DaemonInfo) -> Result<Self> {
        let Setup { config: said, builtins, loader, reread } = setup;
        let mut candidates = gather(&said, &builtins, &loader).await?;
        let store = Store::open(&said.root)?;
        store.restore(&loader, &said, &mut candidates).await?;
        let nodes = nodes(&candidates);
        let order = graph::order(&nodes)?;
        let config = said.clone().complete(&candidates).await?;
        let preferred = preferred(&candidates, &config)?;
        let (registry, orders) = Registry::new(daemon);
        registry.prefer(preferred);
        let shared = Rc::new(Shared {
            registry: Arc::new(registry),
            builtins,
            loader,
            store,
            reread,
            config: RefCell::new(config),
            said: RefCell::new(said),
            keepers: RefCell::default(),
            order: RefCell::default(),
            structure: tokio::sync::Mutex::default(),
        });
        let plans: Vec<Plan> =
            order.iter().map(|&index| shared.plan(candidates[index].clone())).collect();
        let mut starts: Vec<Option<Arc<str>>> = vec![None; candidates.len()];
        for plan in &plans {
            let is_admitted = shared.config.borrow().select.admits(&plan.candidate.manifest.id);
            let state = if is_admitted { PluginState::Starting } else { PluginState::Disabled };
            shared.registry.register(plan, state);
        }
        for (&index, plan) in order.iter().zip(plans) {
            let id = Arc::clone(&plan.candidate.manifest.id);
            if shared.config.borrow().select.admits(&id) {
                starts[index] = Some(id);
            } else {
                plan.candidate.factory.rest();
            }
            shared.keep(plan);
        }
        shared.start_all(&order, &starts, &graph::behind(&nodes)).await;
        let dispatcher = actix_rt::spawn(dispatch(Rc::clone(&shared), orders));
        let reviver = actix_rt::spawn(revive(Rc::clone(&shared)));
        Ok(Self { shared, dispatcher, reviver })
    }

    /// What is live.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// Ends all plugins, the last started first.
    pub async fn stop(self) {
        self.dispatcher.abort();
        self.reviver.abort();
        let order = self.shared.order.take();
        for id in order.iter().rev() {
            let keeper = self.shared.keepers.borrow_mut().remove(id);
            let Some(keeper) = keeper else { continue };
            if let Err(error) = keeper.stop().await {
                error!(plugin = &**id, %error, "its keeper failed");
            }
        }
    }
}

impl Shared {
    fn plan(&self, candidate: Candidate) -> Plan {
        let section = self.config.borrow().section(&candidate.manifest.id);
        Plan { candidate, section }
    }

    /// Gives a registered plugin its keeper.
    fn keep(&self, plan: Plan) {
        let id = Arc::clone(&plan.candidate.manifest.id);
        let config = self.config.borrow();
        let keeper = Keeper::new(plan, &self.registry, &config);
        self.order.borrow_mut().push(Arc::clone(&id));
        self.keepers.borrow_mut().insert(id, keeper);
    }

    /// Starts plugins, each as soon as all that it comes behind have started, or did not: what one of them waits
    /// for on a disk, others need not wait for.
    async fn start_all(
        self: &Rc<Self>,
        order: &[usize],
        ids: &[Option<Arc<str>>],
        behind: &[Vec<usize>],
    ) {
        let mut is_settled: Vec<bool> = ids.iter().map(Option::is_none).collect();
        let mut waiting: Vec<(usize, &Arc<str>)> =
            order.iter().filter_map(|&index| Some((index, ids[index].as_ref()?))).collect();
        let mut starts = JoinSet::new();
        loop {
            waiting.retain(|&(index, id)| {
                if !behind[index].iter().all(|&before| is_settled[before]) {
                    return true;
                }
                let (shared, id) = (Rc::clone(self), Arc::clone(id));
                starts.spawn_local(async move {
                    // What comes of it is in the registry.
                    let _ = shared.order(&id, Order::start).await;
                    index
                });
                false
            });
            match starts.join_next().await {
                Some(index) => is_settled[index.expect("an order is sent and waited for")] = true,
                None => return,
            }
        }
    }

    /// Takes a plugin out, when its keeper has ended it.
    async fn remove(&self, id: &str) {
        let keeper = self.keepers.borrow_mut().remove(id);
        if let Some(keeper) = keeper
            && let Err(error) = keeper.stop().await
        {
            error!(plugin = id, %error, "its keeper failed");
        }
        self.order.borrow_mut().retain(|other| **other != *id);
        self.registry.unregister(id);
    }

    /// Has a keeper do something.
    async fn order(
        &self,
        id: &str,
        order: impl FnOnce(tokio::sync::oneshot::Sender<Result<()>>) -> Order,
    ) -> Result<()> {
        let none = || {
            capstan_schema::Error::not_found(format!(
                "there is no plugin {id}; see `capstan plugins ls`"
            ))
        };
        let (reply, answer) = tokio::sync::oneshot::channel();
        let sent = self.keepers.borrow().get(id).map(|keeper| keeper.send(order(reply)));
        sent.ok_or_else(none)?;
        answer.await.unwrap_or_else(|_| Err(none()))
    }

    /// The plans that are in effect.
    fn plans(&self) -> Vec<Plan> {
        let keepers = self.keepers.borrow();
        self.order.borrow().iter().filter_map(|id| keepers.get(id)).map(Keeper::plan).collect()
    }
}

fn nodes(candidates: &[Candidate]) -> Vec<Node> {
    let node = |candidate: &Candidate| Node {
        id: candidate.manifest.id.to_string(),
        requires: candidate.manifest.requires.to_vec(),
    };
    candidates.iter().map(node).collect()
}

fn preferred(candidates: &[Candidate], config: &Config) -> Result<BTreeMap<String, String>> {
    let ranked: Vec<(String, i32)> = candidates
        .iter()
        .filter(|candidate| config.select.admits(&candidate.manifest.id))
        .map(|candidate| (candidate.manifest.id.to_string(), candidate.manifest.rank))
        .collect();
    graph::preferred(&ranked, &config.prefer)
}

/// Each order on a task of its own: one that takes long delays nobody else's.
async fn dispatch(shared: Rc<Shared>, mut orders: Orders) {
    while let Some((change, reply)) = orders.recv().await {
        let shared = Rc::clone(&shared);
        actix_rt::spawn(async move {
            let begun = Instant::now();
            let what = format!("{change:?}");
            let outcome = shared.control(change).await;
            match &outcome {
                Ok(ids) => info!(what, plugins = ids.join(" "), elapsed = ?begun.elapsed(), "done"),
                Err(error) => warn!(what, %error, "refused"),
            }
            // Whoever ordered it may be gone.
            let _ = reply.send(outcome);
        });
    }
}

/// A plugin that was skipped is started once what it requires is there.
async fn revive(shared: Rc<Shared>) {
    let mut changes = capstan_sdk::Lookup::changes(&*shared.registry);
    while changes.changed().await.is_ok() {
        let order = shared.order.borrow().clone();
        for id in order {
            let is_skipped = shared.registry.is_waiting(&id);
            let plan = shared.keepers.borrow().get(&id).map(Keeper::plan);
            if let (true, Some(plan)) = (is_skipped, plan)
                && shared.registry.unmet(&plan.candidate.manifest.requires).is_none()
            {
                let _ = shared.order(&id, Order::start).await;
            }
        }
    }
}
