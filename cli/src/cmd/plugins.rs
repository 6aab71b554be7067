//! `capstan plugins`.

mod graph;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use capstan_client::schema::introspection_capnp::{PluginState, introspection, plugin};
use capstan_client::schema::read_texts;
use clap::Subcommand;

use crate::exit::Outcome;
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Plugins {
    /// List plugins in start order
    Ls {
        /// Print only the ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show all about one plugin
    Inspect { id: String },
    /// Print the configuration that a plugin runs with, as TOML
    Config { id: String },
    /// Give a plugin a new instance, once it has answered what it has
    Restart { id: String },
    /// Add a plugin from a shared library, now and at each boot
    Load {
        /// The library; only root may be able to write it
        file: PathBuf,
        /// In a process of its own
        #[arg(long)]
        isolated: bool,
    },
    /// Put a shared library in the place of a plugin; if it does not come up, all is as before
    Replace {
        id: String,
        /// The library
        file: PathBuf,
    },
    /// End a plugin that was loaded, and forget it
    Unload { id: String },
    /// Read the daemon's configuration anew, as SIGHUP does
    Reload,
    /// Show which plugin requires which
    Graph {
        /// For graphviz
        #[arg(long)]
        dot: bool,
    },
}

fn state(state: PluginState) -> &'static str {
    match state {
        PluginState::Starting => "starting",
        PluginState::Running => "running",
        PluginState::Restarting => "restarting",
        PluginState::Failed => "failed",
        PluginState::Skipped => "skipped",
        PluginState::Disabled => "disabled",
        PluginState::Stopped => "stopped",
        PluginState::Replacing => "replacing",
        PluginState::Degraded => "degraded",
    }
}

impl Plugins {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: introspection::Client = session.open_global("introspection");
        match self {
            Self::Ls { quiet } => {
                let header = ["ID", "STATE", "SOURCE", "VERSION", "RESTARTS"];
                let mut list = Listing::new(session.is_json(), quiet, &header);
                let response = call!(session, service.plugins_request());
                for item in response.get()?.get_plugins()? {
                    list.item(item, item.get_id(), |id| {
                        Ok([
                            id.to_owned(),
                            state(item.get_state()?).to_owned(),
                            item.get_source()?.to_string()?,
                            item.get_version()?.to_string()?,
                            item.get_restarts().to_string(),
                        ])
                    })?;
                }
                list.print()
            }
            Self::Inspect { id } => {
                let mut request = service.plugin_request();
                request.get().set_id(&id);
                let response = call!(session, request);
                let plugin = response.get()?.get_plugin()?;
                if session.is_json() { print::json(plugin) } else { show(plugin) }
            }
            Self::Config { id } => {
                let mut request = service.plugin_request();
                request.get().set_id(&id);
                let response = call!(session, request);
                let config = response.get()?.get_plugin()?.get_config()?.to_string()?;
                if !config.is_empty() {
                    write!(std::io::stdout(), "[plugins.\"{id}\"]\n{config}")?;
                }
                Ok(())
            }
            Self::Restart { id } => {
                let mut request = service.restart_request();
                request.get().set_id(&id);
                call!(session, request);
                Ok(())
            }
            Self::Load { file, isolated } => {
                let mut request = service.load_request();
                request.get().set_path(&absolute(&file)?);
                request.get().set_isolated(isolated);
                let response = call!(session, request);
                let id = response.get()?.get_id()?.to_str()?;
                writeln!(std::io::stdout(), "{id}")?;
                Ok(())
            }
            Self::Replace { id, file } => {
                let mut request = service.replace_request();
                request.get().set_id(&id);
                request.get().set_path(&absolute(&file)?);
                call!(session, request);
                Ok(())
            }
            Self::Unload { id } => {
                let mut request = service.unload_request();
                request.get().set_id(&id);
                call!(session, request);
                Ok(())
            }
            Self::Reload => {
                let response = call!(session, service.reload_request());
                for id in read_texts(response.get()?.get_changed()?)? {
                    writeln!(std::io::stdout(), "{id}")?;
                }
                Ok(())
            }
            Self::Graph { dot } => {
                let response = call!(session, service.plugins_request());
                let plugins = response.get()?.get_plugins()?;
                let mut nodes = Vec::new();
                for plugin in plugins {
                    nodes.push(graph::Node {
                        id: plugin.get_id()?.to_string()?,
                        state: state(plugin.get_state()?),
                        requires: read_texts(plugin.get_requires()?)?,
                    });
                }
                let text = if dot { graph::dot(&nodes) } else { graph::tree(&nodes) };
                write!(std::io::stdout(), "{text}")?;
                Ok(())
            }
        }
    }
}

/// The daemon has a working directory of its own. A path with a link in it is left as it is: whether that is
/// fine is the daemon's business.
fn absolute(file: &Path) -> std::io::Result<String> {
    Ok(std::path::absolute(file)?.to_string_lossy().into_owned())
}

fn show(plugin: plugin::Reader<'_>) -> Outcome {
    let mut out = std::io::stdout();
    let mut line = |name: &str, value: String| writeln!(out, "{:<12} {value}", format!("{name}:"));
    line("Id", plugin.get_id()?.to_string()?)?;
    line("About", plugin.get_about()?.to_string()?)?;
    line("State", state(plugin.get_state()?).into())?;
    let (source, origin) = (plugin.get_source()?.to_str()?, plugin.get_origin()?.to_str()?);
    line("Source", if origin.is_empty() { source.into() } else { format!("{source} ({origin})") })?;
    line("Version", plugin.get_version()?.to_string()?)?;
    if plugin.get_abi() > 0 {
        line("ABI", format!("{} ({})", plugin.get_abi(), plugin.get_built_with()?.to_str()?))?;
    }
    if plugin.get_pid() > 0 {
        line(
            "Process",
            format!("{} ({})", plugin.get_pid(), print::size(plugin.get_memory_bytes())),
        )?;
    }
    line("Requires", read_texts(plugin.get_requires()?)?.join(", "))?;
    line("Provides", read_texts(plugin.get_provides()?)?.join(", "))?;
    line("Generation", plugin.get_generation().to_string())?;
    line("Started", print::time(plugin.get_started_at_unix_ns()))?;
    line("Restarts", plugin.get_restarts().to_string())?;
    line("Rights", read_texts(plugin.get_rights()?)?.join(", "))?;
    line("Calls", format!("{} ({} lost)", plugin.get_calls(), plugin.get_failures()))?;
    line("Mailbox", plugin.get_mailbox().to_string())?;
    let time = |ns: u64| format!("{:?}", std::time::Duration::from_nanos(ns));
    if plugin.get_latency_p50_ns() > 0 {
        let (half, most) = (plugin.get_latency_p50_ns(), plugin.get_latency_p99_ns());
        line("Latency", format!("half within {}, 99 of 100 within {}", time(half), time(most)))?;
    }
    if plugin.get_blackout_ns() > 0 {
        line("Blackout", time(plugin.get_blackout_ns()))?;
    }
    let degraded = plugin.get_degraded()?.to_string()?;
    if !degraded.is_empty() {
        line("Degraded", degraded)?;
    }
    let error = plugin.get_last_error()?.to_string()?;
    if !error.is_empty() {
        line("Last error", error)?;
    }
    Ok(())
}
