//! How registries are reached, and as whom: the flags, and the answers to the daemon's questions.

use std::fmt;
use std::rc::Rc;

use capstan_client::credentials::{Keyring, Login, answer};
use capstan_client::schema::Reference;
use capstan_client::schema::transfer_capnp::{access, credentials};
use capstan_client::{Error, Result};
use clap::Args;
use tokio::sync::OnceCell;

use crate::terminal;

/// How a registry is reached.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Reach {
    /// Talk http to the registry instead of https
    #[arg(long)]
    plain_http: bool,
    /// Talk https with whomever: do not verify the registry's certificate
    #[arg(short = 'k', long)]
    skip_verify: bool,
}

/// As whom; else as the logins say that `capstan login`, docker and podman keep.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Who {
    /// USER[:PASSWORD] for the registry; without a password it is asked for
    #[arg(short, long, value_name = "U:P")]
    user: Option<Hidden>,
    /// An identity token (OAuth 2 refresh token) for the registry
    #[arg(long, value_name = "TOKEN", conflicts_with = "user")]
    refresh: Option<Hidden>,
}

/// How the two registries of a copy are reached, and as whom.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Ends {
    #[command(flatten)]
    both: Reach,
    /// Talk http to the registry of SOURCE only
    #[arg(long)]
    source_plain_http: bool,
    /// Talk http to the registry of TARGET only
    #[arg(long)]
    target_plain_http: bool,
    /// USER[:PASSWORD] for the registry of SOURCE; without a password it is asked for
    #[arg(long, value_name = "U:P")]
    source_user: Option<Hidden>,
    /// USER[:PASSWORD] for the registry of TARGET; without a password it is asked for
    #[arg(long, value_name = "U:P")]
    target_user: Option<Hidden>,
}

impl Ends {
    /// Writes how the registry of `reference` is reached, from which something is copied.
    pub(crate) fn write_source(&self, reference: &str, out: access::Builder<'_>) {
        self.write(self.source_plain_http, &self.source_user, reference, out);
    }

    /// The same for the one to which it is copied.
    pub(crate) fn write_target(&self, reference: &str, out: access::Builder<'_>) {
        self.write(self.target_plain_http, &self.target_user, reference, out);
    }

    fn write(
        &self,
        plain_http: bool,
        user: &Option<Hidden>,
        reference: &str,
        out: access::Builder<'_>,
    ) {
        let plain_http = plain_http || self.both.plain_http;
        let who = Who { user: user.clone(), refresh: None };
        Reach { plain_http, ..self.both }.write(&who, reference, out);
    }
}

/// What is not to be seen in any output.
#[derive(Clone, PartialEq, Eq)]
struct Hidden(String);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Reach {
    /// Writes it for the daemon, which asks back when a registry wants to know who we are. What `who` says is for the
    /// registry of `reference` only, not for its mirrors.
    pub(crate) fn write(&self, who: &Who, reference: &str, out: access::Builder<'_>) {
        let host = Reference::parse_familiar(reference).ok();
        let host = host.map(|reference| reference.host().to_owned()).unwrap_or_default();
        let keyring = Keyring::of_user();
        let given = OnceCell::new();
        self.write_with(
            capnp_rpc::new_client(Answers { who: who.clone(), host, given, keyring }),
            out,
        );
    }

    /// The same for things of many registries, of which only the logins that are kept say as whom.
    pub(super) fn write_for_all(&self, out: access::Builder<'_>) {
        self.write_with(capnp_rpc::new_client(Keyring::of_user()), out);
    }

    /// The same, with the answers to its questions.
    pub(super) fn write_with(&self, answers: credentials::Client, mut out: access::Builder<'_>) {
        out.set_plain_http(self.plain_http);
        out.set_skip_verify(self.skip_verify);
        out.set_credentials(answers);
    }
}

/// Answers the daemon's questions.
struct Answers {
    who: Who,
    /// For whom `who` is.
    host: String,
    /// What came of it.
    given: OnceCell<Login>,
    keyring: Keyring,
}

impl Answers {
    async fn login(&self, host: &str) -> Result<Option<Login>> {
        let is_given = self.who.user.is_some() || self.who.refresh.is_some();
        match is_given && host == self.host {
            true => self.given.get_or_try_init(|| given(&self.who, host)).await.cloned().map(Some),
            false => self.keyring.find(host).await,
        }
    }
}

/// What the flags say, and the user.
async fn given(who: &Who, host: &str) -> Result<Login> {
    let login = match (&who.user, &who.refresh) {
        (Some(Hidden(user)), _) => match user.split_once(':') {
            Some((user, secret)) => Login::new(user.to_owned(), secret.to_owned()),
            None => {
                Login::new(user.clone(), ask_password(user, host, "--user USER:PASSWORD").await?)
            }
        },
        (None, Some(Hidden(token))) => Login { identity_token: token.clone(), ..Login::default() },
        (None, None) => Login::default(),
    };
    login.check()?;
    Ok(login)
}

/// Asks the user for a password. `flags` are those that give it without asking.
///
/// # Errors
/// `FailedPrecondition`: there is no terminal. `Aborted`: the user does not want to.
pub(super) async fn ask_password(user: &str, host: &str, flags: &str) -> Result<String> {
    let question = format!("Password of {} for {host}: ", user.escape_debug());
    let answer = terminal::ask_hidden(question, flags).await;
    answer.map_err(|error| error.at(format_args!("login to {host}")))
}

impl credentials::Server for Answers {
    async fn get(
        self: Rc<Self>,
        params: credentials::GetParams,
        mut results: credentials::GetResults,
    ) -> capnp::Result<()> {
        let host = params.get()?.get_host()?.to_str()?;
        answer(self.login(host).await, results.get());
        Ok(())
    }
}

/// Answers with one login, for one registry.
pub(super) struct Only {
    pub(super) host: String,
    pub(super) login: Login,
}

impl credentials::Server for Only {
    async fn get(
        self: Rc<Self>,
        params: credentials::GetParams,
        mut results: credentials::GetResults,
    ) -> capnp::Result<()> {
        let host = params.get()?.get_host()?.to_str()?;
        match host == self.host {
            true => self.login.write(results.get().init_login()),
            // The daemon's settings send us there; its own logins are not to be tried in place of this one.
            false => Error::precondition(format!(
                "by the daemon's settings {host} is asked in its place; log in to {host}"
            ))
            .write(results.get().init_error()),
        }
        Ok(())
    }
}
