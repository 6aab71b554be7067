//! The directories of layers, and the mounts that they make.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Abilities, Kind, LABEL_EPHEMERAL};
use capstan_sdk::snapshots::{Driver, Projects, Snapshot, numbers, strays};
use capstan_sdk::tree::{self, FileSystem};
use capstan_sdk::{Error, Info, Mount, Result};

use crate::probe;

/// `snapshots/`.
#[derive(Debug)]
pub struct Layers {
    dir: PathBuf,
    disk: FileSystem,
    /// Words that every mount with an upper layer has.
    words: Vec<String>,
    projects: Projects,
}

/// Its section.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The number that project quotas begin above: a snapshot with a limit of size is the project of this number and its
    /// own. 100,000,000 numbers are taken from here. Two daemons on one file system need two. Default: 1,000,000,000.
    pub first_project: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { first_project: 1_000_000_000 }
    }
}

impl Layers {
    fn layer(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }

    fn fs(&self, id: u64) -> PathBuf {
        self.layer(id).join("fs")
    }

    fn work(&self, id: u64) -> PathBuf {
        self.layer(id).join("work")
    }

    fn bind(&self, id: u64, mode: &str) -> Mount {
        Mount {
            kind: "bind".into(),
            source: self.fs(id).to_string_lossy().into_owned(),
            options: vec![mode.into(), "rbind".into()],
        }
    }
}

/// Whether its mount is one of overlayfs that is written to.
fn has_work(snapshot: &Snapshot) -> bool {
    snapshot.info.kind == Kind::Active && !snapshot.parent_ids.is_empty()
}

impl Driver for Layers {
    const INFO: Info = Info {
        id: "snapshotter.overlay",
        version: env!("CARGO_PKG_VERSION"),
        about: "copy-on-write trees on overlayfs",
        requires: &["metadata"],
        rank: 10,
    };
    const ABILITIES: Abilities = Abilities { can_rebase: true, can_chain: true, can_limit: true };
    type Config = Config;

    fn open(config: Config, root: &Path, _state: &Path) -> Result<Self> {
        match probe::overlay(root) {
            // There is no space to try it in: what is there can be read and removed all the same.
            Err(error) if error.class() == capstan_sdk::Class::ResourceExhausted => {
                tracing::warn!(%error, "whether overlayfs works is not known");
            }
            probed => probed?,
        }
        let dir = root.join("snapshots");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        let projects = Projects::open(root, config.first_project)?;
        let disk = FileSystem::of(&dir)?;
        Ok(Self { dir, disk, words: probe::words(), projects })
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        Ok(self.projects.join(numbers(&self.dir)?))
    }

    /// The top directory looks like that of the parent.
    fn make(&self, snapshot: &Snapshot) -> Result<()> {
        let id = snapshot.id;
        let fail = |error| Error::io(format!("make layer {id}"), error);
        let make = |path: &Path, mode| {
            DirBuilder::new().mode(mode).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        };
        make(&self.layer(id), 0o700).map_err(fail)?;
        make(&self.fs(id), 0o755).map_err(fail)?;
        if let Some(&parent) = snapshot.parent_ids.first() {
            let above = fs::metadata(self.fs(parent)).map_err(|error| {
                Error::io(format!("layer {parent}, below {:?}", snapshot.info.key), error)
                    .as_class(capstan_sdk::Class::Corrupt)
            })?;
            chown(self.fs(id), Some(above.uid()), Some(above.gid())).map_err(fail)?;
            fs::set_permissions(self.fs(id), above.permissions()).map_err(fail)?;
        }
        if snapshot.info.kind == Kind::Active {
            let (tree, work) = (self.fs(id), self.work(id));
            let mut dirs = vec![tree.as_path()];
            if has_work(snapshot) {
                make(&work, 0o700).map_err(fail)?;
                dirs.push(&work);
            }
            self.projects.begin(snapshot, &dirs)?;
        }
        Ok(())
    }

    fn remove(&self, id: u64) -> Result<()> {
        let unlimited = self.projects.end(id);
        tree::remove(&self.layer(id)).and(unlimited)
    }

    fn projects(&self) -> Option<&Projects> {
        Some(&self.projects)
    }

    /// The whole file system: cheaper than file by file, and layers of one image share it.
    fn sync(&self, _ids: &[u64]) -> Result<()> {
        self.disk.sync()
    }

    fn keep(&self, snapshot: &Snapshot) -> Result<()> {
        let id = snapshot.id;
        let dirs = [self.work(id), self.fs(id), self.layer(id), self.dir.clone()];
        tree::sync_dirs(dirs.iter().map(PathBuf::as_path))
    }

    fn path(&self, id: u64) -> PathBuf {
        self.fs(id)
    }

    fn check(&self, snapshot: &Snapshot, _is_full: bool) -> Result<Option<(Flaw, String)>> {
        let missing = |path: PathBuf| {
            (!path.is_dir())
                .then(|| (Flaw::Missing, format!("its directory {} is gone", path.display())))
        };
        let work = || has_work(snapshot).then(|| missing(self.work(snapshot.id))).flatten();
        Ok(missing(self.fs(snapshot.id)).or_else(work))
    }

    fn strays(&self) -> Result<Vec<PathBuf>> {
        strays(&self.dir)
    }

    fn own_layer(&self, snapshot: &Snapshot) -> Result<Mount> {
        Ok(self.bind(snapshot.id, "rw"))
    }

    fn mounts(&self, snapshot: &Snapshot) -> Vec<Mount> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let bind = |id, mode| self.bind(id, mode);
        let lower = || {
            let dirs: Vec<String> =
                snapshot.parent_ids.iter().map(|&id| text(self.fs(id))).collect();
            format!("lowerdir={}", dirs.join(":"))
        };
        let overlay = |options| Mount { kind: "overlay".into(), source: "overlay".into(), options };
        let mount = match (snapshot.info.kind, snapshot.parent_ids.as_slice()) {
            (Kind::Active, []) => bind(snapshot.id, "rw"),
            (_, []) => bind(snapshot.id, "ro"),
            (Kind::Active, _) => {
                let mut options = vec![
                    format!("workdir={}", text(self.work(snapshot.id))),
                    format!("upperdir={}", text(self.fs(snapshot.id))),
                    lower(),
                ];
                options.extend(self.words.iter().cloned());
                if snapshot.info.labels.contains_key(LABEL_EPHEMERAL) {
                    // overlayfs syncs the upper layer at unmount, for nobody in this case.
                    options.push("volatile".into());
                }
                overlay(options)
            }
            (_, &[parent]) => bind(parent, "ro"),
            _ => {
                let is_by_user = |word: &&String| *word == probe::USER_XATTR;
                let words = self.words.iter().filter(is_by_user).cloned();
                overlay(std::iter::once(lower()).chain(words).collect())
            }
        };
        vec![mount]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::contract::snapshotter::SnapshotInfo;

    fn check(kind: Kind, parent_ids: &[u64], labels: &[&str], want: &str) {
        check_with(&[], kind, parent_ids, labels, want);
    }

    fn check_with(words: &[&str], kind: Kind, parent_ids: &[u64], labels: &[&str], want: &str) {
        let info = SnapshotInfo {
            key: "k".into(),
            parent: String::new(),
            kind,
            created_at_unix_ns: 0,
            updated_at_unix_ns: 0,
            labels: labels.iter().map(|&l| (l.to_owned(), "1".to_owned())).collect(),
        };
        let parent_ids = parent_ids.to_vec();
        let snapshot = Snapshot { info, id: 9, parent_ids, used_at_unix_ns: 0, usage: None };
        let nowhere = Projects::open(Path::new("/s"), 1).unwrap();
        let words = words.iter().map(|&w| w.into()).collect();
        let disk = FileSystem::of(Path::new("/")).unwrap();
        let layers = Layers { dir: "/s".into(), disk, words, projects: nowhere };
        let mounts = layers.mounts(&snapshot);
        let [Mount { kind, source, options }] = mounts.as_slice() else { panic!("one mount") };
        assert_eq!(format!("{kind} {source} {}", options.join(",")), want);
    }

    #[test]
    fn mounts_are_those_of_the_seed() {
        check(Kind::Active, &[], &[], "bind /s/9/fs rw,rbind");
        check(Kind::View, &[], &[], "bind /s/9/fs ro,rbind");
        check(Kind::View, &[3], &[], "bind /s/3/fs ro,rbind");
        check(Kind::View, &[3, 2], &[], "overlay overlay lowerdir=/s/3/fs:/s/2/fs");
        check(
            Kind::Active,
            &[3, 2],
            &[],
            "overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/3/fs:/s/2/fs",
        );
        check(
            Kind::Active,
            &[3],
            &[LABEL_EPHEMERAL],
            "overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/3/fs,volatile",
        );
        let words = ["index=off", "userxattr"];
        check_with(
            &words,
            Kind::Active,
            &[3],
            &[],
            "overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/3/fs,index=off,userxattr",
        );
        let view = "overlay overlay lowerdir=/s/3/fs:/s/2/fs,userxattr";
        check_with(&words, Kind::View, &[3, 2], &[], view);
        check_with(&words, Kind::View, &[3], &[], "bind /s/3/fs ro,rbind");
    }
}
