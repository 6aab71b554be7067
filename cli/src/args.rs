//! The command line (CLI.md): one definition, of which help, manual and completions are made.

use std::time::Duration;

use capstan_client::{DEFAULT_ADDRESS, DEFAULT_NAMESPACE, Error};
use clap::{Parser, Subcommand, ValueEnum};

use crate::cmd;
use crate::exit::{Failure, Outcome};
use crate::session::Session;

/// The command line of the capstan container daemon.
#[derive(Debug, Parser)]
#[command(name = "capstan", version, about, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Where the daemon listens
    #[arg(long, global = true, env = "CAPSTAN_ADDRESS", default_value = DEFAULT_ADDRESS)]
    address: String,
    /// The namespace to work in
    #[arg(short, long, global = true, env = "CAPSTAN_NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Give up after this time, such as 500ms, 30s, 5m [default: never]
    #[arg(long, global = true, value_name = "DUR", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns with one header line
    Table,
    /// One JSON value, or one object a line for a stream
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the versions of client and daemon
    Version,
    /// Show the daemon and its machine
    Info,
    /// Say whether the daemon serves; exit code 7 if it does not
    Health(cmd::health::Health),
    /// Run a command in a new container
    Run(Box<cmd::run::Run>),
    /// Names for images
    #[command(subcommand, visible_alias = "image")]
    Images(cmd::images::Images),
    /// Log in to a registry
    Login(cmd::login::Login),
    /// Forget the login to a registry
    Logout(cmd::login::Logout),
    /// Blobs, named by their digest
    #[command(subcommand)]
    Content(cmd::content::Content),
    /// Copy-on-write file trees
    #[command(visible_alias = "snapshot")]
    Snapshots(cmd::snapshots::Snapshots),
    /// Container records
    #[command(subcommand, visible_aliases = ["container", "c"])]
    Containers(cmd::containers::Containers),
    /// Running containers
    #[command(subcommand, visible_aliases = ["task", "t"])]
    Tasks(cmd::tasks::Tasks),
    /// Tenants
    #[command(subcommand, visible_alias = "namespace")]
    Namespaces(cmd::namespaces::Namespaces),
    /// What keeps things from garbage collection that nothing else references yet
    #[command(subcommand, visible_alias = "lease")]
    Leases(cmd::leases::Leases),
    /// Remove what nothing keeps
    Gc(cmd::system::Gc),
    /// What is stored: whether it is whole, what keeps it, what it takes
    #[command(subcommand)]
    System(cmd::system::System),
    /// What happened, and what happens
    Events(cmd::events::Events),
    /// What the daemon counts and measures, in Prometheus' text format
    Metrics,
    /// The daemon's plugins
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(cmd::plugins::Plugins),
    /// OCI documents
    #[command(subcommand)]
    Oci(cmd::containers::Oci),
}

/// Parses the command line; exits by itself on help and wrong usage (code 2).
pub(crate) fn parse() -> Args {
    Args::parse()
}

impl Args {
    /// Does what the command line says.
    pub(crate) fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::io("start the runtime", error))?;
        let local = tokio::task::LocalSet::new();
        let outcome = local.block_on(&runtime, self.dispatch());
        // A read of stdin may still block a thread of the pool.
        runtime.shutdown_background();
        outcome
    }

    async fn dispatch(self) -> Outcome {
        let is_foreground = match &self.command {
            Command::Run(_) => true,
            Command::Tasks(tasks) => tasks.is_foreground(),
            _ => false,
        };
        let outcome = match self.timeout {
            None => self.execute().await,
            Some(timeout) => {
                tokio::time::timeout(timeout, self.execute()).await.unwrap_or_else(|_| {
                    let text = format!("no answer within {timeout:?} (--timeout)");
                    Err(Error::aborted(text).into())
                })
            }
        };
        outcome.map_err(|failure| match failure {
            Failure::Error(error) if is_foreground => Failure::InForeground(error),
            failure => failure,
        })
    }

    async fn execute(self) -> Outcome {
        let connect = async || Session::connect(&self.address, self.namespace, self.format).await;
        // These can do without a daemon.
        match self.command {
            Command::Version => return cmd::version::run(&self.address, self.format).await,
            Command::Login(login) => return login.run(self.format, connect).await,
            Command::Logout(logout) => return logout.run(self.format),
            _ => {}
        }
        let session = connect().await?;
        match self.command {
            Command::Version | Command::Login(_) | Command::Logout(_) => {
                unreachable!("handled above")
            }
            Command::Info => cmd::info::run(&session).await,
            Command::Health(health) => health.run(&session).await,
            Command::Run(run) => run.run(&session).await,
            Command::Images(images) => images.run(&session).await,
            Command::Content(content) => content.run(&session).await,
            Command::Snapshots(snapshots) => snapshots.run(&session).await,
            Command::Containers(containers) => containers.run(&session).await,
            Command::Tasks(tasks) => tasks.run(&session).await,
            Command::Namespaces(namespaces) => namespaces.run(&session).await,
            Command::Leases(leases) => leases.run(&session).await,
            Command::Gc(gc) => gc.run(&session).await,
            Command::System(system) => system.run(&session).await,
            Command::Events(events) => events.run(&session).await,
            Command::Metrics => cmd::metrics::run(&session).await,
            Command::Plugins(plugins) => plugins.run(&session).await,
            Command::Oci(oci) => oci.run(&session).await,
        }
    }
}

/// `500ms`, `30s`, `5m`, `2h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write 500ms, 30s, 5m or 2h");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
}

/// `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?}: write KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        let check = |text: &str, want: Option<u64>| {
            let got = duration(text).ok().map(|d| u64::try_from(d.as_millis()).unwrap());
            assert_eq!(got, want, "{text:?}");
        };
        check("500ms", Some(500));
        check("1.5s", Some(1500));
        check("2", Some(2000));
        check("5m", Some(300_000));
        check("1h", Some(3_600_000));
        check("", None);
        check("s", None);
        check("5d", None);
        check("-1s", None);
    }
}
