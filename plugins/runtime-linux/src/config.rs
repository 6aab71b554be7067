//! `[plugins."runtime.linux"]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Namespace, Result};
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The shim. Default: empty, which means `capstan-shim` beside the daemon.
    pub shim: PathBuf,
    /// OCI runtimes by name. Default: `embedded` (`capstan-runtime` beside the daemon), `runc`, `crun`
    /// and `youki`, each found in PATH when it is first used.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The program that writes processes down and makes them anew: an absolute path of a file that is
    /// called `criu`, because runc finds it by that name. Default: empty, which means `criu` in PATH.
    pub criu: PathBuf,
}

/// One OCI runtime.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Path, or name in PATH. Default: empty, which is the name of the runtime itself.
    pub binary: PathBuf,
    /// Where it keeps what it knows of its containers, in a directory for each namespace (its `--root`).
    /// Absolute path. Default: empty, which is below the daemon's state directory.
    pub root: PathBuf,
    /// Cgroups by systemd instead of by hand. Default: false.
    pub systemd_cgroup: bool,
}

impl Default for Config {
    fn default() -> Self {
        let runtimes = ["embedded", "runc", "crun", "youki"];
        Self {
            shim: PathBuf::new(),
            runtimes: runtimes.map(|name| (name.into(), RuntimeConfig::default())).into(),
            criu: PathBuf::new(),
        }
    }
}

/// The runtime that is part of capstan, and the one of a task that names none.
pub(crate) const EMBEDDED: &str = "embedded";

/// Where programs are looked for, whatever the daemon's own PATH is.
const PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program beside the daemon's own.
fn beside_us(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| Error::io("find our own program", error))?;
    Ok(own.with_file_name(name))
}

fn in_path(name: &Path) -> Option<PathBuf> {
    PATH.iter().map(|dir| Path::new(dir).join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

impl Config {
    /// The shim's program.
    ///
    /// # Errors
    /// `FailedPrecondition`: it is not there.
    pub(crate) fn shim(&self) -> Result<PathBuf> {
        let path = match self.shim.as_os_str().is_empty() {
            true => beside_us("capstan-shim")?,
            false => self.shim.clone(),
        };
        if !is_program(&path) {
            return Err(Error::precondition(format!(
                "the shim {} is not there, or is no program; install it beside capstand, or set \
                 [plugins.\"runtime.linux\"] shim",
                path.display()
            )));
        }
        Ok(path)
    }

    /// Checks what can be checked before there is a task.
    ///
    /// # Errors
    /// `InvalidArgument`: a field that can never work.
    pub(crate) fn check(&self) -> Result<()> {
        let criu = &self.criu;
        if criu.as_os_str().is_empty() || (criu.is_absolute() && criu.ends_with("criu")) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "[plugins.\"runtime.linux\"] criu = {criu:?}: write an absolute path of a file that is called \
             criu"
        )))
    }

    /// Makes sure that there is a criu.
    ///
    /// # Errors
    /// `FailedPrecondition`: there is none.
    pub(crate) fn find_criu(&self) -> Result<()> {
        let is_there = match self.criu.as_os_str().is_empty() {
            true => in_path(Path::new("criu")).is_some(),
            false => is_program(&self.criu),
        };
        if is_there {
            return Ok(());
        }
        let wanted = if self.criu.as_os_str().is_empty() { Path::new("criu") } else { &self.criu };
        Err(Error::precondition(format!(
            "{} is not there; install it, or set [plugins.\"runtime.linux\"] criu",
            wanted.display()
        )))
    }

    /// The name of the runtime with this program, which is what a record has; else the program.
    pub(crate) fn name_of(&self, program: &str) -> String {
        let is_it =
            |name: &&String| self.runtime(name).is_ok_and(|(path, _)| path == Path::new(program));
        self.runtimes.keys().find(is_it).cloned().unwrap_or_else(|| program.to_owned())
    }

    /// Where a runtime keeps what it knows of a namespace's containers, if that was said.
    ///
    /// # Errors
    /// `InvalidArgument`: no absolute path.
    pub(crate) fn runtime_root(
        &self,
        name: &str,
        namespace: &Namespace,
    ) -> Result<Option<PathBuf>> {
        let root = self.runtimes.get(name).map(|runtime| &runtime.root);
        match root.filter(|root| !root.as_os_str().is_empty()) {
            Some(root) if !root.is_absolute() => Err(Error::invalid(format!(
                "runtime {name:?}: its root {} must be an absolute path",
                root.display()
            ))),
            root => Ok(root.map(|root| root.join(namespace.as_str()))),
        }
    }

    /// The program of a runtime, and whether it uses systemd's cgroups.
    ///
    /// # Errors
    /// `NotFound`: no such runtime. `FailedPrecondition`: its program is not there.
    pub(crate) fn runtime(&self, name: &str) -> Result<(PathBuf, bool)> {
        let runtime = self.runtimes.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.runtimes.keys().map(String::as_str).collect();
            Error::not_found(format!("runtime {name:?}: unknown; there are {}", names.join(", ")))
        })?;
        let binary = match (name, runtime.binary.as_os_str().is_empty()) {
            (EMBEDDED, true) => beside_us("capstan-runtime")?,
            (name, true) => name.into(),
            (_, false) => runtime.binary.clone(),
        };
        let found = match binary.is_absolute() {
            true => Some(binary.clone()).filter(|path| is_program(path)),
            false => in_path(&binary),
        };
        let found = found.ok_or_else(|| {
            Error::precondition(format!(
                "runtime {name:?}: its program {} is not there; install it, or choose another --runtime",
                binary.display()
            ))
        })?;
        Ok((found, runtime.systemd_cgroup))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn runtimes_are_found_by_name() {
        let mut config = Config::default();
        let set = |config: &mut Config, name: &str, binary: &str| {
            let runtime = RuntimeConfig { binary: binary.into(), ..RuntimeConfig::default() };
            config.runtimes.insert(name.into(), runtime);
        };
        set(&mut config, "shell", "sh");
        set(&mut config, "absolute", "/bin/sh");
        set(&mut config, "gone", "/does/not/exist");
        assert!(config.runtime("shell").unwrap().0.is_absolute());
        assert_eq!(config.runtime("absolute").unwrap().0, Path::new("/bin/sh"));
        assert_eq!(config.runtime("gone").unwrap_err().class(), Class::FailedPrecondition);
        assert_eq!(config.runtime("never").unwrap_err().class(), Class::NotFound);
        let namespace = Namespace::parse("n").unwrap();
        let mut root = |path: &str| {
            config.runtimes.get_mut("shell").unwrap().root = path.into();
            config.runtime_root("shell", &namespace)
        };
        assert_eq!(root("").unwrap(), None);
        assert_eq!(root("/r").unwrap().unwrap(), Path::new("/r/n"));
        assert_eq!(root("r").unwrap_err().class(), Class::InvalidArgument);
    }

    #[test]
    fn a_criu_is_called_so() {
        let with = |path: &str| Config { criu: path.into(), ..Config::default() };
        for (path, is_good) in
            [("", true), ("/opt/criu/criu", true), ("criu", false), ("/opt/criu/criu4", false)]
        {
            let outcome = with(path).check();
            assert_eq!(outcome.is_ok(), is_good, "{path}");
            if let Err(error) = outcome {
                assert_eq!(error.class(), Class::InvalidArgument, "{path}");
            }
        }
        let error = with("/does/not/exist/criu").find_criu().unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.message().contains("/does/not/exist/criu"), "{error}");
    }
}
