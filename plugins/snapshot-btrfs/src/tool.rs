//! What `btrfs` does for us.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Result, tool, tree};
use tracing::debug;

/// The program.
#[derive(Debug)]
pub(crate) struct Btrfs {
    program: PathBuf,
}

impl Btrfs {
    /// Finds it.
    ///
    /// # Errors
    /// `FailedPrecondition`: it is not there.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { program: tool::find("btrfs", "btrfs-progs")? })
    }

    fn run(&self, words: &[&str], paths: &[&Path]) -> Result<String> {
        let words = words.iter().map(OsStr::new).chain(paths.iter().map(|path| path.as_os_str()));
        tool::run(&self.program, words)
    }

    /// An empty subvolume.
    pub(crate) fn create(&self, path: &Path) -> Result<()> {
        self.run(&["subvolume", "create"], &[path]).map(drop)
    }

    /// A snapshot of a subvolume.
    pub(crate) fn snapshot(&self, from: &Path, to: &Path, is_read_only: bool) -> Result<()> {
        let words: &[&str] = match is_read_only {
            true => &["subvolume", "snapshot", "-r"],
            false => &["subvolume", "snapshot"],
        };
        self.run(words, &[from, to]).map(drop)
    }

    /// Makes a subvolume read-only.
    pub(crate) fn seal(&self, path: &Path) -> Result<()> {
        let words = [OsStr::new("property"), OsStr::new("set"), OsStr::new("-ts")];
        let behind = [path.as_os_str(), OsStr::new("ro"), OsStr::new("true")];
        tool::run(&self.program, words.into_iter().chain(behind)).map(drop)
    }

    /// Its number, which mounts name.
    pub(crate) fn number(&self, path: &Path) -> Result<u64> {
        let said = self.run(&["inspect-internal", "rootid"], &[path])?;
        said.trim().parse().map_err(|_| {
            Error::internal(format!("btrfs says that {} has the number {said:?}", path.display()))
        })
    }

    /// Removes a subvolume, also one that holds others; that there is none is fine.
    pub(crate) fn delete(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let Err(error) = self.run(&["subvolume", "delete"], &[path]) else { return Ok(()) };
        debug!(path = %path.display(), %error, "it is emptied first");
        tree::remove(path).map_err(|again| again.at(error.message()))
    }
}
