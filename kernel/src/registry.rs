//! The registry: which plugins there are, which are live, and how they are reached.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use capstan_schema::{Error, Namespace, Result};
use capstan_sdk::{
    DaemonInfo, Exports, Kernel, Lookup, Peer, PluginDescriptor, PluginState, PluginStatus,
    Provider, Service, Stats,
};

use crate::graph::{Requirement, kind_of};

/// One registered plugin.
struct Entry {
    id: Arc<str>,
    descriptor: PluginDescriptor,
    source: &'static str,
    config: toml::Table,
    state: PluginState,
    generation: u64,
    restarts: u32,
    last_error: String,
    started_at_unix_ns: i64,
    exports: Exports,
    stats: Arc<Stats>,
}

#[derive(Default)]
struct Tables {
    /// In start order.
    entries: Vec<Entry>,
    by_id: BTreeMap<Arc<str>, usize>,
    /// Kind to id.
    preferred: BTreeMap<String, Arc<str>>,
}

impl Tables {
    fn resolve(&self, target: &str) -> Option<&Arc<str>> {
        match self.by_id.get_key_value(target) {
            Some((id, _)) => Some(id),
            None => self.preferred.get(target),
        }
    }

    fn entry(&self, target: &str) -> Result<&Entry> {
        let id = self.resolve(target);
        id.and_then(|id| self.by_id.get(id)).map(|&index| &self.entries[index]).ok_or_else(|| {
            Error::not_found(format!("there is no plugin {target}; see `capstan plugins ls`"))
        })
    }

    fn live(&self, target: &str) -> Result<&Entry> {
        let entry = self.entry(target)?;
        if entry.state == PluginState::Running {
            return Ok(entry);
        }
        let why = if entry.last_error.is_empty() { "" } else { ": " };
        Err(Error::unavailable(format!(
            "plugin {} is {}{why}{}",
            entry.id,
            entry.state.name(),
            entry.last_error
        )))
    }
}

/// All plugins of the daemon. Shared by the supervisor, which changes it, and by links and
/// connections, which look things up.
pub struct Registry {
    daemon: DaemonInfo,
    tables: RwLock<Tables>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} plugins)", self.read().entries.len())
    }
}

impl Registry {
    /// An empty one.
    pub fn new(daemon: DaemonInfo) -> Self {
        Self { daemon, tables: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a plugin; the caller adds them in start order.
    pub(crate) fn register(
        &self,
        descriptor: PluginDescriptor,
        config: toml::Table,
        state: PluginState,
    ) {
        let mut tables = self.write();
        let id: Arc<str> = descriptor.info.id.into();
        let index = tables.entries.len();
        tables.by_id.insert(Arc::clone(&id), index);
        tables.entries.push(Entry {
            id,
            descriptor,
            source: "static",
            config,
            state,
            generation: 0,
            restarts: 0,
            last_error: String::new(),
            started_at_unix_ns: 0,
            exports: Exports::default(),
            stats: Arc::default(),
        });
    }

    /// Says which plugin a bare kind means.
    pub(crate) fn prefer(&self, preferred: BTreeMap<String, String>) {
        self.write().preferred =
            preferred.into_iter().map(|(kind, id)| (kind, id.as_str().into())).collect();
    }

    /// Moves a plugin into a state in which it does not answer.
    pub(crate) fn set_down(&self, id: &str, state: PluginState, error: &str) {
        self.change(id, |entry| {
            entry.state = state;
            entry.exports = Exports::default();
            entry.started_at_unix_ns = 0;
            if !error.is_empty() {
                entry.last_error = error.into();
            }
            if state == PluginState::Restarting {
                entry.restarts += 1;
            }
        });
    }

    /// Makes an instance the live one; answers its generation.
    pub(crate) fn set_live(&self, id: &str, exports: Exports, at_unix_ns: i64) -> u64 {
        self.change(id, |entry| {
            entry.state = PluginState::Running;
            entry.generation += 1;
            entry.exports = exports;
            entry.started_at_unix_ns = at_unix_ns;
            entry.generation
        })
    }

    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut tables = self.write();
        let index = tables.by_id[id];
        change(&mut tables.entries[index])
    }

    /// What keeps a plugin from starting: a requirement that no running plugin meets.
    pub(crate) fn unmet(&self, requires: &[&str]) -> Option<String> {
        let tables = self.read();
        requires.iter().map(|r| Requirement::parse(r)).find_map(|requirement| {
            let mut candidates =
                tables.entries.iter().filter(|entry| requirement.is_met_by(&entry.id)).peekable();
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
                states.push(format!("{} is {}", entry.id, entry.state.name()));
            }
            Some(format!("requires {target}, but {}", states.join(" and ")))
        })
    }

    /// Opens a service for a peer.
    ///
    /// # Errors
    /// As `Root.open` in root.capnp.
    pub(crate) fn open(
        &self,
        peer: &Peer,
        service: &str,
        namespace: &str,
    ) -> Result<capnp::capability::Client> {
        let found: Service = {
            let tables = self.read();
            let entry = tables.live(service)?;
            entry.exports.service.clone().ok_or_else(|| {
                Error::not_found(format!("plugin {} offers no service to peers", entry.id))
            })?
        };
        let namespace = match (found.is_namespaced, namespace) {
            (true, "") => {
                return Err(Error::precondition(format!(
                    "service {service} needs a namespace: say which (--namespace)"
                )));
            }
            (true, text) => Some(Namespace::parse(text)?),
            (false, _) => None,
        };
        found.open(peer, namespace)
    }
}

impl Lookup for Registry {
    fn provider(&self, target: &str) -> Result<Provider> {
        let tables = self.read();
        let entry = tables.live(target)?;
        let addr = entry.exports.contract.clone().ok_or_else(|| {
            Error::internal(format!(
                "plugin {} offers no contract {}",
                entry.id,
                kind_of(&entry.id)
            ))
        })?;
        Ok(Provider {
            id: Arc::clone(&entry.id),
            generation: entry.generation,
            stats: Arc::clone(&entry.stats),
            addr,
        })
    }

    fn resolve(&self, target: &str) -> Result<Arc<str>> {
        let tables = self.read();
        Ok(Arc::clone(&tables.entry(target)?.id))
    }
}

impl Kernel for Registry {
    fn plugins(&self) -> Vec<PluginStatus> {
        let tables = self.read();
        let status = |entry: &Entry| PluginStatus {
            id: entry.id.to_string(),
            state: entry.state,
            source: entry.source,
            version: entry.descriptor.info.version.into(),
            restarts: entry.restarts,
            about: entry.descriptor.info.about.into(),
            requires: entry.descriptor.info.requires.iter().map(|&r| r.into()).collect(),
            provides: entry.exports.provides.iter().map(|&p| p.into()).collect(),
            last_error: entry.last_error.clone(),
            generation: entry.generation,
            calls: entry.stats.calls.load(Ordering::Relaxed),
            failures: entry.stats.failures.load(Ordering::Relaxed),
            config: toml::to_string(&entry.config).unwrap_or_default(),
            started_at_unix_ns: entry.started_at_unix_ns,
        };
        tables.entries.iter().map(status).collect()
    }

    fn daemon(&self) -> DaemonInfo {
        self.daemon.clone()
    }
}
