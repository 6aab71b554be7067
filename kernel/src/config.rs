//! The daemon's configuration file (TOML).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use capstan_schema::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::loader::Load;
use crate::source::Candidate;

/// The whole file. Every key has a default; an unknown key is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What must survive a reboot. Default: `/var/lib/capstan`.
    pub root: PathBuf,
    /// What need not. Default: `/run/capstan`.
    pub state: PathBuf,
    /// Where peers connect. Default: `unix:///run/capstan/capstan.sock`.
    pub address: String,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives of tracing's EnvFilter. Default: `info`.
    pub log_level: String,
    /// Which plugins run.
    pub select: Select,
    /// Directories of shared libraries: each file in one whose name ends in `.so` is a plugin. One that is
    /// missing is fine. Default: `/usr/lib/capstan/plugins`.
    pub plugin_dirs: Vec<PathBuf>,
    /// `[load."kind.name"]`: plugins from elsewhere.
    pub load: BTreeMap<String, Load>,
    /// How plugins are looked after.
    pub supervision: Supervision,
    /// Kind to name: which plugin of a kind is meant when none is named. Default: the highest rank.
    pub prefer: BTreeMap<String, String>,
    /// `[plugins."kind.name"]`: each plugin's own section.
    pub plugins: BTreeMap<String, toml::Table>,
}

/// Which plugins run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// Ids and kinds; only these run. Default: empty, which means all.
    pub allow: Vec<String>,
    /// Ids and kinds; these do not. Beats `allow`. Default: empty.
    pub deny: Vec<String>,
}

/// How plugins are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Supervision {
    /// How often each plugin is asked whether it can do its work. Default: 10,000.
    pub health_interval_ms: u64,
    /// How long an answer to that may take. What does not answer is ended, and started anew. Default: 5,000.
    pub health_deadline_ms: u64,
    /// How long the calls that a plugin has may take to be answered, when it is told to end. Default: 1,000.
    pub drain_deadline_ms: u64,
}

impl Default for Supervision {
    fn default() -> Self {
        Self { health_interval_ms: 10_000, health_deadline_ms: 5_000, drain_deadline_ms: 1_000 }
    }
}

impl Select {
    /// Whether a plugin may run.
    pub fn admits(&self, id: &str) -> bool {
        let names =
            |list: &[String]| list.iter().any(|n| n == id || n == crate::graph::kind_of(id));
        !names(&self.deny) && (self.allow.is_empty() || names(&self.allow))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/capstan".into(),
            state: "/run/capstan".into(),
            address: "unix:///run/capstan/capstan.sock".into(),
            log_level: "info".into(),
            select: Select::default(),
            plugin_dirs: vec!["/usr/lib/capstan/plugins".into()],
            load: BTreeMap::new(),
            supervision: Supervision::default(),
            prefer: BTreeMap::new(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads a file; one that does not exist is the defaults, unless it `must_exist`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` with line and key of what is wrong.
    pub fn read(path: &Path, must_exist: bool) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
                Ok(Self::default())
            }
            Err(error) => Err(Error::io(format!("read configuration {}", path.display()), error)),
        }
    }

    /// Parses the text of a file; `name` is for errors.
    ///
    /// # Errors
    /// `InvalidArgument` with line and key of what is wrong.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::invalid(format!("configuration {name}, line {line}: {}", error.message()))
        })
    }

    /// Fills each plugin's section with its defaults and checks everything that names a plugin.
    ///
    /// # Errors
    /// `InvalidArgument`: a section for a plugin that is not there, or one that does not decode.
    pub async fn complete(mut self, plugins: &[Candidate]) -> Result<Self> {
        let ids: BTreeSet<&str> = plugins.iter().map(|plugin| &*plugin.manifest.id).collect();
        if let Some(unknown) = self.plugins.keys().find(|id| !ids.contains(id.as_str())) {
            return Err(Error::invalid(format!(
                "[plugins.{unknown:?}]: there is no such plugin; there are {}",
                ids.into_iter().collect::<Vec<_>>().join(", ")
            )));
        }
        for name in self.select.allow.iter().chain(&self.select.deny) {
            if !ids.iter().any(|id| id == name || crate::graph::kind_of(id) == name) {
                return Err(Error::invalid(format!("[select] {name:?}: no plugin is called that")));
            }
        }
        for plugin in plugins {
            let section = self.plugins.remove(&*plugin.manifest.id).unwrap_or_default();
            let place = format!("[plugins.\"{}\"]", plugin.manifest.id);
            // What is not there yet checks its section when it is.
            let section = match plugin.is_unknown() {
                true => section,
                false => plugin.factory.complete(section).await.map_err(|error| {
                    let is_said = error.message().starts_with(&place);
                    if is_said { error } else { error.at(place) }
                })?,
            };
            if !section.is_empty() {
                self.plugins.insert(plugin.manifest.id.to_string(), section);
            }
        }
        if !self.root.is_absolute() || !self.state.is_absolute() {
            return Err(Error::invalid("root and state must be absolute paths"));
        }
        if self.root == self.state {
            return Err(Error::invalid("root and state must be two directories"));
        }
        Ok(self)
    }

    /// The section of a plugin.
    pub(crate) fn section(&self, id: &str) -> toml::Table {
        self.plugins.get(id).cloned().unwrap_or_default()
    }

    /// The file that gives this configuration.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(text: &str, want: &str) {
        let complete = async |config: Config| config.complete(&[]).await;
        let error = match Config::parse(text, "x.toml") {
            Ok(config) => actix_rt::System::new().block_on(complete(config)).unwrap_err(),
            Err(error) => error,
        };
        assert!(error.message().contains(want), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_error("root = \"/a\"\nrot = 1\n", "line 2: unknown field `rot`");
        check_error("[select]\ndenny = []\n", "unknown field `denny`");
        check_error("root = 1\n", "line 1: invalid type");
        check_error("[plugins.\"a.b\"]\n", "[plugins.\"a.b\"]: there is no such plugin");
        check_error("[select]\ndeny = [\"zzz\"]\n", "\"zzz\": no plugin is called that");
        check_error("root = \"relative\"\n", "absolute");
        check_error("root = \"\"\n", "absolute");
        check_error("state = \"\"\n", "absolute");
        check_error("root = \"/a\"\nstate = \"/a\"\n", "two directories");
    }

    #[test]
    fn the_defaults_survive_being_written() {
        let text = Config::default().to_toml();
        assert_eq!(Config::parse(&text, "x").unwrap(), Config::default());
    }

    #[test]
    fn a_file_that_is_missing_is_the_defaults_unless_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(Config::read(&path, false).unwrap(), Config::default());
        let error = Config::read(&path, true).unwrap_err();
        assert_eq!(error.class(), capstan_schema::Class::NotFound);
        assert!(error.message().contains("config.toml"), "{error}");
        std::fs::write(&path, "log_level = \"debug\"\n").unwrap();
        for must_exist in [false, true] {
            assert_eq!(Config::read(&path, must_exist).unwrap().log_level, "debug");
        }
        // One that is there and cannot be read is never the defaults.
        assert!(Config::read(dir.path(), false).is_err());
    }

    #[test]
    fn selection_is_by_id_and_kind() {
        let select = |allow: &[&str], deny: &[&str]| Select {
            allow: allow.iter().map(|&s| s.into()).collect(),
            deny: deny.iter().map(|&s| s.into()).collect(),
        };
        assert!(select(&[], &[]).admits("a.b"));
        assert!(!select(&[], &["a"]).admits("a.b"));
        assert!(!select(&[], &["a.b"]).admits("a.b"));
        assert!(select(&[], &["a.b"]).admits("a.c"));
        assert!(select(&["a"], &[]).admits("a.c"));
        assert!(!select(&["b"], &[]).admits("a.c"));
        assert!(!select(&["a"], &["a.c"]).admits("a.c"));
    }
}
