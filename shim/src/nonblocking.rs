//! Descriptors that never block: they are waited for instead.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::watch::watch;

/// Registers a descriptor that does not block from now on.
///
/// # Errors
/// It cannot be waited for (a regular file), or there are too many.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    watch(fd)
}

/// Writes all, as fast as the other side takes it.
///
/// Cancel safety: none; a part may be written.
///
/// # Errors
/// The other side is gone.
pub(crate) async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let write = |fd: &OwnedFd| Ok(rustix::io::write(fd, bytes)?);
        bytes = &bytes[fd.async_io(Interest::WRITABLE, write).await?..];
    }
    Ok(())
}
