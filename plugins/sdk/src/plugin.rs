//! The plugin itself: descriptor, factory, running instance.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext as _};
use capstan_schema::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::{JoinError, JoinHandle, LocalSet};

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

impl Info {
    /// Fails where the kernel would refuse the plugin: at compile time, in a constant.
    #[track_caller]
    const fn check(&self) {
        assert!(
            is_id(self.id.as_bytes()),
            "`Info::id` is `kind.name`: two words of a-z, 0-9 and `-` with one dot between, such as `metrics.process`"
        );
        let mut at = 0;
        while at < self.requires.len() {
            let mut target = self.requires[at].as_bytes();
            if let [before @ .., b'?'] = target {
                target = before;
            }
            assert!(
                is_word(target) || is_id(target),
                "an entry of `Info::requires` is a kind or an id, with or without `?` behind it, such as `metadata`, \
                 `snapshotter.overlay` or `events?`"
            );
            at += 1;
        }
    }
}

const fn is_id(text: &[u8]) -> bool {
    let mut dot = 0;
    while dot < text.len() && text[dot] != b'.' {
        dot += 1;
    }
    if dot == text.len() {
        return false;
    }
    let (kind, rest) = text.split_at(dot);
    is_word(kind) && is_word(rest.split_at(1).1)
}

const fn is_word(text: &[u8]) -> bool {
    let mut at = 0;
    while at < text.len() {
        if !matches!(text[at], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        at += 1;
    }
    !text.is_empty()
}

/// A plugin: an actor with a factory.
///
/// The kernel makes a new instance from the factory after each end that it did not ask for: state
/// that must survive belongs on disk or in the metadata plugin.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no plugin: it does not implement `capstan_sdk::Plugin`",
    label = "no plugin",
    note = "a plugin is an actor: implement `actix::Actor` with `type Context = actix::Context<Self>`, and \
            `capstan_sdk::Plugin`"
)]
pub trait Plugin: Actor<Context = actix::Context<Self>> + Sized {
    /// The constant facts.
    const INFO: Info;

    /// Its section of the configuration file, `[plugins."kind.name"]`. Use
    /// `#[serde(default, deny_unknown_fields)]`, so that a missing section works and a misspelt key does not.
    type Config: Serialize + DeserializeOwned + Default;

    /// Makes an instance. What it requires is up by now.
    ///
    /// # Errors
    /// Anything: the plugin is then reported as failed and skipped, with its dependents. `Unimplemented`: this machine
    /// does not have what the plugin is for; it is skipped, and that is no illness.
    fn build(config: Self::Config, context: Context) -> impl Future<Output = Result<Self>>;

    /// Says what the instance offers.
    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports);
}

/// The same facts, as they are known of a plugin from anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `kind.name`.
    pub id: Arc<str>,
    /// The plugin's own version.
    pub version: String,
    /// One line.
    pub about: String,
    /// Kinds and ids; optional ones end with `?`.
    pub requires: Arc<[String]>,
    /// The highest of a kind is the preferred one.
    pub rank: i32,
    /// Compiler and SDK, as the plugin says; empty for what is compiled in.
    pub built_with: String,
}

impl Manifest {
    /// The part of the id before the first dot.
    pub fn kind(&self) -> &str {
        self.id.split('.').next().unwrap_or(&self.id)
    }
}

impl From<&Info> for Manifest {
    fn from(info: &Info) -> Self {
        Self {
            id: info.id.into(),
            version: info.version.into(),
            about: info.about.into(),
            requires: info.requires.iter().map(|&requirement| requirement.to_owned()).collect(),
            rank: info.rank,
            built_with: String::new(),
        }
    }
}

/// What a factory's methods give.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What makes instances of one plugin, wherever it comes from: compiled in, a shared library, a process.
#[diagnostic::on_unimplemented(
    message = "`{Self}` makes no instances of a plugin: it does not implement `capstan_sdk::Factory`",
    label = "no factory",
    note = "for a plugin type that is compiled in, `PluginDescriptor::of::<It>()` is the factory"
)]
pub trait Factory {
    /// What the next instance will be, where that can change from one to the next: a process says it when
    /// it is there.
    fn describe(&self) -> LocalFuture<'static, Result<Option<Manifest>>> {
        Box::pin(async { Ok(None) })
    }

    /// A configuration section with the defaults filled in.
    ///
    /// Fails with the path of what does not decode.
    fn complete(&self, section: toml::Table) -> LocalFuture<'static, Result<toml::Table>>;

    /// Lets go of what is kept ready for a start that will not come.
    fn rest(&self) {}

    /// Whether it is tried again without end: somebody else starts what serves it, whenever that is.
    fn is_patient(&self) -> bool {
        false
    }

    /// Makes an instance from a complete section.
    fn start(
        &self,
        section: toml::Table,
        context: Context,
    ) -> LocalFuture<'static, Result<Running>>;
}

/// A live instance: what it offers, and a handle that ends when it ends.
#[derive(Debug)]
pub struct Running {
    /// What it offers.
    pub exports: Exports,
    /// Resolves when the instance has ended, with the reason; to abort it ends the instance.
    pub actor: JoinHandle<String>,
}

/// A plugin that is compiled in.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The constant facts.
    pub info: Info,
    /// The defaults of its configuration, as TOML.
    pub default: fn() -> toml::Table,
    complete: fn(&toml::Table) -> Result<toml::Table>,
    start: fn(toml::Table, Context) -> LocalFuture<'static, Result<Running>>,
}

inventory::collect!(Descriptor);

impl Descriptor {
    /// The descriptor of a plugin type.
    ///
    /// # Panics
    /// If id or requirements are not as [`Info`] says. [`export_plugin!`] calls this when the plugin is compiled.
    #[track_caller]
    pub const fn of<P: Plugin>() -> Self {
        P::INFO.check();
        Self {
            info: P::INFO,
            default: default_config::<P>,
            complete: complete_config::<P>,
            start: start::<P>,
        }
    }

    /// All plugins that are compiled in, by id.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = inventory::iter::<Self>().copied().collect();
        all.sort_by_key(|d| d.info.id);
        all
    }
}

impl Factory for Descriptor {
    fn complete(&self, section: toml::Table) -> LocalFuture<'static, Result<toml::Table>> {
        let complete = self.complete;
        Box::pin(async move { complete(&section) })
    }

    fn start(
        &self,
        section: toml::Table,
        context: Context,
    ) -> LocalFuture<'static, Result<Running>> {
        (self.start)(section, context)
    }
}

fn decode<P: Plugin>(table: &toml::Table) -> Result<P::Config> {
    toml::Value::Table(table.clone()).try_into().map_err(|error: toml::de::Error| {
        // What is wrong, and on a second line in which key.
        let said = error.to_string();
        let said = said.lines().collect::<Vec<_>>().join(" ");
        Error::invalid(format!("[plugins.\"{}\"]: {}", P::INFO.id, said.trim()))
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

fn start<P: Plugin>(
    config: toml::Table,
    context: Context,
) -> LocalFuture<'static, Result<Running>> {
    Box::pin(async move {
        // All that an instance spawns, from its factory on, ends with it: also the calls that it has.
        let tasks = LocalSet::new();
        let config = decode::<P>(&config)?;
        let plugin = tasks.run_until(P::build(config, context.clone())).await?;
        // Not `Actor::start`: that hides the task, and the task is how an end is seen.
        let mut cell = actix::Context::new();
        cell.set_mailbox_capacity(MAILBOX);
        let addr = cell.address();
        let life = cell.into_future(plugin);
        let actor = tokio::task::spawn_local(async move {
            tasks.run_until(life).await;
            "it stopped by itself".to_owned()
        });
        let mut exports = Exports::default();
        P::export(&addr, &context, &mut exports);
        Ok(Running { exports, actor })
    })
}

/// Why a task ended, for people: what its panic said, or that it was cancelled.
pub fn end_of(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => format!("panicked: {}", crate::abi::panic_text(&*payload)),
        Err(_) => "it was cancelled".into(),
    }
}

/// Registers a plugin type, in all three forms.
///
/// Compiled in: with the daemon that links its crate. As a shared library (`crate-type = ["cdylib"]`): the SDK has
/// the entry that the daemon looks for, and it finds the plugin here. In a process of its own: the daemon does that
/// with any such library on demand, or a program calls [`remote`](crate::remote).
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        $crate::macro_support::inventory::submit! {
            $crate::PluginDescriptor::of::<$plugin>()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_two_words() {
        let check = |text: &str, expected: bool| {
            assert_eq!(is_id(text.as_bytes()), expected, "{text:?}");
        };
        check("metrics.process", true);
        check("gc-policy.age2", true);
        for text in ["", ".", "metrics", "metrics.", ".process", "a.b.c", "A.b", "a/b.c", "a b.c"] {
            check(text, false);
        }
    }

    #[test]
    fn a_requirement_is_a_kind_or_an_id() {
        let check = |requirement: &'static str, expected: bool| {
            let requires: &'static [&'static str] = vec![requirement].leak();
            let info = Info { id: "a.b", version: "", about: "", requires, rank: 0 };
            let outcome = std::panic::catch_unwind(|| info.check());
            assert_eq!(outcome.is_ok(), expected, "{requirement:?}");
        };
        for requirement in ["metadata", "metadata?", "snapshotter.overlay", "sink.file?"] {
            check(requirement, true);
        }
        for requirement in ["", "?", "a??", ".", "a.", "a b", "a.b.c"] {
            check(requirement, false);
        }
    }
}
