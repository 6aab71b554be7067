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

    /// Whether the file system counts what each subvolume takes.
    ///
    /// # Errors
    /// `Unimplemented`: it does not.
    pub(crate) fn check_quotas(&self, dir: &Path) -> Result<()> {
        let Err(error) = self.run(&["qgroup", "show"], &[dir]) else { return Ok(()) };
        Err(Error::unimplemented(format!(
            "the size of a snapshot cannot be limited here: {} has no quotas; `btrfs quota enable {}` turns them on \
             ({})",
            dir.display(),
            dir.display(),
            error.message()
        )))
    }

    /// Limits what a subvolume takes and does not share with others. `None`: no more.
    pub(crate) fn limit(&self, path: &Path, bytes: Option<u64>) -> Result<()> {
        let limit = bytes.map_or("none".into(), |bytes| bytes.to_string());
        self.run(&["qgroup", "limit", "-e", &limit], &[path]).map(drop)
    }

    /// Forgets what was counted for a subvolume that is gone. A newer kernel does it by itself, when it is done with the
    /// subvolume, and refuses it until then.
    pub(crate) fn forget(&self, number: u64, dir: &Path) {
        if let Err(error) = self.run(&["qgroup", "destroy", &format!("0/{number}")], &[dir]) {
            debug!(number, %error, "the kernel removes its quota group");
        }
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
