//! What a plugin is given when it starts: only what its descriptor asked for.

use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capstan_schema::{Error, Result};

use crate::{Contract, Kernel, Link, Lookup};

/// A plugin's access to the world. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    id: &'static str,
    requires: &'static [&'static str],
    root: PathBuf,
    state: PathBuf,
    lookup: Arc<dyn Lookup>,
    kernel: Arc<dyn Kernel>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.id)
    }
}

impl Context {
    /// For the kernel. `root` and `state` are the daemon's; the plugin's are below them.
    pub fn new(
        id: &'static str,
        requires: &'static [&'static str],
        root: &Path,
        state: &Path,
        lookup: Arc<dyn Lookup>,
        kernel: Arc<dyn Kernel>,
    ) -> Self {
        Self { id, requires, root: root.join(id), state: state.join(id), lookup, kernel }
    }

    /// The plugin's own id.
    pub fn id(&self) -> &'static str {
        self.id
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

    /// A link to itself, for the adapters that the plugin hands to peers: it stays good when the
    /// plugin is restarted.
    pub fn link_self<C: Contract>(&self) -> Link<C> {
        Link::new(Arc::clone(&self.lookup), self.id.into())
    }

    /// A link to a plugin that starts after this one and may not be there at all: it is for the
    /// adapters that the plugin hands to peers, which live when everything is up.
    pub fn link_late<C: Contract>(&self) -> Link<C> {
        Link::new(Arc::clone(&self.lookup), C::KIND.into())
    }

    fn check_required(&self, kind: &str) -> Result<()> {
        let names = |r: &&str| r.trim_end_matches('?').split('.').next() == Some(kind);
        if self.requires.iter().any(names) {
            return Ok(());
        }
        Err(Error::internal(format!("{} uses {kind} but does not require it", self.id)))
    }

    /// The plugin's directory for what must survive a reboot; made at the first use, mode 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn root_dir(&self) -> Result<PathBuf> {
        make_private(&self.root)
    }

    /// The plugin's directory for what must not survive a reboot; made at the first use, mode 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn state_dir(&self) -> Result<PathBuf> {
        make_private(&self.state)
    }

    /// The daemon and the other plugins, for looking at.
    pub fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
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
