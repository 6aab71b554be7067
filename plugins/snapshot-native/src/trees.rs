//! The directories of snapshots, and the mounts that they make.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Abilities, Kind};
use capstan_sdk::snapshots::{Driver, Projects, Snapshot, numbers, strays};
use capstan_sdk::tree::{self, FileSystem};
use capstan_sdk::{Error, Info, Mount, Result};

use crate::copy;

/// `snapshots/`.
#[derive(Debug)]
pub struct Trees {
    dir: PathBuf,
    disk: FileSystem,
    projects: Projects,
}

/// Its section.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The number that project quotas begin above: a snapshot with a limit of size is the project of this number and its
    /// own. 100,000,000 numbers are taken from here. Two daemons on one file system need two. Default: 1,200,000,000.
    pub first_project: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { first_project: 1_200_000_000 }
    }
}

impl Trees {
    /// Whose tree a snapshot shows: a view has none of its own.
    fn shown(snapshot: &Snapshot) -> u64 {
        match (snapshot.info.kind, snapshot.parent_ids.first()) {
            (Kind::View, Some(&parent)) => parent,
            _ => snapshot.id,
        }
    }

    fn bind(&self, id: u64, mode: &str) -> Mount {
        Mount {
            kind: "bind".into(),
            source: self.path(id).to_string_lossy().into_owned(),
            options: vec![mode.into(), "rbind".into()],
        }
    }
}

impl Driver for Trees {
    const INFO: Info = Info {
        id: "snapshotter.native",
        version: env!("CARGO_PKG_VERSION"),
        about: "file trees by copying; works on any file system",
        requires: &["metadata"],
        rank: 0,
    };
    const ABILITIES: Abilities = Abilities { can_rebase: false, can_chain: false, can_limit: true };
    type Config = Config;

    fn open(config: Config, root: &Path, _state: &Path) -> Result<Self> {
        let dir = root.join("snapshots");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        let disk = FileSystem::of(&dir)?;
        Ok(Self { dir, disk, projects: Projects::open(root, config.first_project)? })
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        Ok(self.projects.join(numbers(&self.dir)?))
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A copy of the parent, or an empty tree. A view of a parent has none of its own. All of a copy counts for its limit.
    fn make(&self, snapshot: &Snapshot) -> Result<()> {
        let to = self.path(snapshot.id);
        match (snapshot.parent_ids.first(), snapshot.info.kind) {
            (Some(_), Kind::View) => Ok(()),
            (Some(&parent), _) => {
                let limit = |top: &Path| self.projects.begin(snapshot, &[top]);
                copy::tree(&self.path(parent), &to, limit)
            }
            (None, _) => {
                let fail = |error| Error::io(format!("make {}", to.display()), error);
                DirBuilder::new().create(&to).map_err(fail)?;
                fs::set_permissions(&to, Permissions::from_mode(0o755)).map_err(fail)?;
                self.projects.begin(snapshot, &[&to])
            }
        }
    }

    fn remove(&self, id: u64) -> Result<()> {
        let unlimited = self.projects.end(id);
        tree::remove(&self.path(id)).and(unlimited)
    }

    fn projects(&self) -> Option<&Projects> {
        Some(&self.projects)
    }

    /// The whole file system: cheaper than file by file.
    fn sync(&self, _ids: &[u64]) -> Result<()> {
        self.disk.sync()
    }

    fn keep(&self, snapshot: &Snapshot) -> Result<()> {
        match snapshot.parent_ids.first() {
            Some(_) => self.sync(&[snapshot.id]),
            None => tree::sync_dirs([self.path(snapshot.id).as_path(), &self.dir]),
        }
    }

    fn mounts(&self, snapshot: &Snapshot) -> Vec<Mount> {
        let mode = if snapshot.info.kind == Kind::Active { "rw" } else { "ro" };
        vec![self.bind(Self::shown(snapshot), mode)]
    }

    fn check(&self, snapshot: &Snapshot, _is_full: bool) -> Result<Option<(Flaw, String)>> {
        let path = self.path(Self::shown(snapshot));
        Ok((!path.is_dir())
            .then(|| (Flaw::Missing, format!("its tree {} is gone", path.display()))))
    }

    fn strays(&self) -> Result<Vec<PathBuf>> {
        strays(&self.dir)
    }

    fn own_layer(&self, snapshot: &Snapshot) -> Result<Mount> {
        if Self::shown(snapshot) != snapshot.id {
            return Err(Error::unimplemented(format!(
                "{:?} is a view, and has no tree of its own",
                snapshot.info.key
            )));
        }
        Ok(self.bind(snapshot.id, "rw"))
    }
}
