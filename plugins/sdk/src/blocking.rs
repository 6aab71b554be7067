//! Work that blocks: disk, mounts, hashing. It never runs on the thread of the actors.

use capstan_schema::{Error, Result};

/// Runs `work` on the pool of threads for blocking work and waits for its answer.
///
/// `what` names it in the error, should it panic.
///
/// Cancel safety: dropped before it ends, the work still runs to its end; only the answer is lost.
///
/// # Errors
/// What `work` says; `Internal` if it panicked.
pub async fn run<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => {
            Err(Error::internal(format!("{what}: panicked; the daemon's log has the place")))
        }
        Err(_) => Err(Error::aborted(format!("{what}: the daemon is stopping"))),
    }
}
