//! The subvolumes of snapshots, and the mounts that they make.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Abilities, Kind, Usage};
use capstan_sdk::snapshots::{Driver, Marks, Snapshot, numbers, strays};
use capstan_sdk::tree::{self, FileSystem};
use capstan_sdk::{Class, Error, Info, Mount, Result, mount};
use rustix::fs::statfs;

use crate::tool::Btrfs;

/// `BTRFS_SUPER_MAGIC` of linux/magic.h.
const MAGIC: u64 = 0x9123_683e;

/// `active/` and `snapshots/`.
#[derive(Debug)]
pub struct Subvolumes {
    active: PathBuf,
    committed: PathBuf,
    disk: FileSystem,
    /// What the file system is mounted from.
    device: String,
    btrfs: Btrfs,
    /// Numbers of subvolumes that mounts were made of.
    known: Mutex<HashMap<u64, u64>>,
    /// Numbers of those that have a limit.
    marks: Marks,
}

/// Its section.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A directory on btrfs for the subvolumes. Default: empty, which is the plugin's own directory.
    pub root: PathBuf,
}

impl Subvolumes {
    fn of(&self, snapshot: &Snapshot) -> PathBuf {
        let id = snapshot.id.to_string();
        match snapshot.info.kind {
            Kind::Committed => self.committed.join(id),
            Kind::Active | Kind::View => self.active.join(id),
        }
    }

    fn empty(&self, path: &Path) -> Result<()> {
        self.btrfs.create(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .map_err(|error| Error::io(format!("make {}", path.display()), error))
    }

    /// Removes the active subvolume, with its limit.
    fn end(&self, id: u64) -> Result<()> {
        self.known().remove(&id);
        self.btrfs.delete(&self.active.join(id.to_string()))?;
        if let Some(number) = self.marks.get(id) {
            self.btrfs.forget(number, &self.committed);
        }
        self.marks.remove(id)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails unless a directory is on btrfs.
fn check_on_btrfs(root: &Path) -> Result<()> {
    let about =
        statfs(root).map_err(|error| Error::io(format!("look at {}", root.display()), error))?;
    if u64::try_from(about.f_type).is_ok_and(|magic| magic & 0xffff_ffff == MAGIC) {
        return Ok(());
    }
    let kind = mount::of(root).map_or_else(|_| "something else".into(), |seen| seen.kind);
    Err(Error::precondition(format!(
        "{}: expected btrfs, got {kind}; set `root` of [plugins.\"snapshotter.btrfs\"] to a directory on btrfs, or \
         use another snapshotter",
        root.display()
    )))
}

impl Driver for Subvolumes {
    const INFO: Info = Info {
        id: "snapshotter.btrfs",
        version: env!("CARGO_PKG_VERSION"),
        about: "subvolumes and snapshots of btrfs",
        requires: &["metadata"],
        rank: -20,
    };
    const ABILITIES: Abilities = Abilities { can_rebase: false, can_chain: false, can_limit: true };
    const IS_ATTACHING: bool = true;
    const IS_TIDYING: bool = true;
    type Config = Config;

    fn open(config: Config, root: &Path, _state: &Path) -> Result<Self> {
        // Where nobody asked for it, a machine without it is not ill.
        let is_asked_for = !config.root.as_os_str().is_empty();
        let root = if is_asked_for { &config.root } else { root };
        let softly = |error: Error| match is_asked_for {
            true => error,
            false => error.as_class(Class::Unimplemented),
        };
        check_on_btrfs(root).map_err(softly)?;
        let btrfs = Btrfs::new().map_err(softly)?;
        let [active, committed] = ["active", "snapshots"].map(|name| root.join(name));
        for dir in [&active, &committed] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        }
        let device = mount::of(root)?.source;
        let marks = Marks::open(root)?;
        let disk = FileSystem::of(&committed)?;
        Ok(Self { active, committed, disk, device, btrfs, known: Mutex::default(), marks })
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        let mut all = numbers(&self.active)?;
        all.extend(numbers(&self.committed)?);
        Ok(self.marks.join(all))
    }

    fn make(&self, snapshot: &Snapshot) -> Result<()> {
        let path = self.active.join(snapshot.id.to_string());
        let is_view = snapshot.info.kind == Kind::View;
        if let Some(parent) = snapshot.parent_ids.first() {
            let parent = self.committed.join(parent.to_string());
            self.btrfs.snapshot(&parent, &path, is_view)?;
        } else {
            self.empty(&path)?;
            if is_view {
                self.btrfs.seal(&path)?;
            }
        }
        match snapshot.limit() {
            Some(bytes) if !is_view => {
                self.marks.put(snapshot.id, self.btrfs.number(&path)?)?;
                self.btrfs.limit(&path, Some(bytes))
            }
            _ => Ok(()),
        }
    }

    fn can_limit(&self) -> Result<()> {
        self.btrfs.check_quotas(&self.active)
    }

    /// What it shares with its parent does not count.
    fn limit(&self, snapshot: &Snapshot, bytes: Option<u64>) -> Result<()> {
        let path = self.of(snapshot);
        match (self.marks.get(snapshot.id), bytes) {
            (None, None) => return Ok(()),
            (None, Some(_)) => self.marks.put(snapshot.id, self.btrfs.number(&path)?)?,
            (Some(_), _) => {}
        }
        self.btrfs.limit(&path, bytes)
    }

    fn remove(&self, id: u64) -> Result<()> {
        self.end(id)?;
        self.btrfs.delete(&self.committed.join(id.to_string()))
    }

    /// A snapshot, on disk; not read-only, as it is mended when it is damaged. The active subvolume goes when the record
    /// says that this one is what counts.
    fn sync(&self, ids: &[u64]) -> Result<()> {
        for id in ids {
            let [from, to] = [&self.active, &self.committed].map(|dir| dir.join(id.to_string()));
            // Of a commit that did not come to its end.
            self.btrfs.delete(&to)?;
            self.btrfs.snapshot(&from, &to, false)?;
            if self.marks.get(*id).is_some() {
                // It has that of its origin, and what is made of it would have it too.
                self.btrfs.limit(&to, None)?;
            }
        }
        self.disk.sync()
    }

    /// A new subvolume survives with the transaction that it is in.
    fn keep(&self, _snapshot: &Snapshot) -> Result<()> {
        self.disk.sync()
    }

    fn committed(&self, id: u64) -> Result<()> {
        self.end(id)
    }

    fn path(&self, id: u64) -> PathBuf {
        let committed = self.committed.join(id.to_string());
        if committed.exists() { committed } else { self.active.join(id.to_string()) }
    }

    fn measure(&self, snapshot: &Snapshot) -> Result<Usage> {
        tree::measure(&self.of(snapshot))
    }

    fn check(&self, snapshot: &Snapshot, _is_full: bool) -> Result<Option<(Flaw, String)>> {
        let path = self.of(snapshot);
        if !path.is_dir() {
            return Ok(Some((Flaw::Missing, format!("its subvolume {} is gone", path.display()))));
        }
        if snapshot.info.kind == Kind::Committed {
            // A crash came between the record and the end of the active one.
            self.committed(snapshot.id)?;
        }
        Ok(None)
    }

    fn strays(&self) -> Result<Vec<PathBuf>> {
        let mut all = strays(&self.active)?;
        all.extend(strays(&self.committed)?);
        Ok(all)
    }

    /// Its children have copies: what is mended in it is mended for those that come.
    fn own_layer(&self, snapshot: &Snapshot) -> Result<Mount> {
        if snapshot.info.kind == Kind::View {
            return Err(Error::unimplemented(format!(
                "{:?} is a view, which cannot be written",
                snapshot.info.key
            )));
        }
        Ok(Mount {
            kind: "bind".into(),
            source: self.of(snapshot).to_string_lossy().into_owned(),
            options: vec!["rw".into(), "rbind".into()],
        })
    }

    fn make_own_layer(&self, snapshot: &Snapshot) -> Result<()> {
        let path = self.of(snapshot);
        if path.exists() { Ok(()) } else { self.empty(&path) }
    }

    /// Learns the number of the subvolume.
    fn attach(&self, snapshot: &Snapshot) -> Result<()> {
        if self.known().contains_key(&snapshot.id) {
            return Ok(());
        }
        let number = self.btrfs.number(&self.of(snapshot))?;
        self.known().insert(snapshot.id, number);
        Ok(())
    }

    fn mounts(&self, snapshot: &Snapshot) -> Vec<Mount> {
        // Without a number it was removed meanwhile. 0 would be the whole file system; this is refused.
        let number = self.known().get(&snapshot.id).map_or("gone".into(), u64::to_string);
        let mode = if snapshot.info.kind == Kind::Active { "rw" } else { "ro" };
        vec![Mount {
            kind: "btrfs".into(),
            source: self.device.clone(),
            options: vec![format!("subvolid={number}"), mode.into()],
        }]
    }
}
