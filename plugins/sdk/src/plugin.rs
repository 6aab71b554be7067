//! The plugin itself: descriptor, factory, running instance.

use std::future::Future;
use std::pin::Pin;

use actix::{Actor, Addr, AsyncContext as _};
use capstan_schema::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use crate::{Context, Exports};

/// How many messages may wait for one plugin. A sender to a full mailbox waits; 256 is far above
/// what one connection can have in flight and far below what memory would notice.
const MAILBOX: usize = 256;

/// The constant facts about a plugin.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// `kind.name`, unique in a daemon.
    pub id: &'static str,
    /// The plugin's own version.
    pub version: &'static str,
    /// One line for `capstan plugins inspect`.
    pub about: &'static str,
    /// Kinds (`metadata`: at least one plugin of it) and ids (`snapshotter.overlay`: just this
    /// one). With `?` behind it, it only orders the start.
    pub requires: &'static [&'static str],
    /// Among plugins of one kind the highest is the preferred one, unless the configuration names another.
    pub rank: i32,
}

/// A plugin: an actor with a factory.
///
/// The kernel makes a new instance from the factory after each end that it did not ask for: state
/// that must survive belongs on disk or in the metadata plugin.
pub trait Plugin: Actor<Context = actix::Context<Self>> + Sized {
    /// The constant facts.
    const INFO: Info;

    /// Its section of the configuration file, `[plugins."kind.name"]`. Use
    /// `#[serde(default, deny_unknown_fields)]`, so that a missing section works and a misspelt key does not.
    type Config: Serialize + DeserializeOwned + Default;

    /// Makes an instance. What it requires is up by now.
    ///
    /// # Errors
    /// Anything: the plugin is then reported as failed and skipped, with its dependents.
    fn build(config: Self::Config, context: Context) -> impl Future<Output = Result<Self>>;

    /// Says what the instance offers.
    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports);
}

/// How a descriptor handles the plugin's configuration type.
#[derive(Clone, Copy, Debug)]
pub struct ConfigType {
    /// The defaults, as TOML.
    pub default: fn() -> toml::Table,
    /// A section with the defaults filled in.
    ///
    /// Fails with the path of what does not decode.
    pub complete: fn(&toml::Table) -> Result<toml::Table>,
}

/// What a factory gives.
pub type StartFuture = Pin<Box<dyn Future<Output = Result<Running>>>>;

/// A live instance: what it offers, and a handle that ends when it ends.
#[derive(Debug)]
pub struct Running {
    /// What it offers.
    pub exports: Exports,
    /// The actor's own task: resolves when the actor stopped, and says if it panicked.
    pub actor: JoinHandle<()>,
}

/// A registered plugin. The same for every source: compiled in, shared library, remote process.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The constant facts.
    pub info: Info,
    /// Its configuration type.
    pub config: ConfigType,
    /// The factory: a complete configuration section, and the context.
    pub start: fn(toml::Table, Context) -> StartFuture,
}

inventory::collect!(Descriptor);

impl Descriptor {
    /// The descriptor of a plugin type.
    pub const fn of<P: Plugin>() -> Self {
        Self {
            info: P::INFO,
            config: ConfigType { default: default_config::<P>, complete: complete_config::<P> },
            start: start::<P>,
        }
    }

    /// All plugins that are compiled in, by id.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = inventory::iter::<Self>().copied().collect();
        all.sort_by_key(|d| d.info.id);
        all
    }

    /// The part of the id before the first dot.
    pub fn kind(&self) -> &'static str {
        self.info.id.split('.').next().unwrap_or(self.info.id)
    }
}

fn decode<P: Plugin>(table: &toml::Table) -> Result<P::Config> {
    toml::Value::Table(table.clone()).try_into().map_err(|error: toml::de::Error| {
        Error::invalid(format!("[plugins.\"{}\"]: {}", P::INFO.id, error.message()))
    })
}

fn encode<C: Serialize>(config: &C) -> toml::Table {
    toml::Table::try_from(config).expect("a configuration type is a table")
}

fn default_config<P: Plugin>() -> toml::Table {
    encode(&P::Config::default())
}

fn complete_config<P: Plugin>(table: &toml::Table) -> Result<toml::Table> {
    Ok(encode(&decode::<P>(table)?))
}

fn start<P: Plugin>(config: toml::Table, context: Context) -> StartFuture {
    Box::pin(async move {
        let plugin = P::build(decode::<P>(&config)?, context.clone()).await?;
        // Not `Actor::start`: that hides the task, and the task is how an end is seen.
        let mut cell = actix::Context::new();
        cell.set_mailbox_capacity(MAILBOX);
        let addr = cell.address();
        let actor = tokio::task::spawn_local(cell.into_future(plugin));
        let mut exports = Exports::default();
        P::export(&addr, &context, &mut exports);
        Ok(Running { exports, actor })
    })
}

/// Registers a plugin type with the daemon that links its crate.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        $crate::macro_support::inventory::submit! {
            $crate::PluginDescriptor::of::<$plugin>()
        }
    };
}
