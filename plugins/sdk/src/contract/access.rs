//! How registries are reached, and as whom.

use std::fmt;

use capstan_schema::Result;
use tokio::sync::{mpsc, oneshot};

/// What nobody else may read: it prints as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// What it is, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a registry is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The name of an account.
    pub user: String,
    /// A password, or a token that stands for one.
    pub secret: Secret,
    /// An OAuth 2 refresh token, given in place of user and secret.
    pub identity_token: Secret,
}

impl Login {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.secret.is_empty() && self.identity_token.is_empty()
    }
}

/// The question what a registry is to be told.
#[derive(Debug)]
pub struct WhoAmI {
    /// `host[:port]` of the registry: never that of a redirect, nor one that a challenge names.
    pub host: String,
    /// Gets the answer; `None`: nothing is known. An error ends what it was asked for: what is known cannot be got.
    pub answer: oneshot::Sender<Result<Option<Login>>>,
}

/// Who answers these questions: the client for which something is done.
pub type Credentials = mpsc::UnboundedSender<WhoAmI>;

/// How registries are reached, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// http in place of https.
    pub is_plain_http: bool,
    /// https with whomever.
    pub skips_verify: bool,
    /// `None`: what the daemon knows by itself.
    pub credentials: Option<Credentials>,
}
