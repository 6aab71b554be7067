//! A bench for plugins under test: a root, a state directory, and links, without a kernel.
//!
//! Feature `testing`. It starts plugins in the order in which it is told to and does not supervise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_schema::{Error, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::outside::{Session, serve_one};
use crate::{
    Absent, Context, Contract, Control, DaemonInfo, Exports, Factory as _, Info, Kernel, Link,
    LocalFuture, Lookup, Manifest, Plugin, PluginDescriptor, PluginState, PluginStatus, Provider,
};

struct Table {
    providers: Mutex<BTreeMap<Arc<str>, Provider>>,
    /// Counts them.
    changes: watch::Sender<u64>,
}

impl Table {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, Provider>) -> T) -> T {
        let changed = change(&mut self.providers.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|changes| *changes += 1);
        changed
    }

    fn insert(&self, info: &Info, exports: &Exports) {
        let provider = Provider {
            id: info.id.into(),
            generation: *self.changes.borrow() + 1,
            stats: Arc::default(),
            addr: exports.contract.clone().unwrap_or_else(|| Arc::new(())),
        };
        self.change(|providers| providers.insert(info.id.into(), provider));
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
    fn provider(&self, target: &str) -> Result<Provider, Absent> {
        Ok(self.find(target)?)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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

    fn control(&self, _change: Control) -> LocalFuture<'static, Result<Vec<String>>> {
        Box::pin(async { Err(Error::unimplemented("the bench has no supervisor")) })
    }
}

/// A plugin that runs.
enum Running {
    /// Here.
    Here(JoinHandle<String>),
    /// On a thread of its own, behind two sockets.
    OverTheWire(Session, std::thread::JoinHandle<Result<()>>),
}

fn status(provider: &Provider) -> PluginStatus {
    PluginStatus {
        id: provider.id.to_string(),
        state: PluginState::Running,
        source: "static",
        generation: provider.generation,
        ..PluginStatus::default()
    }
}

/// The bench. Plugins end when it is dropped, or by [`Bench::stop`].
pub struct Bench {
    table: Arc<Table>,
    dir: tempfile::TempDir,
    running: BTreeMap<&'static str, Running>,
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
        let table = Table { providers: Mutex::default(), changes: watch::Sender::new(0) };
        Self { table: Arc::new(table), dir, running: BTreeMap::new() }
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
        let section = descriptor.complete(parse(section)?).await?;
        let running = descriptor.start(section, self.context(&P::INFO)).await?;
        self.table.insert(&P::INFO, &running.exports);
        self.running.insert(P::INFO.id, Running::Here(running.actor));
        Ok(())
    }

    /// Starts a plugin as if it were from outside: on a thread of its own, with an actor system of its own, and all
    /// that is said between it and the bench goes over sockets.
    ///
    /// # Errors
    /// Those of its factory.
    ///
    /// # Panics
    /// If the system gives no sockets or no thread.
    pub async fn start_over_wire<P: Plugin>(&mut self, section: &str) -> Result<()> {
        // A plugin sends its log to its daemon, and here both would have the one log of the process.
        let _ =
            tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::default());
        let pair = |kind| {
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("two sockets")
        };
        let (stream, its_stream) = pair(SocketType::STREAM);
        let (descriptors, its_descriptors) = pair(SocketType::SEQPACKET);
        let thread = std::thread::Builder::new()
            .name(P::INFO.id.into())
            .spawn(|| serve_one(PluginDescriptor::of::<P>(), its_stream, its_descriptors))
            .expect("a thread");
        let session = Session::new(stream, descriptors)?;
        let manifest = session.describe().await?;
        assert_eq!(&*manifest.id, P::INFO.id);
        let section = session.complete(&parse(section)?).await?;
        let exports = session.start(&self.context(&P::INFO), &section).await?;
        self.table.insert(&P::INFO, &exports);
        self.running.insert(P::INFO.id, Running::OverTheWire(session, thread));
        Ok(())
    }

    fn context(&self, info: &Info) -> Context {
        Context::new(
            &Manifest::from(info),
            &self.root(),
            &self.dir.path().join("state"),
            Arc::clone(&self.table) as _,
            Arc::clone(&self.table) as _,
        )
    }

    /// Ends a plugin and waits until it is gone.
    ///
    /// # Panics
    /// If its side of the sockets ends with an error.
    pub async fn stop<P: Plugin>(&mut self) {
        self.table.change(|providers| providers.remove(P::INFO.id));
        match self.running.remove(P::INFO.id) {
            Some(Running::Here(actor)) => {
                actor.abort();
                let _ = actor.await;
            }
            Some(Running::OverTheWire(session, thread)) => {
                drop(session);
                let ended = tokio::task::spawn_blocking(|| thread.join()).await;
                let ended = ended.expect("it waits").expect("the plugin's thread does not panic");
                ended.expect("the plugin's side ends well");
            }
            None => {}
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

fn parse(section: &str) -> Result<toml::Table> {
    section.parse().map_err(|error| Error::invalid(format!("test section: {error}")))
}

/// Runs a test inside an actix system.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    actix_rt::System::new().block_on(async { test().await });
}
