//! Whether a registry lets us in.

use capstan_sdk::contract::access::Secret;
use capstan_sdk::{Class, Error, Result};

use super::exchange::{Ask, send};
use super::repository::Repository;
use super::retry::retry;

/// The most bytes of an answer that says nothing more than that it is one.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

impl Repository {
    /// Asks the registry itself, not its mirrors, whether it lets us in, whatever the repository. Answers the identity
    /// token that its token server gives in return.
    ///
    /// # Errors
    /// As [`Repository::resolve`]. `FailedPrecondition` also: it does not want to know who we are.
    pub(crate) async fn check_login(&self) -> Result<Option<Secret>> {
        let home = self.home();
        home.auth().want_identity();
        let what = format!("login to {}", self.reference.host());
        let answer = retry(self.config(), || async {
            let answer = send(&self.pool, &Ask::get(&what, home, "/v2/")).await?;
            Ok(answer.body.read(MAX_ANSWER_BYTES).await?)
        });
        answer.await.map_err(|error| match error.class() {
            Class::PermissionDenied => Error::denied(advised(error.message())),
            Class::NotFound => {
                Error::precondition(format!("{what}: what answers is no registry; check the host"))
            }
            _ => error,
        })?;
        match home.auth().was_asked() {
            true => Ok(home.auth().identity()),
            false => Err(Error::precondition(format!(
                "{what}: the registry lets everybody in, so it does not tell whether the \
                 credentials are right; store them with --no-check if it asks for them elsewhere"
            ))),
        }
    }
}

/// The text of an error without the advice to do what is being done.
fn advised(text: &str) -> String {
    match text.rsplit_once("; ") {
        Some((text, advice)) if advice.contains("capstan login") => {
            format!("{text}; check user and password")
        }
        _ => text.to_owned(),
    }
}
