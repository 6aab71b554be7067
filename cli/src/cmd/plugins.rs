//! `capstan plugins`.

use std::io::Write as _;

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
        }
    }
}

fn show(plugin: plugin::Reader<'_>) -> Outcome {
    let mut out = std::io::stdout();
    let mut line = |name: &str, value: String| writeln!(out, "{:<12} {value}", format!("{name}:"));
    line("Id", plugin.get_id()?.to_string()?)?;
    line("About", plugin.get_about()?.to_string()?)?;
    line("State", state(plugin.get_state()?).into())?;
    line("Source", plugin.get_source()?.to_string()?)?;
    line("Version", plugin.get_version()?.to_string()?)?;
    line("Requires", read_texts(plugin.get_requires()?)?.join(", "))?;
    line("Provides", read_texts(plugin.get_provides()?)?.join(", "))?;
    line("Generation", plugin.get_generation().to_string())?;
    line("Started", print::time(plugin.get_started_at_unix_ns()))?;
    line("Restarts", plugin.get_restarts().to_string())?;
    line("Calls", format!("{} ({} lost)", plugin.get_calls(), plugin.get_failures()))?;
    let error = plugin.get_last_error()?.to_string()?;
    if !error.is_empty() {
        line("Last error", error)?;
    }
    Ok(())
}
