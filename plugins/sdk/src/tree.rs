//! File trees on disk, for drivers: measuring, removing and syncing them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use capstan_schema::{Class, Error, Result};

use crate::contract::snapshotter::Usage;

/// Writes a directory to disk: names that were made in it, or went, survive a power cut.
///
/// # Errors
/// What the system says.
pub fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::io(format!("sync {}", dir.display()), error))
}

/// A file system that is written to disk as a whole: cheaper than file by file, where there are many.
///
/// Keep it for as long as there is something to sync: what could not be written, in whoever's sync that was, the system tells
/// each of these once, and one that is opened later not at all (syncfs(2)).
#[derive(Debug)]
pub struct FileSystem {
    /// A directory in it.
    dir: fs::File,
    path: PathBuf,
}

impl FileSystem {
    /// The one that a directory is in.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(path: &Path) -> Result<Self> {
        let dir = fs::File::open(path)
            .map_err(|error| Error::io(format!("open {}", path.display()), error))?;
        Ok(Self { dir, path: path.to_owned() })
    }

    /// Writes all that is not on disk.
    ///
    /// # Errors
    /// What the system says. It says so once: a sync after it succeeds, and what was not written is lost.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.dir)
            .map_err(|error| Error::io(format!("sync {}", self.path.display()), error))
    }
}

/// Writes directories with their entries to disk, in this order. Those that are not there have nothing to write.
///
/// # Errors
/// What the system says.
pub fn sync_dirs<'p>(dirs: impl IntoIterator<Item = &'p Path>) -> Result<()> {
    for dir in dirs {
        match sync_dir(dir) {
            Err(error) if error.class() != Class::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Measures a tree, the top directory included: apparent bytes, each inode once. Links are not followed.
///
/// What vanishes while it is measured is not counted.
///
/// # Errors
/// What the system says of a directory that cannot be read.
pub fn measure(top: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let fail = |error| Error::io(format!("measure {}", path.display()), error);
        let about = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            about => about.map_err(fail)?,
        };
        if about.nlink() == 1 || about.is_dir() || seen.insert((about.dev(), about.ino())) {
            usage.size += about.len();
            usage.inodes += 1;
        }
        if about.is_dir() {
            for entry in fs::read_dir(&path).map_err(fail)? {
                open.push(entry.map_err(fail)?.path());
            }
        }
    }
    Ok(usage)
}

/// Removes a tree; that it is not there is fine. Links are not followed.
///
/// # Errors
/// What the system says.
pub fn remove(top: &Path) -> Result<()> {
    match fs::remove_dir_all(top) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", top.display()), error))
        }
        _ => Ok(()),
    }
}
