//! The directory of blobs.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use capstan_sdk::{Algorithm, Digest, Error, Result, tree};

use crate::hasher::Hasher;

/// What a disk says that cannot read.
const EIO: i32 = 5;

/// `blobs/`, with one directory per algorithm, and `damaged/`.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    damaged: PathBuf,
}

/// What lies in the directory of blobs.
#[derive(Debug, Default)]
pub(crate) struct Lying {
    /// Files by digest, with their sizes.
    pub(crate) blobs: HashMap<Digest, u64>,
    /// Those that were put aside.
    pub(crate) damaged: HashSet<Digest>,
    /// Everything that is no blob.
    pub(crate) strays: Vec<PathBuf>,
}

impl Blobs {
    /// Opens it, or makes it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("blobs");
        for algorithm in Algorithm::ALL {
            let path = dir.join(algorithm.name());
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| Error::io(format!("make {}", path.display()), error))?;
        }
        Ok(Self { dir, damaged: root.join("damaged") })
    }

    fn aside(&self, digest: &Digest) -> PathBuf {
        self.damaged.join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Takes a blob whose bytes are wrong its name; the bytes are kept for people to look at.
    pub(crate) fn put_aside(&self, digest: &Digest) -> Result<()> {
        let fail = |error| Error::io(format!("put blob {digest} aside"), error);
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700).create(&self.damaged).map_err(fail)?;
        fs::rename(self.path(digest), self.aside(digest)).map_err(fail)?;
        tree::sync_dir(&self.dir_of(digest))
    }

    /// Whether its bytes were found to be wrong, and it has not come again.
    pub(crate) fn is_aside(&self, digest: &Digest) -> bool {
        self.aside(digest).exists()
    }

    /// Looks at everything there is.
    pub(crate) fn lying(&self) -> Result<Lying> {
        let mut lying = Lying::default();
        let fail = |error| Error::io(format!("list {}", self.dir.display()), error);
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if !Algorithm::ALL.iter().any(|algorithm| path.ends_with(algorithm.name())) {
                lying.strays.push(path);
            }
        }
        for algorithm in Algorithm::ALL {
            for entry in fs::read_dir(self.dir.join(algorithm.name())).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
                match (Digest::parse(&name), entry.metadata()) {
                    (Ok(digest), Ok(about)) if about.is_file() => {
                        lying.blobs.insert(digest, about.len());
                    }
                    // It went while we looked.
                    (_, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                    _ => lying.strays.push(entry.path()),
                }
            }
        }
        match fs::read_dir(&self.damaged) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries.map_err(fail)? {
                    let entry = entry.map_err(fail)?;
                    let name = entry.file_name().to_string_lossy().replacen('-', ":", 1);
                    match Digest::parse(&name) {
                        Ok(digest) => drop(lying.damaged.insert(digest)),
                        Err(_) => lying.strays.push(entry.path()),
                    }
                }
            }
        }
        Ok(lying)
    }

    /// Whether a file's bytes are those that its name says.
    pub(crate) fn is_sound(&self, digest: &Digest) -> Result<bool> {
        let fail = |error| Error::io(format!("hash blob {digest}"), error);
        let Some((mut file, _)) = self.find(digest)? else {
            // It went meanwhile: then nothing is wrong with it.
            return Ok(true);
        };
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish() == *digest),
                Ok(got) => hasher.update(&buffer[..got]),
                // The disk does not give them back: that is damage, not a reason to stop looking.
                Err(error) if error.raw_os_error() == Some(EIO) => return Ok(false),
                Err(error) => return Err(fail(error)),
            }
        }
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
        self.dir_of(digest).join(digest.hex())
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

    /// Moves a synced, verified file to its name, which is not durable before [`Self::sync_names`]. A blob that is there
    /// already is the same bytes, and is replaced by them.
    pub(crate) fn name(&self, data: &Path, digest: &Digest) -> Result<()> {
        let fail = |error| Error::io(format!("name blob {digest}"), error);
        fs::set_permissions(data, Permissions::from_mode(0o444)).map_err(fail)?;
        fs::rename(data, self.path(digest)).map_err(fail)
    }

    /// Makes names durable.
    pub(crate) fn sync_names<'d>(&self, digests: impl Iterator<Item = &'d Digest>) -> Result<()> {
        let digests: Vec<&Digest> = digests.collect();
        let mut dirs: Vec<PathBuf> = digests.iter().map(|digest| self.dir_of(digest)).collect();
        dirs.sort_unstable();
        dirs.dedup();
        dirs.iter().try_for_each(|dir| tree::sync_dir(dir))?;
        digests.into_iter().try_for_each(|digest| self.forget_aside(digest))
    }

    fn dir_of(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.algorithm().name())
    }

    fn forget_aside(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.aside(digest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove the damaged blob {digest}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a file; that it is not there is fine.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        self.forget_aside(digest)?;
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove blob {digest}"), error))
            }
            _ => Ok(()),
        }
    }
}
