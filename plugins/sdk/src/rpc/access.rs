//! `Access` of transfer.capnp.

use capstan_schema::{Error, Result, transfer_capnp as wire};
use tokio::sync::mpsc;

use crate::contract::access::{Access, Credentials, Login, Secret};

/// Reads it. The client is asked for credentials for as long as the daemon may want them.
pub(super) fn read(access: wire::access::Reader<'_>) -> capnp::Result<Access> {
    let credentials = match access.has_credentials() {
        true => Some(ask(access.get_credentials()?)),
        false => None,
    };
    Ok(Access {
        is_plain_http: access.get_plain_http(),
        skips_verify: access.get_skip_verify(),
        credentials,
    })
}

fn ask(client: wire::credentials::Client) -> Credentials {
    let (sender, mut questions) = mpsc::unbounded_channel::<crate::contract::access::WhoAmI>();
    tokio::task::spawn_local(async move {
        while let Some(question) = questions.recv().await {
            let login = login(&client, &question.host).await;
            // Who asked may be gone.
            let _ = question.answer.send(login);
        }
    });
    sender
}

async fn login(client: &wire::credentials::Client, host: &str) -> Result<Option<Login>> {
    let mut request = client.get_request();
    request.get().set_host(host);
    let response = request.send().promise.await?;
    let reply = response.get()?;
    if let Some(error) = Error::read(reply.has_error(), reply.get_error()) {
        return Err(error);
    }
    let login = reply.get_login()?;
    let login = Login {
        user: login.get_user()?.to_string()?,
        secret: Secret::new(login.get_secret()?.to_str()?),
        identity_token: Secret::new(login.get_identity_token()?.to_str()?),
    };
    Ok(Some(login).filter(|login| !login.is_empty()))
}
