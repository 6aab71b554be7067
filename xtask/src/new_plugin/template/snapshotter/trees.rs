//! The directories of snapshots, and the mounts that they make.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use capstan_sdk::contract::snapshotter::{Abilities, Kind};
use capstan_sdk::snapshots::{Driver, Snapshot, numbers};
use capstan_sdk::{Error, Info, Mount, Result, tree};

use crate::copy;

/// `snapshots/`.
#[derive(Debug)]
pub struct Trees {
    dir: PathBuf,
}

/// `[plugins."__KIND__.__NAME__"]`: it has nothing in it yet.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

impl Driver for Trees {
    const INFO: Info = Info {
        id: "__KIND__.__NAME__",
        version: env!("CARGO_PKG_VERSION"),
        about: "file trees by copying",
        requires: &["metadata"],
        rank: -1,
    };
    const ABILITIES: Abilities = Abilities { can_rebase: false, can_chain: false, can_limit: false };
    type Config = Config;

    fn open(_config: Config, root: &Path, _state: &Path) -> Result<Self> {
        let dir = root.join("snapshots");
        tracing::debug!(dir = %dir.display(), "snapshots are here");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        Ok(Self { dir })
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        numbers(&self.dir)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A copy of the parent, or an empty tree. A view of a parent has none of its own.
    fn make(&self, snapshot: &Snapshot) -> Result<()> {
        let to = self.path(snapshot.id);
        match (snapshot.parent_ids.first(), snapshot.info.kind) {
            (Some(_), Kind::View) => Ok(()),
            (Some(&parent), _) => copy::tree(&self.path(parent), &to),
            (None, _) => {
                let fail = |error| Error::io(format!("make {}", to.display()), error);
                DirBuilder::new().create(&to).map_err(fail)?;
                fs::set_permissions(&to, Permissions::from_mode(0o755)).map_err(fail)
            }
        }
    }

    fn remove(&self, id: u64) -> Result<()> {
        tree::remove(&self.path(id))
    }

    /// The whole file system: cheaper than file by file.
    fn sync(&self, _ids: &[u64]) -> Result<()> {
        let sync = || rustix::fs::syncfs(File::open(&self.dir)?).map_err(std::io::Error::from);
        sync().map_err(|error| Error::io(format!("sync {}", self.dir.display()), error))
    }

    fn mounts(&self, snapshot: &Snapshot) -> Vec<Mount> {
        let (id, mode) = match (snapshot.info.kind, snapshot.parent_ids.first()) {
            (Kind::View, Some(&parent)) => (parent, "ro"),
            (Kind::View | Kind::Committed, _) => (snapshot.id, "ro"),
            (Kind::Active, _) => (snapshot.id, "rw"),
        };
        vec![Mount {
            kind: "bind".into(),
            source: self.path(id).to_string_lossy().into_owned(),
            options: vec![mode.into(), "rbind".into()],
        }]
    }
}
