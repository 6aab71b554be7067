//! The directory of blobs.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use capstan_sdk::{Algorithm, Digest, Error, Result};

/// `blobs/`, with one directory per algorithm, and `damaged/`.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    /// Files that were found not to be what their name says, until the right bytes come.
    damaged: PathBuf,
}

impl Blobs {
    /// Opens it, or makes it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let (dir, damaged) = (root.join("blobs"), root.join("damaged"));
        let dirs = Algorithm::ALL.map(|algorithm| dir.join(algorithm.name()));
        for path in dirs.iter().chain([&damaged]) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| Error::io(format!("make {}", path.display()), error))?;
        }
        Ok(Self { dir, damaged })
    }

    pub(crate) fn algorithm_dir(&self, algorithm: Algorithm) -> PathBuf {
        self.dir.join(algorithm.name())
    }

    /// Holds off whoever would hold the names in another way: `alone` to remove a file, shared to add a record for one.
    /// It blocks. A lock on the directory, because an instance of the plugin that was told to end may still name
    /// what its writers finish, beside the next one.
    pub(crate) fn hold(&self, is_alone: bool) -> Result<File> {
        let lock = || {
            let dir = File::open(&self.dir)?;
            if is_alone {
                dir.lock()?
            } else {
                dir.lock_shared()?
            }
            Ok(dir)
        };
        lock().map_err(|error: std::io::Error| {
            Error::io(format!("lock {}", self.dir.display()), error)
        })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.algorithm().name()).join(digest.hex())
    }

    /// The file of a blob and its size; `None` if there is none.
    pub(crate) fn find(&self, digest: &Digest) -> Result<Option<(File, u64)>> {
        let fail = |error| Error::io(format!("open blob {digest}"), error);
        match File::open(self.path(digest)) {
            Ok(file) => {
                let size = file.metadata().map_err(fail)?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Moves a synced, verified file to its name and makes the name durable. A blob that is there
    /// already is the same bytes, and is replaced by them.
    pub(crate) fn name(&self, data: &Path, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        let fail = |error| Error::io(format!("name blob {digest}"), error);
        fs::set_permissions(data, Permissions::from_mode(0o444)).map_err(fail)?;
        fs::rename(data, &path).map_err(fail)?;
        let dir = path.parent().expect("a blob is in a directory");
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)?;
        // The right bytes are here: nobody needs the wrong ones to look at any more.
        match fs::remove_file(self.aside(digest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(error)),
            _ => Ok(()),
        }
    }

    fn aside(&self, digest: &Digest) -> PathBuf {
        self.damaged.join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Takes the name from a file whose bytes are not what it says.
    pub(crate) fn put_aside(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        let fail = |error| Error::io(format!("put damaged blob {digest} aside"), error);
        match fs::rename(&path, self.aside(digest)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(fail)?,
        }
        let dir = path.parent().expect("a blob is in a directory");
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)
    }

    /// Whether a blob's bytes were put aside.
    pub(crate) fn has_damaged(&self, digest: &Digest) -> bool {
        self.aside(digest).exists()
    }

    /// Removes a file; that it is not there is fine.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        for path in [self.path(digest), self.aside(digest)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("remove blob {digest}"), error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
