//! Space for the time when there is none: a file that is given up then and made again later.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use capstan_sdk::{Error, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tracing::{info, warn};

/// The reserve of a directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    dir: PathBuf,
    bytes: u64,
    is_there: bool,
    /// It cannot be made here; said once.
    is_refused: bool,
}

impl Reserve {
    pub(crate) fn new(dir: &Path, mib: u32) -> Self {
        let bytes = u64::from(mib) << 20;
        let is_there =
            fs::metadata(path_in(dir)).is_ok_and(|meta| bytes > 0 && meta.len() == bytes);
        Self { dir: dir.into(), bytes, is_there, is_refused: false }
    }

    /// Bytes that this process may still use of the file system.
    ///
    /// # Errors
    /// The file system does not say.
    pub(crate) fn room(&self) -> Result<u64> {
        let stat = statvfs(&self.dir)
            .map_err(|error| Error::io(format!("look at {}", self.dir.display()), error))?;
        // What is kept for root is ours too.
        let blocks =
            if rustix::process::geteuid().is_root() { stat.f_bfree } else { stat.f_bavail };
        Ok(blocks.saturating_mul(stat.f_frsize))
    }

    /// What a commit that adds something is told while there is hardly any room; `None`: there is.
    pub(crate) fn scarcity(&self) -> Option<Error> {
        if self.bytes == 0 {
            return None;
        }
        let room = self.room().ok()?;
        (room < self.bytes).then(|| {
            Error::exhausted(format!(
                "metadata: only {room} bytes are free below {}, and less than {} is kept for removals: remove images, \
                 containers or snapshots (capstan images rm, containers rm, snapshots rm), or make room, and try again",
                self.dir.display(),
                self.bytes
            ))
        })
    }

    /// Frees the space. `false`: there is nothing to free.
    pub(crate) fn give_up(&mut self) -> bool {
        if !self.is_there {
            return false;
        }
        self.is_there = false;
        match fs::remove_file(path_in(&self.dir)) {
            Ok(()) => {
                warn!(
                    bytes = self.bytes,
                    "no space is left: the reserve of the metadata is given up"
                );
                true
            }
            Err(error) => {
                warn!(%error, "the reserve of the metadata cannot be given up");
                false
            }
        }
    }

    /// Whether it is to be made when there is room.
    pub(crate) fn is_wanted(&self) -> bool {
        self.bytes > 0 && !self.is_there && !self.is_refused
    }

    /// Makes it, if there is room for it and as much again.
    pub(crate) fn make(&mut self) {
        let has_room = self.room().is_ok_and(|room| room >= self.bytes.saturating_mul(2));
        if !self.is_wanted() || !has_room {
            return;
        }
        let path = path_in(&self.dir);
        let made = File::create(&path)
            .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
            .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, self.bytes));
        match made {
            Ok(()) => {
                self.is_there = true;
                info!(bytes = self.bytes, "the reserve of the metadata is made");
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                if error != Errno::NOSPC {
                    warn!(%error, "no reserve can be made: without space, removals may fail");
                    self.is_refused = true;
                }
            }
        }
    }
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("metadata.reserve")
}
