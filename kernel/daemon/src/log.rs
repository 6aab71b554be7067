//! The daemon's log: tracing events as lines on stderr, for a service manager to keep.

use capstan_schema::{Error, Result};
use tracing_subscriber::EnvFilter;

/// Starts logging. A panic becomes an event too, so that it is in the log with its place.
///
/// # Errors
/// `InvalidArgument`: no such level.
pub(crate) fn start(level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Error::invalid(format!("log level {level:?}: {error}; use error, warn, info, debug, trace"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name().unwrap_or_default(), place, "panicked: {text}");
    }));
    Ok(())
}
