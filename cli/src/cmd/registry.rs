//! How registries are reached, and as whom: the flags, and the answers to the daemon's questions.

use std::rc::Rc;

use capstan_client::schema::transfer_capnp::{access, credentials};
use clap::Args;

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

/// As whom.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Who {
    /// USER[:PASSWORD] for the registry; without a password it is asked for
    #[arg(short, long, value_name = "U:P")]
    user: Option<String>,
}

impl Reach {
    /// Writes it for the daemon, which asks back when a registry wants to know who we are.
    pub(crate) fn write(&self, who: &Who, mut out: access::Builder<'_>) {
        out.set_plain_http(self.plain_http);
        out.set_skip_verify(self.skip_verify);
        out.set_credentials(capnp_rpc::new_client(Answers { user: who.user.clone() }));
    }
}

/// Answers the daemon's questions.
struct Answers {
    user: Option<String>,
}

impl credentials::Server for Answers {
    async fn get(
        self: Rc<Self>,
        _params: credentials::GetParams,
        mut results: credentials::GetResults,
    ) -> capnp::Result<()> {
        let mut login = results.get().init_login();
        if let Some(user) = &self.user {
            let (user, secret) = user.split_once(':').unwrap_or((user, ""));
            login.set_user(user);
            login.set_secret(secret);
        }
        Ok(())
    }
}
