//! Descriptors that the runtime waits on.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime.
///
/// # Errors
/// It cannot be waited for (a regular file), or there are too many.
#[expect(unsafe_code, reason = "tokio cannot know that an OwnedFd keeps its number")]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open until it is dropped, is owned by the AsyncFd from here on, and gives
    // the same number each time.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
