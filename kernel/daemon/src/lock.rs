//! One daemon per root.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use capstan_schema::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Makes a directory of the daemon, mode 0700 (0711 where peers must pass), if it is missing.
///
/// # Errors
/// What the system says.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Error::io(format!("make directory {}", path.display()), error))
}

/// Takes the lock of a root directory; the system gives it back when the daemon ends, however it ends.
///
/// # Errors
/// `Unavailable`: another daemon has it.
pub(crate) fn take(root: &Path) -> Result<Flock<File>> {
    let path = root.join("lock");
    let fail = |error| Error::io(format!("lock {}", path.display()), error);
    let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    Flock::lock(file.map_err(fail)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            return Error::unavailable(format!(
                "another capstand uses {}; stop it, or use another --root",
                root.display()
            ));
        }
        fail(errno.into())
    })
}
