//! The mounts of committed layers: one each, as long as somebody stands on it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use capstan_sdk::mount::{self, RawMount};
use capstan_sdk::{Error, Mount, Result, tool};
use tracing::warn;

/// Who stands on what.
#[derive(Debug)]
pub(crate) struct Mounts {
    dir: PathBuf,
    /// Layers that are mounted, each with the snapshots that need it. Held while one is mounted or unmounted.
    users: Mutex<HashMap<u64, HashSet<u64>>>,
}

impl Mounts {
    /// Opens the directory, or makes it.
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let dir = state.join("mounts");
        let fail = |error| Error::io(format!("make {}", dir.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fail)?;
        // As mountinfo will show it.
        let dir = fs::canonicalize(&dir).map_err(fail)?;
        Ok(Self { dir, users: Mutex::default() })
    }

    /// Where a layer is when it is mounted.
    pub(crate) fn path(&self, layer: u64) -> PathBuf {
        self.dir.join(layer.to_string())
    }

    /// Takes over what an instance before mounted for `live` (snapshot, layers), and unmounts the rest.
    pub(crate) fn adopt(&self, live: impl Iterator<Item = (u64, Vec<u64>)>) -> Result<()> {
        let mounted: HashSet<PathBuf> = mount::seen()?
            .into_iter()
            .filter(|seen| seen.kind == "erofs" && seen.target.starts_with(&self.dir))
            .map(|seen| seen.target)
            .collect();
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for (snapshot, layers) in live {
            for layer in layers {
                if mounted.contains(&self.path(layer)) {
                    users.entry(layer).or_default().insert(snapshot);
                }
            }
        }
        let kept: HashSet<PathBuf> = users.keys().map(|&layer| self.path(layer)).collect();
        let fail = |error| Error::io(format!("list {}", self.dir.display()), error);
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if !kept.contains(&path) {
                take_away(&path)?;
            }
        }
        Ok(())
    }

    /// Has all layers of a snapshot mounted. `image` tells where each is.
    pub(crate) fn attach(
        &self,
        snapshot: u64,
        layers: &[u64],
        image: impl Fn(u64) -> PathBuf,
    ) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for &layer in layers {
            if !users.contains_key(&layer) {
                let path = self.path(layer);
                if let Err(error) = mount_image(&image(layer), &path) {
                    drop(users);
                    self.release(snapshot);
                    return Err(error);
                }
            }
            users.entry(layer).or_default().insert(snapshot);
        }
        Ok(())
    }

    /// A snapshot needs its layers no more. What cannot be unmounted is left to the next start.
    pub(crate) fn release(&self, snapshot: u64) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = Vec::new();
        users.retain(|&layer, snapshots| {
            snapshots.remove(&snapshot);
            if snapshots.is_empty() {
                idle.push(layer);
            }
            !snapshots.is_empty()
        });
        for layer in idle {
            let path = self.path(layer);
            if let Err(error) = take_away(&path) {
                warn!(path = %path.display(), %error, "a layer is still mounted");
            }
        }
    }

    /// Nobody needs anything more.
    pub(crate) fn release_all(&self) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshots: HashSet<u64> = users.values().flatten().copied().collect();
        drop(users);
        for snapshot in snapshots {
            self.release(snapshot);
        }
    }
}

/// Without the directory, an overlay of a layer that is not mounted fails, and does not show an empty one.
fn take_away(path: &Path) -> Result<()> {
    mount::detach(path)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn mount_image(image: &Path, target: &Path) -> Result<()> {
    if !image.exists() {
        return Err(Error::corrupt(format!(
            "the layer {} is gone; pull its image again",
            image.display()
        )));
    }
    take_away(target)?;
    DirBuilder::new()
        .mode(0o700)
        .create(target)
        .map_err(|error| Error::io(format!("make {}", target.display()), error))?;
    let from_file = Mount {
        kind: "erofs".into(),
        source: image.to_string_lossy().into_owned(),
        options: vec!["ro".into()],
    };
    let mounted = RawMount::parse(&from_file)?.mount(target).or_else(|_| {
        // Before 6.12 the kernel wants a block device: mount(8) makes one that goes with the mount.
        let mount = tool::find("mount", "mount")?;
        let words = ["-t", "erofs", "-o", "ro,loop"].map(Path::new);
        tool::run(&mount, words.into_iter().chain([image, target])).map(drop)
    });
    mounted.map_err(|error| {
        let _ = fs::remove_dir(target);
        error.at(format!("mount the layer {}", image.display()))
    })
}
