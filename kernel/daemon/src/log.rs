//! The daemon's log: tracing events as lines on stderr, for a service manager to keep.

use capstan_schema::{Error, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging. Each line names the module that it is from, and so the plugin. A panic becomes an event too, so that
/// it is in the log with its place.
///
/// # Errors
/// `InvalidArgument`: no such level.
pub(crate) fn start(level: &str) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name().unwrap_or_default(), place, "panicked: {text}");
    }));
    Ok(())
}

/// What a level, or directives, let into the log.
///
/// # Errors
/// `InvalidArgument`: no such level, no such directives.
pub(crate) fn filter(level: &str) -> Result<EnvFilter> {
    let wrong = |why: &str| {
        Error::invalid(format!(
            "log level {level:?}: {why}; use error, warn, info, debug, trace, or MODULE=LEVEL"
        ))
    };
    // A word that is no level is a module to EnvFilter, of which all is shown, and of the others nothing.
    for part in level.split(',').filter(|part| !part.contains(['=', '[', ']'])) {
        if part.trim().is_empty() || part.trim().parse::<LevelFilter>().is_err() {
            return Err(wrong(&format!("{part:?} is no level")));
        }
    }
    EnvFilter::try_new(level).map_err(|error| wrong(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use capstan_schema::Class;

    use super::*;

    #[test]
    fn only_levels_and_directives_are_taken() {
        for good in [
            "error",
            "warn",
            "INFO",
            "debug",
            "trace",
            "off",
            "info,capstan_content=debug",
            "a::b=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "", " ", "info,", "info,loud", "capstan_content", "info=loud", "a=b=c"]
        {
            let error = filter(bad).expect_err(bad);
            assert_eq!(error.class(), Class::InvalidArgument, "{bad}");
            assert!(error.message().contains("use error, warn, info"), "{error}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
}
