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
    pub(super) fn keep(&self, id: &str, from: &Path, is_isolated: bool) -> Result<()> {
        let to = self.path(id, is_isolated);
        let fresh = self.dir.join("new");
        let write = || -> std::io::Result<()> {
            let bytes = fs::read(from)?;
            let _ = fs::remove_file(&fresh);
            let mut file = File::options().write(true).create_new(true).mode(0o500).open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &to)?;
            let _ = fs::remove_file(self.path(id, !is_isolated));
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| Error::io(format!("keep a copy of {}", from.display()), error))
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
        let sync = File::open(&self.dir).and_then(|dir| dir.sync_all());
        sync.map_err(|error| Error::io(format!("sync {}", self.dir.display()), error))
    }

    /// Adds what was loaded by hand to the candidates of a boot; one takes the place of a built-in one of
    /// its id. What cannot be loaded any more is answered, and costs no more than itself.
    pub(super) async fn restore(
        &self,
        loader: &Loader,
        config: &Config,
        candidates: &mut Vec<Candidate>,
    ) -> Vec<(String, Error)> {
        let mut failed = Vec::new();
        let mut paths: Vec<PathBuf> = match fs::read_dir(&self.dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) => {
                let error = Error::io(format!("list {}", self.dir.display()), error);
                return vec![("plugins".into(), error)];
            }
        };
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
            match loader.library(&path, &Load { isolated, ..Load::default() }).await {
                Ok(candidate) if *candidate.manifest.id == *id => {
                    candidates.retain(|other| *other.manifest.id != *id);
                    candidates.push(candidate);
                }
                Ok(candidate) => {
                    let is = &candidate.manifest.id;
                    failed.push((id.into(), Error::corrupt(format!("it is {is} now"))));
                }
                Err(error) => failed.push((id.into(), error)),
            }
        }
        failed
    }
}
