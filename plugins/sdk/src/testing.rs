//! A bench for plugins under test: a root, a state directory, and links, without a kernel.
//!
//! Feature `testing`. It starts plugins in the order in which it is told to and does not supervise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_schema::{Error, Result};
use tokio::task::JoinHandle;

use crate::{
    Context, Contract, DaemonInfo, Kernel, Link, Lookup, Plugin, PluginDescriptor, PluginState,
    PluginStatus, Provider,
};

#[derive(Default)]
struct Table {
    providers: Mutex<BTreeMap<Arc<str>, Provider>>,
}

impl Table {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, Provider>) -> T) -> T {
        change(&mut self.providers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, target: &str) -> Result<Provider> {
        let providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |id: &str| id == target || id.split('.').next() == Some(target);
        let found =
            providers.iter().find(|(id, _)| is_it(id)).map(|(_, provider)| provider.clone());
        found.ok_or_else(|| Error::not_found(format!("there is no plugin {target}")))
    }
}

impl Lookup for Table {
    fn provider(&self, target: &str) -> Result<Provider> {
        self.find(target)
    }

    fn resolve(&self, target: &str) -> Result<Arc<str>> {
        Ok(self.find(target)?.id)
    }
}

impl Kernel for Table {
    fn plugins(&self) -> Vec<PluginStatus> {
        self.change(|providers| providers.values().map(status).collect())
    }

    fn daemon(&self) -> DaemonInfo {
        DaemonInfo {
            version: "test",
            revision: "",
            root: "/".into(),
            state: "/".into(),
            address: String::new(),
            started_at_unix_ns: 0,
        }
    }
}

fn status(provider: &Provider) -> PluginStatus {
    PluginStatus {
        id: provider.id.to_string(),
        state: PluginState::Running,
        source: "static",
        version: String::new(),
        restarts: 0,
        about: String::new(),
        requires: Vec::new(),
        provides: Vec::new(),
        last_error: String::new(),
        generation: provider.generation,
        calls: 0,
        failures: 0,
        config: String::new(),
        started_at_unix_ns: 0,
    }
}

/// The bench. Plugins end when it is dropped, or by [`Bench::stop`].
pub struct Bench {
    table: Arc<Table>,
    dir: tempfile::TempDir,
    running: BTreeMap<&'static str, JoinHandle<()>>,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bench({})", self.dir.path().display())
    }
}

impl Bench {
    /// An empty one, in a temporary directory.
    ///
    /// # Panics
    /// If there is no place for one.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["root", "state"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory in it");
        }
        Self { table: Arc::default(), dir, running: BTreeMap::new() }
    }

    /// The daemon's root directory.
    pub fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    /// Starts a plugin with a section of TOML.
    ///
    /// # Errors
    /// Those of its factory.
    pub async fn start<P: Plugin>(&mut self, section: &str) -> Result<()> {
        let descriptor = PluginDescriptor::of::<P>();
        let info = descriptor.info;
        let context = Context::new(
            info.id,
            info.requires,
            &self.root(),
            &self.dir.path().join("state"),
            Arc::clone(&self.table) as _,
            Arc::clone(&self.table) as _,
        );
        let section: toml::Table =
            section.parse().map_err(|error| Error::invalid(format!("test section: {error}")))?;
        let running = (descriptor.start)((descriptor.config.complete)(&section)?, context).await?;
        let provider = Provider {
            id: info.id.into(),
            generation: 1,
            stats: Arc::default(),
            addr: running.exports.contract.unwrap_or_else(|| Arc::new(())),
        };
        self.table.change(|providers| providers.insert(info.id.into(), provider));
        self.running.insert(info.id, running.actor);
        Ok(())
    }

    /// Ends a plugin and waits until it is gone.
    pub async fn stop<P: Plugin>(&mut self) {
        self.table.change(|providers| providers.remove(P::INFO.id));
        if let Some(actor) = self.running.remove(P::INFO.id) {
            actor.abort();
            let _ = actor.await;
        }
    }

    /// A link to a started plugin, by kind or id.
    pub fn link<C: Contract>(&self, target: &str) -> Link<C> {
        Link::new(Arc::clone(&self.table) as _, target.into())
    }

    /// A path below the temporary directory.
    pub fn path(&self, name: impl AsRef<Path>) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

/// Runs a test inside an actix system.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    actix_rt::System::new().block_on(async { test().await });
}
