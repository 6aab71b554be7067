//! The registry: which plugins there are, which are live, and how they are reached.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use capstan_schema::{Class, Error, Namespace, Result};
use capstan_sdk::{
    Absent, Control, DaemonInfo, Exports, Kernel, LocalFuture, Lookup, Manifest, PATIENCE, Peer,
    PluginState, PluginStatus, Provider, Scope, Service, Stats,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::graph::{Requirement, kind_of};
use crate::loader::resident;
use crate::source::Source;
use crate::supervisor::Plan;

/// One registered plugin.
struct Entry {
    manifest: Manifest,
    source: Source,
    config: toml::Table,
    state: PluginState,
    generation: u64,
    restarts: u32,
    last_error: String,
    started_at_unix_ns: i64,
    /// Since when it does not answer, for the length of that.
    down_since: Option<Instant>,
    blackout: Duration,
    pid: u32,
    contract: Option<Arc<dyn Any + Send + Sync>>,
    provides: Vec<String>,
    service: Option<Service>,
    stats: Arc<Stats>,
}

impl Entry {
    fn id(&self) -> &Arc<str> {
        &self.manifest.id
    }

    fn absent(&self) -> Absent {
        let why = if self.last_error.is_empty() { "" } else { ": " };
        let (id, state) = (self.id(), self.state.name());
        Absent {
            error: Error::unavailable(format!("plugin {id} is {state}{why}{}", self.last_error)),
            is_coming: self.state.is_coming(),
        }
    }
}

#[derive(Default)]
struct Tables {
    /// In start order.
    entries: Vec<Entry>,
    /// Kind to id.
    preferred: BTreeMap<String, Arc<str>>,
}

impl Tables {
    fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| **entry.id() == *id)
    }

    fn entry(&self, target: &str) -> Result<&Entry> {
        let preferred = || self.preferred.get(target).and_then(|id| self.find(id));
        self.find(target).or_else(preferred).ok_or_else(|| {
            Error::not_found(format!("there is no plugin {target}; see `capstan plugins ls`"))
        })
    }

    fn live(&self, target: &str) -> Result<&Entry, Absent> {
        let entry = self.entry(target)?;
        if entry.state == PluginState::Running { Ok(entry) } else { Err(entry.absent()) }
    }

    /// What keeps a plugin from working: a requirement that no running plugin meets.
    fn unmet(&self, requires: &[String]) -> Option<String> {
        requires.iter().map(|r| Requirement::parse(r)).find_map(|requirement| {
            let mut candidates =
                self.entries.iter().filter(|entry| requirement.is_met_by(entry.id())).peekable();
            if requirement.is_optional {
                return None;
            }
            let target = &requirement.target;
            if candidates.peek().is_none() {
                return Some(format!("requires {target}, which is not in this daemon"));
            }
            let mut states = Vec::new();
            for entry in candidates {
                if entry.state == PluginState::Running {
                    return None;
                }
                states.push(format!("{} is {}", entry.id(), entry.state.name()));
            }
            Some(format!("requires {target}, but {}", states.join(" and ")))
        })
    }
}

/// All plugins of the daemon. Shared by the supervisor, which changes it, and by links and
/// connections, which look things up.
pub struct Registry {
    daemon: DaemonInfo,
    tables: RwLock<Tables>,
    changes: watch::Sender<u64>,
    /// To the supervisor.
    orders: mpsc::UnboundedSender<(Control, oneshot::Sender<Result<Vec<String>>>)>,
}

/// What the supervisor is told to do, in order.
pub(crate) type Orders = mpsc::UnboundedReceiver<(Control, oneshot::Sender<Result<Vec<String>>>)>;

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} plugins)", self.read().entries.len())
    }
}

impl Registry {
    /// An empty one, and what its plugins order.
    pub(crate) fn new(daemon: DaemonInfo) -> (Self, Orders) {
        let (orders, received) = mpsc::unbounded_channel();
        let changes = watch::Sender::new(0);
        (Self { daemon, tables: RwLock::default(), changes, orders }, received)
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let changed = change(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    fn change_entry(&self, id: &str, change: impl FnOnce(&mut Entry)) {
        self.change(|tables| {
            if let Some(entry) = tables.entries.iter_mut().find(|entry| **entry.id() == *id) {
                change(entry);
            }
        });
    }

    /// Adds a plugin; the caller adds them in start order.
    pub(crate) fn register(&self, plan: &Plan, state: PluginState) {
        self.change(|tables| {
            tables.entries.push(Entry {
                manifest: plan.candidate.manifest.clone(),
                source: plan.candidate.source.clone(),
                config: plan.section.clone(),
                state,
                generation: 0,
                restarts: 0,
                last_error: String::new(),
                started_at_unix_ns: 0,
                down_since: None,
                blackout: Duration::ZERO,
                pid: 0,
                contract: None,
                provides: Vec::new(),
                service: None,
                stats: Arc::default(),
            });
        });
    }

    /// Forgets a plugin.
    pub(crate) fn unregister(&self, id: &str) {
        self.change(|tables| tables.entries.retain(|entry| **entry.id() != *id));
    }

    /// The plugin is of another make from now on.
    pub(crate) fn set_plan(&self, plan: &Plan) {
        self.change_entry(&plan.candidate.manifest.id, |entry| {
            entry.manifest = plan.candidate.manifest.clone();
            entry.source = plan.candidate.source.clone();
            entry.config = plan.section.clone();
        });
    }

    /// Says which plugin a bare kind means.
    pub(crate) fn prefer(&self, preferred: BTreeMap<String, String>) {
        self.change(|tables| {
            tables.preferred =
                preferred.into_iter().map(|(kind, id)| (kind, id.as_str().into())).collect();
        });
    }

    /// Moves a plugin into a state in which it does not answer.
    pub(crate) fn set_down(&self, id: &str, state: PluginState, error: &str) {
        self.change_entry(id, |entry| {
            if entry.state == PluginState::Running {
                entry.down_since = Some(Instant::now());
            }
            if state == PluginState::Restarting {
                entry.restarts += 1;
            }
            entry.state = state;
            (entry.contract, entry.service) = (None, None);
            entry.provides.clear();
            (entry.started_at_unix_ns, entry.pid) = (0, 0);
            if !error.is_empty() {
                entry.last_error = error.into();
            }
        });
    }

    /// Makes an instance the live one.
    pub(crate) fn set_live(&self, id: &str, exports: Exports, at_unix_ns: i64) {
        let Exports { contract, provides, service, care } = exports;
        self.change_entry(id, |entry| {
            entry.state = PluginState::Running;
            entry.generation += 1;
            entry.pid = care.pid.unwrap_or(0);
            (entry.contract, entry.provides, entry.service) = (contract, provides, service);
            entry.started_at_unix_ns = at_unix_ns;
            if let Some(since) = entry.down_since.take() {
                entry.blackout = since.elapsed();
            }
        });
    }

    /// The state of a plugin.
    pub(crate) fn state(&self, id: &str) -> Option<PluginState> {
        self.read().find(id).map(|entry| entry.state)
    }

    /// Whether a plugin was skipped for want of another, and not because this machine has not what it is for.
    pub(crate) fn is_waiting(&self, id: &str) -> bool {
        self.read().find(id).is_some_and(|entry| {
            let is_unfit = entry.last_error.starts_with(Class::Unimplemented.name());
            entry.state == PluginState::Skipped && !is_unfit
        })
    }

    /// The counters of a plugin.
    pub(crate) fn stats(&self, id: &str) -> Arc<Stats> {
        self.read().find(id).map(|entry| Arc::clone(&entry.stats)).unwrap_or_default()
    }

    /// What keeps a plugin from starting: a requirement that no running plugin meets.
    pub(crate) fn unmet(&self, requires: &[String]) -> Option<String> {
        self.read().unmet(requires)
    }

    /// Opens a service for a peer; waits for a plugin that is between two instances.
    ///
    /// # Errors
    /// As `Root.open` in root.capnp.
    pub(crate) async fn open(
        &self,
        peer: &Peer,
        service: &str,
        namespace: &str,
    ) -> Result<capnp::capability::Client> {
        let found = self.service(service).await?;
        let namespace = match (found.scope, namespace) {
            (Scope::Namespaced, "") => {
                return Err(Error::precondition(format!(
                    "service {service} needs a namespace: say which (--namespace)"
                )));
            }
            (Scope::Global, _) | (Scope::AsGiven, "") => None,
            (Scope::Namespaced | Scope::AsGiven, text) => Some(Namespace::parse(text)?),
        };
        found.open(peer, namespace)
    }

    async fn service(&self, target: &str) -> Result<Service> {
        let find = || -> Result<Service, Absent> {
            let tables = self.read();
            let entry = tables.live(target)?;
            Ok(entry.service.clone().ok_or_else(|| {
                Error::not_found(format!("plugin {} offers no service to peers", entry.id()))
            })?)
        };
        let mut changes = self.changes.subscribe();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match find() {
                Ok(service) => return Ok(service),
                Err(absent) if !absent.is_coming => return Err(absent.error),
                Err(absent) => match tokio::time::timeout_at(deadline, changes.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return Err(absent.error),
                },
            }
        }
    }
}

impl Lookup for Registry {
    fn provider(&self, target: &str) -> Result<Provider, Absent> {
        let tables = self.read();
        let entry = tables.live(target)?;
        let addr = entry.contract.clone().ok_or_else(|| {
            let id = entry.id();
            Error::internal(format!("plugin {id} offers no contract {}", kind_of(id)))
        })?;
        Ok(Provider {
            id: Arc::clone(entry.id()),
            generation: entry.generation,
            stats: Arc::clone(&entry.stats),
            addr,
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn resolve(&self, target: &str) -> Result<Arc<str>> {
        let tables = self.read();
        Ok(Arc::clone(tables.entry(target)?.id()))
    }
}

impl Kernel for Registry {
    fn plugins(&self) -> Vec<PluginStatus> {
        let tables = self.read();
        tables.entries.iter().map(|entry| status(&tables, entry)).collect()
    }

    fn daemon(&self) -> DaemonInfo {
        self.daemon.clone()
    }

    fn control(&self, change: Control) -> LocalFuture<'static, Result<Vec<String>>> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Error::unavailable("the daemon is stopping");
        let sent = self.orders.send((change, reply)).map_err(|_| stopping());
        Box::pin(async move {
            sent?;
            answer.await.unwrap_or_else(|_| Err(stopping()))
        })
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn status(tables: &Tables, entry: &Entry) -> PluginStatus {
    let manifest = &entry.manifest;
    let degraded = match entry.state {
        PluginState::Running => tables.unmet(&manifest.requires),
        _ => None,
    };
    let (latency, id) = (&entry.stats.latency, entry.id());
    let plugins = manifest.requires.iter().map(|requirement| format!("plugin {requirement}"));
    let directories = ["root", "state"].map(|which| format!("directory {which}/{id}"));
    PluginStatus {
        id: id.to_string(),
        state: entry.state,
        source: entry.source.name(),
        version: manifest.version.clone(),
        restarts: entry.restarts,
        about: manifest.about.clone(),
        requires: manifest.requires.to_vec(),
        provides: entry.provides.clone(),
        last_error: entry.last_error.clone(),
        generation: entry.generation,
        calls: entry.stats.calls.load(Ordering::Relaxed),
        failures: entry.stats.failures.load(Ordering::Relaxed),
        answers: Arc::clone(&entry.stats.answers),
        config: toml::to_string(&entry.config).unwrap_or_default(),
        started_at_unix_ns: entry.started_at_unix_ns,
        abi: entry.source.abi(),
        origin: entry.source.origin().into(),
        built_with: manifest.built_with.clone(),
        degraded: degraded.unwrap_or_default(),
        mailbox: entry.stats.waiting.load(Ordering::Relaxed),
        latency_p50_ns: nanoseconds(latency.percentile(50)),
        latency_p99_ns: nanoseconds(latency.percentile(99)),
        blackout_ns: nanoseconds(entry.blackout),
        rights: plugins.chain(directories).collect(),
        pid: entry.pid,
        memory_bytes: if entry.pid == 0 { 0 } else { resident(entry.pid) },
    }
}
