//! The command line of capstand (CLI.md), and how it goes together with the configuration file.

use std::path::PathBuf;

use capstan_kernel::{Config, Reread};
use capstan_schema::Result;
use clap::{Parser, Subcommand};

use crate::log;

/// Where the configuration is, unless `--config` says otherwise.
const DEFAULT_CONFIG: &str = "/etc/capstan/config.toml";

/// The capstan container daemon.
#[derive(Debug, Parser)]
#[command(name = "capstand", version, about, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Configuration file [default: /etc/capstan/config.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What must survive a reboot [default: /var/lib/capstan]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What need not survive a reboot [default: /run/capstan]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where clients connect [default: unix:///run/capstan/capstan.sock]
    #[arg(long, value_name = "unix:///PATH")]
    address: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at the configuration
    #[command(subcommand, disable_help_subcommand = true)]
    Config(ConfigCommand),
    /// Runs a plugin's library in this process; capstand starts it so
    #[command(hide = true)]
    PluginHost,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the built-in configuration
    Default,
    /// Check a file and say what is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the configuration that the daemon would run with
    Dump,
}

/// What to do, with everything that it needs.
pub(crate) enum Action {
    Run(Config, Reread),
    Print(Config),
    Check(Config),
}

/// Parses the command line and reads the file: flags beat the file, the file beats the defaults.
///
/// `None`: this process is a host of a plugin. It exits by itself on `--help`, `--version` and wrong usage.
///
/// # Errors
/// Those of the configuration file.
pub(crate) fn parse() -> Result<Option<Action>> {
    let args = Args::parse();
    let action = match &args.command {
        Some(Command::PluginHost) => return Ok(None),
        Some(Command::Config(ConfigCommand::Default)) => Action::Print(Config::default()),
        Some(Command::Config(ConfigCommand::Check { file })) => {
            Action::Check(Config::read(file, true)?)
        }
        Some(Command::Config(ConfigCommand::Dump)) => Action::Print(args.merge()?),
        None => {
            let config = args.merge()?;
            Action::Run(config, Box::new(move || args.merge()))
        }
    };
    Ok(Some(action))
}

impl Args {
    fn merge(&self) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path, true)?,
            None => Config::read(DEFAULT_CONFIG.as_ref(), false)?,
        };
        if let Some(root) = &self.root {
            config.root.clone_from(root);
        }
        if let Some(state) = &self.state {
            config.state.clone_from(state);
        }
        if let Some(address) = &self.address {
            config.address.clone_from(address);
        }
        if let Some(level) = &self.log_level {
            config.log_level.clone_from(level);
        }
        // A reload must not take what the next boot would refuse.
        log::filter(&config.log_level)?;
        Ok(config)
    }
}
