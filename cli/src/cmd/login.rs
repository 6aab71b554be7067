//! `capstan login` and `capstan logout`: as whom registries are spoken to.

use std::io::{Read as _, Write as _};

use capstan_client::credentials::{Keyring, Login as Credentials, registry_host};
use capstan_client::schema::transfer_capnp::transfer;
use capstan_client::{Error, Result};
use serde_json::json;

use super::registry::{Only, Reach, ask_password};
use crate::args::Format;
use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};
use crate::terminal;

/// The most bytes of a password, or of a token, that are read.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// What a login is for, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "HOST")]
    host: String,
    /// The user; `<token>` if the password is an identity token [default: asked for]
    #[arg(short, long)]
    user: Option<String>,
    /// Read the password from stdin instead of asking for it
    #[arg(long, requires = "user")]
    password_stdin: bool,
    #[command(flatten)]
    reach: Reach,
    /// Keep the login without asking the registry whether it is right
    #[arg(long, conflicts_with_all = ["plain_http", "skip_verify"])]
    no_check: bool,
}

impl Login {
    /// `connect` gives the session, if one is needed.
    pub(crate) async fn run(
        self,
        format: Format,
        connect: impl AsyncFnOnce() -> Result<Session>,
    ) -> Outcome {
        let host = registry_host(&self.host)?;
        // Nobody is to type a password in vain.
        let keyring = Keyring::of_user();
        keyring.check()?;
        let session = if self.no_check { None } else { Some(connect().await?) };

        let at = |error: Error| error.at(format_args!("login to {host}"));
        let user = match self.user {
            Some(user) => user,
            None => terminal::ask(format!("User for {host}: "), "--user").await.map_err(at)?,
        };
        let secret = match self.password_stdin {
            true => from_stdin().await.map_err(at)?,
            false => ask_password(&user, &host, "--password-stdin").await?,
        };
        let mut login = Credentials::new(user.clone(), secret);
        login.check().map_err(at)?;

        if let Some(session) = session {
            let service: transfer::Client = session.open("transfer");
            let mut request = service.check_login_request();
            request.get().set_host(&*host);
            let only = Only { host: host.clone(), login: login.clone() };
            self.reach.write_with(capnp_rpc::new_client(only), request.get().init_access());
            let response = call!(session, request);
            // Kept in place of the password, as docker does.
            let identity_token = response.get()?.get_identity_token()?.to_string()?;
            if !identity_token.is_empty() {
                login = Credentials { identity_token, ..Credentials::default() };
            }
        }
        let kept =
            if login.identity_token.is_empty() { "kept" } else { "an identity token is kept" };
        keyring.store(&host, &login)?;
        let file = keyring.file()?.display();
        if let Format::Json = format {
            return print::json_value(
                &json!({ "host": host, "user": user, "file": file.to_string() }),
            );
        }
        let user = user.escape_debug();
        Ok(writeln!(std::io::stdout(), "Logged in to {host} as {user}; {kept} in {file}")?)
    }
}

/// One line, or what there is of it.
async fn from_stdin() -> Result<String> {
    let read = || {
        let mut text = String::new();
        std::io::stdin().lock().take(MAX_SECRET_BYTES + 1).read_to_string(&mut text).map(|_| text)
    };
    let text = tokio::task::spawn_blocking(read).await.map_err(|_| Error::internal("no reader"))?;
    let text = text.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Error::invalid("the password on stdin is no text"),
        _ => Error::io("read the password from stdin", error),
    })?;
    if text.len() as u64 > MAX_SECRET_BYTES {
        return Err(Error::invalid(format!("a password has at most {MAX_SECRET_BYTES} bytes")));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logout {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "HOST")]
    host: String,
}

impl Logout {
    /// It takes no daemon.
    pub(crate) fn run(self, format: Format) -> Outcome {
        let host = registry_host(&self.host)?;
        let keyring = Keyring::of_user();
        keyring.remove(&host)?;
        for path in keyring.known_elsewhere(&host)? {
            let path = path.display();
            writeln!(
                std::io::stderr(),
                "capstan: {path} has a login to {host} too, which is used now"
            )?;
        }
        let file = keyring.file()?.display();
        if let Format::Json = format {
            return print::json_value(&json!({ "host": host, "file": file.to_string() }));
        }
        Ok(writeln!(std::io::stdout(), "Logged out of {host}; removed from {file}")?)
    }
}
