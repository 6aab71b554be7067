//! What is tried again, how often, and after how long.

use std::hash::{BuildHasher as _, RandomState};
use std::mem::take;
use std::time::Duration;

use capstan_sdk::{Class, Error, Result};
use tokio::time::sleep;
use tracing::debug;

use super::Config;

/// Why one attempt failed. Class `Unavailable` passes, any other is final.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// The wait that the registry asks for.
    pub(super) retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

/// Tries until it works, or until there is to be no next attempt.
///
/// # Errors
/// That of the last attempt.
pub(super) async fn retry<T, F>(config: &Config, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut attempts = Attempts::new(config);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(failure) => attempts.wait_after(failure).await?,
        }
    }
}

/// Counts the attempts at one thing.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    config: &'a Config,
    /// How many brought nothing since the last one that brought something.
    failed: u32,
    has_progressed: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, failed: 0, has_progressed: false }
    }

    /// The attempt under way has brought something: it will not count as failed.
    pub(super) fn progressed(&mut self) {
        self.has_progressed = true;
    }

    /// Returns when the next attempt is due.
    ///
    /// # Errors
    /// That of `failure`, if there is to be no next attempt.
    pub(super) async fn wait_after(&mut self, failure: Failure) -> Result<()> {
        let Failure { error, retry_after } = failure;
        if error.class() != Class::Unavailable {
            return Err(error);
        }
        self.failed = if take(&mut self.has_progressed) { 0 } else { self.failed + 1 };
        if self.failed >= self.config.attempts.max(1) {
            return Err(match self.failed {
                1 => error,
                failed => error.at(format_args!("after {failed} attempts")),
            });
        }
        if let Some(asked) = retry_after
            && asked > self.config.max_wait
        {
            let asked = asked.as_secs();
            return Err(error.at(format_args!("the registry asks to wait {asked} s")));
        }
        let wait = retry_after.unwrap_or_else(|| back_off(self.config, self.failed));
        debug!(failed = self.failed, ?wait, %error, "registry retry");
        sleep(wait).await;
        Ok(())
    }
}

/// The wait after so many failures in a row.
fn back_off(config: &Config, failed: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    let longest = config.first_wait.saturating_mul(1 << doublings).min(config.max_wait);
    // Each RandomState has its own keys, so the hash of nothing is a number by chance.
    let percent = u32::try_from(RandomState::new().hash_one(()) % 51).expect("it is below 51");
    longest - longest * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let config = Config::default();
        let check = |failed: u32, longest_ms: u64| {
            let longest = Duration::from_millis(longest_ms);
            for _ in 0..100 {
                let wait = back_off(&config, failed);
                assert!(longest / 2 <= wait && wait <= longest, "{failed}: {wait:?}");
            }
        };
        check(1, 100);
        check(2, 200);
        check(3, 400);
        check(4, 800);
        check(7, 5_000);
        check(u32::MAX, 5_000);
    }
}
