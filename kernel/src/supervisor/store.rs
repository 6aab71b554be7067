//! Libraries that were loaded by hand: a copy of each, so that the next boot loads the same bytes.
//!
//! ```text
//! <root>/plugins/<id>.so            runs on a thread of the daemon
//! <root>/plugins/<id>.isolated.so   runs in a process of its own
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use capstan_schema::{Error, Result};
use capstan_sdk::tree;

use crate::loader::broken;
use crate::{Candidate, Config, Load, Loader};

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

const FORMS: [(bool, &str); 2] = [(false, ".so"), (true, ".isolated.so")];

impl Store {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("plugins");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        Ok(Self { dir })
    }

    fn path(&self, id: &str, is_isolated: bool) -> PathBuf {
        let (_, suffix) = FORMS[usize::from(is_isolated)];
        self.dir.join(format!("{id}{suffix}"))
    }

    pub(super) fn has(&self, id: &str) -> bool {
        FORMS.iter().any(|&(is_isolated, _)| self.path(id, is_isolated).exists())
    }

    /// Keeps a copy: written, synced, named, and the name synced.
    pub(super) fn keep(&self, candidate: &Candidate) -> Result<()> {
        let id = &candidate.manifest.id;
        let is_isolated = candidate.is_from_process();
        let image = candidate.image.as_ref();
        let image = image.ok_or_else(|| Error::internal(format!("{id} is no library")))?;
        let to = self.path(id, is_isolated);
        let fresh = self.dir.join("new");
        let write = || -> std::io::Result<()> {
            let bytes = image.bytes()?;
            let _ = fs::remove_file(&fresh);
            let mut file = File::options().write(true).create_new(true).mode(0o500).open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &to)?;
            let _ = fs::remove_file(self.path(id, !is_isolated));
            Ok(())
        };
        write().map_err(|error| Error::io(format!("keep a copy of {id}"), error))?;
        tree::sync_dir(&self.dir)
    }

    pub(super) fn forget(&self, id: &str) -> Result<()> {
        for (is_isolated, _) in FORMS {
            let path = self.path(id, is_isolated);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        tree::sync_dir(&self.dir)
    }

    /// Adds what was loaded by hand to the candidates of a boot; one takes the place of a built-in one of
    /// its id. What cannot be loaded any more costs no more than itself: it is shown as failed.
    pub(super) async fn restore(
        &self,
        loader: &Loader,
        config: &Config,
        candidates: &mut Vec<Candidate>,
    ) -> Result<()> {
        let fail = |error| Error::io(format!("list {}", self.dir.display()), error);
        let entries = fs::read_dir(&self.dir).map_err(fail)?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".so") else { continue };
            let (id, isolated) = match stem.strip_suffix(".isolated") {
                Some(id) => (id, true),
                None => (stem, false),
            };
            if config.load.contains_key(id) {
                // What the configuration says counts.
                continue;
            }
            let load = Load { isolated, ..Load::default() };
            let candidate = match loader.library(&path, &load).await {
                Ok(candidate) if *candidate.manifest.id == *id => candidate,
                Ok(candidate) => {
                    let is = &candidate.manifest.id;
                    broken(id, &path, Error::corrupt(format!("it says that it is {is}")))
                }
                Err(error) => broken(id, &path, error),
            };
            candidates.retain(|other| *other.manifest.id != *id);
            candidates.push(candidate);
        }
        Ok(())
    }
}
