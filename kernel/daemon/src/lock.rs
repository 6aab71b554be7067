//! One daemon per root.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use capstan_schema::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Makes a directory of the daemon, mode 0700, if it is missing. Who has to let others pass, as containers in user
/// namespaces need it, opens the way then.
///
/// # Errors
/// What the system says.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io(format!("make directory {}", path.display()), error))
}

/// A daemon that was killed in the middle of a fork leaves a child that holds the lock until it executes
/// its program.
const LAST_HOLDER: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// Takes the lock of a root directory; the system gives it back when the daemon ends, however it ends.
///
/// # Errors
/// `Unavailable`: another daemon has it.
pub(crate) fn take(root: &Path) -> Result<Flock<File>> {
    let path = root.join("lock");
    let fail = |error| Error::io(format!("lock {}", path.display()), error);
    let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(fail)?;
    let deadline = Instant::now() + LAST_HOLDER;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::unavailable(format!(
                    "another capstand uses {}; stop it, or use another --root",
                    root.display()
                )));
            }
            Err((_, errno)) => return Err(fail(errno.into())),
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_just_being_let_go_of_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path()).unwrap();
        let error = take(dir.path()).unwrap_err();
        assert!(error.message().contains("another capstand"), "{error}");
        let holder = std::thread::spawn(move || {
            std::thread::sleep(LAST_HOLDER / 4);
            drop(held);
        });
        take(dir.path()).unwrap();
        holder.join().unwrap();
    }
}
