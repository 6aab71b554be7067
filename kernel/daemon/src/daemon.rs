//! The daemon's life: boot, serve, stop.

use std::sync::Arc;
use std::time::Instant;

use capstan_kernel::{
    Candidate, Config, Kernel, Listener, Loader, Registry, Reread, Setup, SocketPath,
};
use capstan_schema::{Error, Result};
use capstan_sdk::{Control, DaemonInfo, Kernel as _, PluginDescriptor, clock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::args::Action;
use crate::{lock, log, notify};

/// The commit that this was built from; set by `cargo xtask`, else empty.
const REVISION: &str = match option_env!("CAPSTAN_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Does what the command line says.
///
/// # Errors
/// What kept the daemon from running, or what is wrong with the configuration.
pub(crate) fn dispatch(action: Action) -> Result<()> {
    match action {
        Action::Print(config) => print(&system().block_on(complete(config))?.to_toml()),
        Action::Check(config) => {
            system().block_on(complete(config))?;
            print("the configuration is fine\n")
        }
        Action::Run(config, reread) => run(config, reread),
    }
}

fn system() -> actix_rt::SystemRunner {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("blocking")
            .build()
            .expect("the system gives an epoll instance")
    };
    actix_rt::System::with_tokio_rt(runtime)
}

fn builtins() -> Vec<Candidate> {
    PluginDescriptor::all().into_iter().map(Candidate::from).collect()
}

fn loader() -> Result<Loader> {
    let own = std::env::current_exe().map_err(|error| Error::io("find our own program", error))?;
    Ok(Loader::new(own))
}

/// A configuration as the daemon would run with it: what stops the boot stops this.
async fn complete(config: Config) -> Result<Config> {
    log::filter(&config.log_level)?;
    SocketPath::parse(&config.address)?;
    let candidates = capstan_kernel::gather(&config, &builtins(), &loader()?).await?;
    config.complete(&candidates).await
}

fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::io("write to stdout", error))
}

fn run(config: Config, reread: Reread) -> Result<()> {
    log::start(&config.log_level)?;
    // Nothing that the daemon makes is for others, unless a mode is set in so many words.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    system().block_on(serve(config, reread))
}

async fn serve(config: Config, reread: Reread) -> Result<()> {
    let begun = Instant::now();
    let mut signals = Signals::install()?;
    let address = SocketPath::parse(&config.address)?;
    if !config.root.is_absolute() || !config.state.is_absolute() {
        return Err(Error::invalid("root and state must be absolute paths"));
    }
    lock::make_dir(&config.root)?;
    lock::make_dir(&config.state)?;
    let _lock = lock::take(&config.root)?;
    let daemon = DaemonInfo {
        version: env!("CARGO_PKG_VERSION"),
        revision: REVISION,
        root: config.root.clone(),
        state: config.state.clone(),
        address: config.address.clone(),
        started_at_unix_ns: clock::now_unix_ns(),
    };
    let setup = Setup { config: config.clone(), builtins: builtins(), loader: loader()?, reread };
    let kernel = Kernel::boot(setup, daemon).await?;
    let listener = Listener::bind(address, Arc::clone(kernel.registry())).await?;
    info!(address = config.address, elapsed = ?begun.elapsed(), "ready");
    notify::notify("READY=1");
    tokio::select! {
        () = listener.serve() => {}
        () = signals.until_stop(kernel.registry()) => {}
    }
    notify::notify("STOPPING=1");
    drop(listener);
    kernel.stop().await;
    info!("stopped; containers go on");
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    dump: Signal,
}

impl Signals {
    fn install() -> Result<Self> {
        let install = |kind| signal(kind).map_err(|error| Error::io("install signals", error));
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hangup: install(SignalKind::hangup())?,
            dump: install(SignalKind::user_defined1())?,
        })
    }

    /// Handles signals until one says to stop.
    async fn until_stop(&mut self, registry: &Registry) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // What comes of it is in the log.
                _ = self.hangup.recv() => drop(registry.control(Control::Reload)),
                _ = self.dump.recv() => dump(registry),
            }
        }
    }
}

/// SIGUSR1: the actors, into the log.
fn dump(registry: &Registry) {
    for plugin in registry.plugins() {
        info!(
            plugin = plugin.id,
            state = plugin.state.name(),
            generation = plugin.generation,
            restarts = plugin.restarts,
            calls = plugin.calls,
            failures = plugin.failures,
            last_error = plugin.last_error,
            "actor"
        );
    }
}
