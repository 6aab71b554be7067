//! The directories of layers, their images, and the mounts that they make.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Abilities, Kind, LABEL_EPHEMERAL, Usage};
use capstan_sdk::mount::RawMount;
use capstan_sdk::snapshots::{Driver, Projects, Snapshot, numbers, strays};
use capstan_sdk::{Class, Error, Info, Mount, Result, tree};

use crate::images::{Maker, Seal, digest_of};
use crate::mounts::Mounts;

/// `snapshots/`.
#[derive(Debug)]
pub struct Layers {
    dir: PathBuf,
    maker: Maker,
    mounts: Mounts,
    projects: Projects,
}

/// Its section.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The number that project quotas begin above: a snapshot with a limit of size is the project of this number and its
    /// own. 100,000,000 numbers are taken from here. Two daemons on one file system need two. Default: 1,100,000,000.
    pub first_project: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { first_project: 1_100_000_000 }
    }
}

impl Layers {
    fn layer(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }

    fn fs(&self, id: u64) -> PathBuf {
        self.layer(id).join("fs")
    }

    fn image(&self, id: u64) -> PathBuf {
        self.layer(id).join("layer.erofs")
    }

    fn seal(&self, id: u64) -> PathBuf {
        self.layer(id).join("layer.seal")
    }

    /// The top directory looks like that of the parent, which is mounted.
    fn like_parent(&self, snapshot: &Snapshot) -> Result<()> {
        let Some(&parent) = snapshot.parent_ids.first() else { return Ok(()) };
        let fs = self.fs(snapshot.id);
        let fail = |error| Error::io(format!("make layer {}", snapshot.id), error);
        let above = fs::metadata(self.mounts.path(parent)).map_err(fail)?;
        chown(&fs, Some(above.uid()), Some(above.gid())).map_err(fail)?;
        fs::set_permissions(&fs, above.permissions()).map_err(fail)
    }
}

/// Whether the kernel has erofs; a module is loaded by the attempt.
fn probe(root: &Path) -> Result<()> {
    let listed = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if listed.lines().any(|line| line.trim() == "erofs") {
        return Ok(());
    }
    let nothing =
        Mount { kind: "erofs".into(), source: "/dev/null".into(), options: vec!["ro".into()] };
    // It fails in any case: how, is the answer.
    match RawMount::parse(&nothing)?.mount(root) {
        Err(error) if error.message().contains("os error 19") => Err(Error::unimplemented(
            "the kernel has no erofs; use another snapshotter, or load the module erofs",
        )),
        _ => Ok(()),
    }
}

impl Driver for Layers {
    const INFO: Info = Info {
        id: "snapshotter.erofs",
        version: env!("CARGO_PKG_VERSION"),
        about: "layers as erofs images, overlaid",
        requires: &["metadata"],
        rank: -10,
    };
    const ABILITIES: Abilities = Abilities { can_rebase: true, can_chain: false, can_limit: true };
    const IS_ATTACHING: bool = true;
    const IS_TIDYING: bool = true;
    type Config = Config;

    fn open(config: Config, root: &Path, state: &Path) -> Result<Self> {
        let maker = Maker::new()?;
        probe(root)?;
        let dir = root.join("snapshots");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        let projects = Projects::open(root, config.first_project)?;
        Ok(Self { dir, maker, mounts: Mounts::open(state)?, projects })
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        Ok(self.projects.join(numbers(&self.dir)?))
    }

    fn make(&self, snapshot: &Snapshot) -> Result<()> {
        let id = snapshot.id;
        let fail = |error| Error::io(format!("make layer {id}"), error);
        let make = |path: &Path, mode| {
            DirBuilder::new().mode(mode).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        };
        self.attach(snapshot)?;
        make(&self.layer(id), 0o700).map_err(fail)?;
        make(&self.fs(id), 0o755).map_err(fail)?;
        self.like_parent(snapshot)?;
        if snapshot.info.kind == Kind::Active {
            let work = self.layer(id).join("work");
            make(&work, 0o700).map_err(fail)?;
            // Not of the layer's directory: its image is not what the container wrote.
            self.projects.begin(snapshot, &[&self.fs(id), &work])?;
        }
        Ok(())
    }

    fn remove(&self, id: u64) -> Result<()> {
        self.mounts.release(id);
        let unlimited = self.projects.end(id);
        tree::remove(&self.layer(id)).and(unlimited)
    }

    fn projects(&self) -> Option<&Projects> {
        Some(&self.projects)
    }

    /// Makes the image. The tree goes when the record says that the image is what counts.
    fn sync(&self, ids: &[u64]) -> Result<()> {
        let make = |&id| self.maker.make(&self.fs(id), &self.image(id), &self.seal(id));
        ids.iter().try_for_each(make)
    }

    fn keep(&self, snapshot: &Snapshot) -> Result<()> {
        let layer = self.layer(snapshot.id);
        let dirs = [layer.join("work"), layer.join("fs"), layer, self.dir.clone()];
        tree::sync_dirs(dirs.iter().map(PathBuf::as_path))
    }

    fn committed(&self, id: u64) -> Result<()> {
        self.mounts.release(id);
        self.projects.settle(id);
        tree::remove(&self.layer(id).join("work"))?;
        tree::remove(&self.fs(id))
    }

    fn path(&self, id: u64) -> PathBuf {
        self.layer(id)
    }

    fn measure(&self, snapshot: &Snapshot) -> Result<Usage> {
        match snapshot.info.kind {
            Kind::Committed => Ok(Seal::read(&self.seal(snapshot.id))?.usage),
            Kind::Active | Kind::View => tree::measure(&self.fs(snapshot.id)),
        }
    }

    fn check(&self, snapshot: &Snapshot, is_full: bool) -> Result<Option<(Flaw, String)>> {
        let id = snapshot.id;
        if snapshot.info.kind != Kind::Committed {
            let fs = self.fs(id);
            return Ok((!fs.is_dir())
                .then(|| (Flaw::Missing, format!("its directory {} is gone", fs.display()))));
        }
        // A crash came between the record and the end of the tree.
        self.committed(id)?;
        let image = self.image(id);
        if !image.is_file() {
            return Ok(Some((Flaw::Missing, format!("its image {} is gone", image.display()))));
        }
        let seal = match Seal::read(&self.seal(id)) {
            Err(error) if error.class() == Class::Corrupt || error.class() == Class::NotFound => {
                return Ok(Some((Flaw::Damaged, error.message().to_owned())));
            }
            seal => seal?,
        };
        if is_full && digest_of(&image)? != seal.digest {
            let detail = format!("its image {} does not hash to its seal", image.display());
            return Ok(Some((Flaw::Damaged, detail)));
        }
        Ok(None)
    }

    fn strays(&self) -> Result<Vec<PathBuf>> {
        strays(&self.dir)
    }

    fn own_layer(&self, snapshot: &Snapshot) -> Result<Mount> {
        if snapshot.info.kind == Kind::Committed {
            return Err(Error::unimplemented(format!(
                "{:?} is an image, which cannot be written; remove it and pull again",
                snapshot.info.key
            )));
        }
        Ok(bind(&self.fs(snapshot.id), "rw"))
    }

    fn attach(&self, snapshot: &Snapshot) -> Result<()> {
        self.mounts.attach(snapshot.id, &snapshot.parent_ids, |layer| self.image(layer))
    }

    fn adopt(&self, live: &[Snapshot]) -> Result<()> {
        self.mounts.adopt(live.iter().map(|snapshot| (snapshot.id, snapshot.parent_ids.clone())))
    }

    fn rest(&self) {
        self.mounts.release_all();
    }

    fn mounts(&self, snapshot: &Snapshot) -> Vec<Mount> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let lower: Vec<String> =
            snapshot.parent_ids.iter().map(|&id| text(self.mounts.path(id))).collect();
        let lower = format!("lowerdir={}", lower.join(":"));
        let overlay = |options| Mount { kind: "overlay".into(), source: "overlay".into(), options };
        let mount = match (snapshot.info.kind, snapshot.parent_ids.as_slice()) {
            (Kind::Active, []) => bind(&self.fs(snapshot.id), "rw"),
            (_, []) => bind(&self.fs(snapshot.id), "ro"),
            (Kind::Active, _) => {
                let mut options = vec![
                    format!("workdir={}", text(self.layer(snapshot.id).join("work"))),
                    format!("upperdir={}", text(self.fs(snapshot.id))),
                    lower,
                ];
                if snapshot.info.labels.contains_key(LABEL_EPHEMERAL) {
                    options.push("volatile".into());
                }
                overlay(options)
            }
            (_, &[parent]) => bind(&self.mounts.path(parent), "ro"),
            _ => overlay(vec![lower]),
        };
        vec![mount]
    }
}

fn bind(source: &Path, mode: &str) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.to_string_lossy().into_owned(),
        options: vec![mode.into(), "rbind".into()],
    }
}
