//! Work that blocks: disk, mounts, hashing. It never runs on the thread of the actors.

use std::sync::{Arc, Mutex, PoisonError};

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
    let answer = Arc::new(Mutex::new(None));
    let place = Arc::clone(&answer);
    let work = move || {
        let answer = work();
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    };
    on_pool(what, Box::new(work)).await?;
    let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    answer.expect("work that ended has left its answer")
}

/// One type of work for the pool, whatever it does: of each other one tokio's tasks would be compiled anew,
/// two kilobytes a time, some hundred times.
async fn on_pool(what: &'static str, work: Box<dyn FnOnce() + Send>) -> Result<()> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_panic() => {
            Err(Error::internal(format!("{what}: panicked; the daemon's log has the place")))
        }
        Err(_) => Err(Error::aborted(format!("{what}: the daemon is stopping"))),
    }
}
