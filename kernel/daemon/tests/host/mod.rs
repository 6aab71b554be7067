//! A kernel in this process, with one of our plugins in one of its forms, on a root of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capstan_kernel::{Candidate, Config, Kernel, Loader, Setup};
use capstan_sdk::{Contract, DaemonInfo, Kernel as _, Link, Plugin, PluginDescriptor, PluginState};
use tempfile::TempDir;

/// How a plugin is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Compiled in.
    Static,
    /// A library, on a thread of this process.
    Cdylib,
    /// The same library, in a process of its own.
    Remote,
}

impl Form {
    /// The word that users see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Cdylib => "cdylib",
            Self::Remote => "remote",
        }
    }
}

/// Where the libraries are, and what runs them in a process of their own.
#[derive(Debug)]
pub(crate) struct Programs {
    /// A library is called like its plugin.
    pub(crate) libraries: PathBuf,
    /// `PROGRAM plugin-host`.
    pub(crate) host: PathBuf,
}

/// The kernel.
#[derive(Debug)]
pub(crate) struct Host {
    id: &'static str,
    form: Form,
    kernel: Kernel,
    dir: TempDir,
}

impl Host {
    /// Starts `P` in a form, with a section, and what it requires compiled in.
    ///
    /// # Panics
    /// If it does not run, or in another form.
    pub(crate) async fn boot<P: Plugin>(
        form: Form,
        programs: &Programs,
        requires: &[PluginDescriptor],
        section: &str,
    ) -> Self {
        let id = P::INFO.id;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        for dir in [&root, &state] {
            std::fs::create_dir(dir).expect("a directory in it");
        }
        let mut builtins: Vec<Candidate> = requires.iter().copied().map(Candidate::from).collect();
        let mut text = format!("root = {root:?}\nstate = {state:?}\nplugin_dirs = []\n");
        if form == Form::Static {
            builtins.push(PluginDescriptor::of::<P>().into());
        } else {
            let library = copy(&programs.libraries.join(format!("{id}.so")), dir.path());
            let is_isolated = form == Form::Remote;
            text += &format!("[load.{id:?}]\nlibrary = {library:?}\nisolated = {is_isolated}\n");
        }
        text += &format!("[plugins.{id:?}]\n{section}\n");
        let config = Config::parse(&text, "the test's").expect("a configuration");
        let reread = {
            let config = config.clone();
            Box::new(move || Ok(config.clone()))
        };
        let daemon = DaemonInfo {
            version: env!("CARGO_PKG_VERSION"),
            revision: "",
            root,
            state,
            address: String::new(),
            started_at_unix_ns: 0,
        };
        let loader = Loader::new(programs.host.clone());
        let setup = Setup { config, builtins, loader, reread };
        let kernel = Kernel::boot(setup, daemon).await.expect("the kernel boots");
        let plugins = kernel.registry().plugins();
        let it = plugins.iter().find(|plugin| plugin.id == id).expect("it is registered");
        assert_eq!(it.state, PluginState::Running, "{id}: {}", it.last_error);
        assert_eq!(it.source, form.name());
        assert_eq!(it.pid != 0, form == Form::Remote, "a process of its own");
        Self { id, form, kernel, dir }
    }

    /// How it is loaded.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// A link to the plugin.
    pub(crate) fn link<C: Contract>(&self) -> Link<C> {
        Link::new(Arc::clone(self.kernel.registry()) as _, self.id.into())
    }

    /// The directory that all is in; it goes with the host.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Of the plugin.
    pub(crate) fn id(&self) -> &'static str {
        self.id
    }

    /// Stops all plugins.
    ///
    /// # Panics
    /// If it was started anew meanwhile.
    pub(crate) async fn stop(self) {
        let plugins = self.kernel.registry().plugins();
        for plugin in plugins {
            assert_eq!(plugin.restarts, 0, "{} ended: {}", plugin.id, plugin.last_error);
        }
        self.kernel.stop().await;
    }
}

/// A copy below a directory of ours: a checkout may be writable by others, and such a library is refused.
fn copy(library: &Path, dir: &Path) -> PathBuf {
    assert!(
        library.is_file(),
        "{} is not there: run `cargo xtask build --test`",
        library.display()
    );
    let to = dir.join("plugin.so");
    std::fs::copy(library, &to).expect("copy a library");
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o700)).expect("make it ours");
    to
}
