//! The plugin's side of a boundary: the plugin that is compiled into this image, served to a daemon.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use capnp_rpc::rpc_twoparty_capnp::Side;
use capstan_schema::plugin_capnp::{Directory, host, plugin};
use capstan_schema::{Error, Result, write_texts};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::far::call;
use super::host::Services;
use super::session::rpc;
use super::{Far, Serving, Wire, adapter, log};
use crate::context::kind_of;
use crate::rpc::{answer, length, text};
use crate::{
    Absent, Care, Context, Factory as _, Lookup, Manifest, PluginDescriptor, Provider, Stats,
    end_of,
};

/// What built this image, for `capstan plugins inspect`.
const BUILT_WITH: &str =
    concat!("capstan-sdk ", env!("CARGO_PKG_VERSION"), ", rustc ", env!("CAPSTAN_RUSTC"));

/// Serves the plugin of this image over the two sockets until the daemon closes them or the plugin ends. It
/// blocks: the calling thread is the plugin's.
///
/// # Errors
/// `FailedPrecondition`: not exactly one plugin is in this image. What the system says.
pub fn serve(stream: OwnedFd, descriptors: OwnedFd) -> Result<()> {
    let all = PluginDescriptor::all();
    let [descriptor] = all.as_slice() else {
        return Err(Error::precondition(format!(
            "a library or program is one plugin, and this has {}: call export_plugin! once",
            all.len()
        )));
    };
    serve_one(*descriptor, stream, descriptors)
}

/// [`serve`], for a plugin that is one of several in this image.
pub(crate) fn serve_one(
    descriptor: PluginDescriptor,
    stream: OwnedFd,
    descriptors: OwnedFd,
) -> Result<()> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(descriptor.info.id)
            .build()
            .expect("the system gives an epoll instance")
    };
    actix_rt::System::with_tokio_rt(runtime).block_on(async move {
        let wire = Wire::new(descriptors)?;
        let (end, ended) = oneshot::channel();
        let server = Server {
            descriptor,
            wire: wire.clone(),
            is_started: Cell::new(false),
            care: Rc::default(),
            actor: RefCell::default(),
            end: RefCell::new(Some(end)),
        };
        let client: plugin::Client = capnp_rpc::new_client(server);
        let system = rpc(stream, Side::Server, Some(client.client))?;
        tokio::select! {
            outcome = system => outcome.map_err(Error::from),
            () = wire.receive() => Ok(()),
            // The reason is on its way to the daemon; give it the time to get there.
            Ok(()) = ended => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                Ok(())
            }
        }
    })
}

/// The whole of the main function of a program that is a plugin: finds the sockets that the daemon gave it
/// ([`ENVIRONMENT`](super::ENVIRONMENT)) and serves.
pub fn remote() -> ExitCode {
    let outcome =
        crate::abi::inherited().and_then(|[stream, descriptors]| serve(stream, descriptors));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// The plugins that this one requires, as proxies, and the plugin itself.
struct Table {
    providers: Mutex<BTreeMap<Arc<str>, Provider>>,
    changes: watch::Sender<u64>,
}

impl Table {
    fn insert(&self, target: &str, id: Arc<str>, addr: Arc<dyn Any + Send + Sync>) {
        let provider = Provider { id, generation: 1, stats: Arc::<Stats>::default(), addr };
        let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        providers.insert(target.into(), provider);
    }

    fn find(&self, target: &str) -> Result<Provider> {
        let providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        let found = providers.get(target);
        found.cloned().ok_or_else(|| {
            Error::not_found(format!(
                "plugin {target} is not required by this one, or is not there"
            ))
        })
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

struct Server {
    descriptor: PluginDescriptor,
    wire: Wire,
    is_started: Cell<bool>,
    care: Rc<RefCell<Care>>,
    actor: RefCell<Option<JoinHandle<()>>>,
    end: RefCell<Option<oneshot::Sender<()>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(actor) = self.actor.take() {
            actor.abort();
        }
    }
}

/// Where errors of the daemon's side come from.
struct Daemon;

impl Daemon {
    fn broken(&self, error: capnp::Error) -> Error {
        Error::from(error).at("the daemon broke off")
    }
}

async fn directory(
    host: &host::Client,
    wire: &Wire,
    which: Directory,
) -> Result<(PathBuf, OwnedFd)> {
    let mut request = host.directory_request();
    request.get().set_which(which);
    let (path, number) = call!(Daemon, request, |results| {
        Ok((PathBuf::from(text(results.get_path())?), results.get_descriptor()))
    })?;
    Ok((path, wire.take(number).await?))
}

impl Server {
    /// Proxies for what the manifest requires. What is optional and not there is left out.
    async fn require(&self, host: &host::Client, manifest: &Manifest, table: &Table) -> Result<()> {
        for requirement in &*manifest.requires {
            let target = requirement.trim_end_matches('?');
            let mut request = host.link_request();
            request.get().set_target(target);
            let services = match call!(Daemon, request, |results| Ok(results.get_services()?)) {
                Ok(services) => services,
                Err(_) if target != requirement => continue,
                Err(error) => return Err(error),
            };
            let Some(adapter) = adapter(kind_of(target)) else { continue };
            let id: Arc<str> = target.into();
            let far = Far::new(Arc::clone(&id), services, self.wire.clone());
            table.insert(target, id, (adapter.proxy)(far));
        }
        Ok(())
    }

    async fn start(&self, params: &plugin::StartParams) -> Result<(Serving, Vec<String>)> {
        if self.is_started.replace(true) {
            return Err(Error::precondition("the plugin was started before: open a new stream"));
        }
        let params = params.get()?;
        let host = params.get_host()?;
        log::forward(&host, params.get_log().map_err(capnp::Error::from)?);
        let section = text(params.get_section())?;
        let section = section.parse().map_err(|error| {
            Error::invalid(format!("the configuration section is no TOML: {error}"))
        })?;
        let manifest = Manifest::from(&self.descriptor.info);
        let table = Arc::new(Table { providers: Mutex::default(), changes: watch::Sender::new(0) });
        self.require(&host, &manifest, &table).await?;
        let directories = [
            directory(&host, &self.wire, Directory::Root).await?,
            directory(&host, &self.wire, Directory::State).await?,
        ];
        let context =
            Context::outside(&manifest, directories, Arc::clone(&table) as _, params.get_state()?);
        // On a task of its own, so that a panic in the factory ends there.
        let made = tokio::task::spawn_local(self.descriptor.start(section, context)).await;
        let running = made.map_err(|ended| Error::internal(end_of(ended)))??;
        let id: Arc<str> = Arc::clone(&manifest.id);
        if let Some(contract) = running.exports.contract {
            table.insert(&id, Arc::clone(&id), contract);
        }
        self.care.replace(running.exports.care);
        self.watch(running.actor, host);
        let serving = Serving {
            lookup: table,
            target: id,
            namespace: None,
            wire: self.wire.clone(),
            confined: None,
        };
        Ok((serving, running.exports.provides))
    }

    /// Tells the daemon when the instance ends, and why; then closes the stream.
    fn watch(&self, actor: JoinHandle<String>, host: host::Client) {
        let end = self.end.take();
        let abort = actor.abort_handle();
        let watcher = tokio::task::spawn_local(async move {
            let reason = actor.await.unwrap_or_else(end_of);
            let mut request = host.ended_request();
            request.get().set_reason(&reason);
            let _ = request.send().promise.await;
            if let Some(end) = end {
                let _ = end.send(());
            }
        });
        // Both end with the server.
        let both = tokio::task::spawn_local(async move {
            let _guard = Abort(abort);
            let _ = watcher.await;
        });
        self.actor.replace(Some(both));
    }
}

/// Ends a task when it is dropped.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl plugin::Server for Server {
    async fn describe(
        self: Rc<Self>,
        _params: plugin::DescribeParams,
        mut results: plugin::DescribeResults,
    ) -> capnp::Result<()> {
        let manifest = Manifest::from(&self.descriptor.info);
        let mut out = results.get().init_manifest();
        out.set_id(&*manifest.id);
        out.set_version(&manifest.version);
        out.set_about(&manifest.about);
        write_texts(&manifest.requires, out.reborrow().init_requires(length(&manifest.requires)));
        out.set_rank(manifest.rank);
        out.set_built_with(BUILT_WITH);
        Ok(())
    }

    async fn complete(
        self: Rc<Self>,
        params: plugin::CompleteParams,
        mut results: plugin::CompleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let section = text(params.get()?.get_section())?;
            let section = section.parse().map_err(|error| {
                Error::invalid(format!("the configuration section is no TOML: {error}"))
            })?;
            self.descriptor.complete(section).await
        };
        answer!(results, work, |out, section| out.set_section(section.to_string()))
    }

    async fn start(
        self: Rc<Self>,
        params: plugin::StartParams,
        mut results: plugin::StartResults,
    ) -> capnp::Result<()> {
        let work = Server::start(&self, &params);
        answer!(results, work, |out, (serving, provides)| {
            write_texts(&provides, out.reborrow().init_provides(length(&provides)));
            let serve = adapter(kind_of(&serving.target)).map(|adapter| adapter.serve);
            if let Some(serve) = serve {
                out.set_services(capnp_rpc::new_client(Services { serving, serve }));
            }
        })
    }

    async fn health(
        self: Rc<Self>,
        _params: plugin::HealthParams,
        mut results: plugin::HealthResults,
    ) -> capnp::Result<()> {
        let asked = self.care.borrow().health.as_ref().map(|health| health());
        let work = async {
            match asked {
                Some(asked) => asked.await,
                None => Ok(()),
            }
        };
        answer!(results, work)
    }

    async fn drain(
        self: Rc<Self>,
        _params: plugin::DrainParams,
        mut results: plugin::DrainResults,
    ) -> capnp::Result<()> {
        let asked = self.care.borrow().drain.as_ref().map(|drain| drain());
        let work = async {
            match asked {
                Some(asked) => asked.await,
                None => Ok(Vec::new()),
            }
        };
        answer!(results, work, |out, state| out.set_state(&state))
    }
}
