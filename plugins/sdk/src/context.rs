//! What a plugin is given when it starts: only what its descriptor asked for.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capstan_schema::{Error, Result};

use crate::{Contract, Kernel, Link, Lookup, Manifest, PluginState};

/// A plugin's access to the world. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    id: Arc<str>,
    requires: Arc<[String]>,
    root: Directory,
    state: Directory,
    lookup: Arc<dyn Lookup>,
    kernel: Option<Arc<dyn Kernel>>,
    handed_over: Arc<[u8]>,
}

/// A directory of a plugin.
#[derive(Clone)]
enum Directory {
    /// To be made at the first use.
    Path(PathBuf),
    /// Made by the daemon, which opened it for us.
    Opened(PathBuf, Arc<OwnedFd>),
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.id)
    }
}

impl Context {
    /// For the kernel. `root` and `state` are the daemon's; the plugin's are below them.
    pub fn new(
        manifest: &Manifest,
        root: &Path,
        state: &Path,
        lookup: Arc<dyn Lookup>,
        kernel: Arc<dyn Kernel>,
    ) -> Self {
        Self {
            id: Arc::clone(&manifest.id),
            requires: Arc::clone(&manifest.requires),
            root: Directory::Path(root.join(&*manifest.id)),
            state: Directory::Path(state.join(&*manifest.id)),
            lookup,
            kernel: Some(kernel),
            handed_over: Arc::default(),
        }
    }

    /// For a plugin outside of the daemon's program.
    pub(crate) fn outside(
        manifest: &Manifest,
        [root, state]: [(PathBuf, OwnedFd); 2],
        lookup: Arc<dyn Lookup>,
        handed_over: &[u8],
    ) -> Self {
        Self {
            id: Arc::clone(&manifest.id),
            requires: Arc::clone(&manifest.requires),
            root: Directory::Opened(root.0, Arc::new(root.1)),
            state: Directory::Opened(state.0, Arc::new(state.1)),
            lookup,
            kernel: None,
            handed_over: handed_over.into(),
        }
    }

    /// The same, with what an instance before handed over.
    #[must_use]
    pub fn with_state(&self, handed_over: &[u8]) -> Self {
        Self { handed_over: handed_over.into(), ..self.clone() }
    }

    /// The plugin's own id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the instance before this one answered to [`Exports::drain`](crate::Exports::drain); empty if
    /// there was none, or it ended by itself.
    pub fn handed_over(&self) -> &[u8] {
        &self.handed_over
    }

    /// A link to the preferred plugin of a kind.
    ///
    /// # Errors
    /// `Internal`: the descriptor does not require this kind; that is a mistake in the plugin.
    pub fn link<C: Contract>(&self) -> Result<Link<C>> {
        self.check_required(C::KIND)?;
        Ok(Link::new(Arc::clone(&self.lookup), C::KIND.into()))
    }

    /// A link to the plugin `<kind>.<name>`; an empty name is the preferred one.
    ///
    /// # Errors
    /// `NotFound`: there is no such plugin. `Internal`: the kind is not required.
    pub fn link_named<C: Contract>(&self, name: &str) -> Result<Link<C>> {
        self.check_required(C::KIND)?;
        let target =
            if name.is_empty() { C::KIND.to_owned() } else { format!("{}.{name}", C::KIND) };
        let id = self.lookup.resolve(&target)?;
        Ok(Link::new(Arc::clone(&self.lookup), id))
    }

    /// Links to all plugins of a kind that run or are about to, by their name without the kind. One that failed or was skipped
    /// has nothing that could be asked.
    ///
    /// # Errors
    /// `PermissionDenied`: only plugins that are compiled in see all others. `Internal`: the kind is not required.
    pub fn links<C: Contract>(&self) -> Result<Vec<(String, Link<C>)>> {
        let mut links = Vec::new();
        for plugin in self.kernel()?.plugins() {
            let is_live = plugin.state.is_coming() || plugin.state == PluginState::Running;
            if is_live
                && let Some((kind, name)) = plugin.id.split_once('.')
                && kind == C::KIND
            {
                links.push((name.to_owned(), self.link_named(name)?));
            }
        }
        Ok(links)
    }

    /// A link to itself, for the adapters that the plugin hands to peers: it stays good when the
    /// plugin is restarted.
    pub fn link_self<C: Contract>(&self) -> Link<C> {
        Link::new(Arc::clone(&self.lookup), Arc::clone(&self.id))
    }

    /// A link to a plugin that starts after this one and may not be there at all: it is for the
    /// adapters that the plugin hands to peers, which live when everything is up.
    pub fn link_late<C: Contract>(&self) -> Link<C> {
        Link::new(Arc::clone(&self.lookup), C::KIND.into())
    }

    /// As [`Context::link_late`], to the plugin `<kind>.<name>`.
    pub fn link_late_named<C: Contract>(&self, name: &str) -> Link<C> {
        Link::new(Arc::clone(&self.lookup), format!("{}.{name}", C::KIND).into())
    }

    fn check_required(&self, kind: &str) -> Result<()> {
        if self.requires.iter().any(|requirement| kind_of(requirement) == kind) {
            return Ok(());
        }
        Err(Error::internal(format!("{} uses {kind} but does not require it", self.id)))
    }

    /// The plugin's directory for what must survive a reboot; made at the first use, mode 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn root_dir(&self) -> Result<PathBuf> {
        self.root.make()
    }

    /// The plugin's directory for what must not survive a reboot; made at the first use, mode 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn state_dir(&self) -> Result<PathBuf> {
        self.state.make()
    }

    /// [`Context::root_dir`], open: also for a plugin that could not reach it by its path.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn root_descriptor(&self) -> Result<OwnedFd> {
        self.root.open()
    }

    /// [`Context::state_dir`], open.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn state_descriptor(&self) -> Result<OwnedFd> {
        self.state.open()
    }

    /// The daemon and the other plugins.
    ///
    /// # Errors
    /// `PermissionDenied`: only plugins that are compiled in have a look at all others.
    pub fn kernel(&self) -> Result<&Arc<dyn Kernel>> {
        self.kernel.as_ref().ok_or_else(|| {
            Error::denied(format!("{} is from outside, and sees only what it requires", self.id))
        })
    }

    /// What looks plugins up, and what this one requires: for the boundary that carries its context.
    pub(crate) fn parts(&self) -> (&Arc<dyn Lookup>, &[String]) {
        (&self.lookup, &self.requires)
    }
}

/// The kind in a requirement or an id.
pub(crate) fn kind_of(requirement: &str) -> &str {
    requirement.trim_end_matches('?').split('.').next().unwrap_or(requirement)
}

impl Directory {
    fn make(&self) -> Result<PathBuf> {
        match self {
            Self::Path(path) => make_private(path),
            Self::Opened(path, _) => Ok(path.clone()),
        }
    }

    fn open(&self) -> Result<OwnedFd> {
        let fail =
            |path: &Path, error| Error::io(format!("open directory {}", path.display()), error);
        match self {
            Self::Path(path) => {
                let file = std::fs::File::open(make_private(path)?);
                file.map(OwnedFd::from).map_err(|error| fail(path, error))
            }
            Self::Opened(path, open) => open.try_clone().map_err(|error| fail(path, error)),
        }
    }
}

fn make_private(path: &Path) -> Result<PathBuf> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("make directory {}", path.display()), error))
        }
        _ => Ok(path.to_owned()),
    }
}
