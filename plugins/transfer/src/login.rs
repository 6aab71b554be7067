//! Whether a registry lets somebody in.

use capstan_sdk::contract::access::Secret;
use capstan_sdk::contract::transfer::CheckLogin;
use capstan_sdk::{Error, Reference, Result};

use crate::registry::Registry;

/// Asks it.
pub(crate) async fn check(registry: Registry, check: CheckLogin) -> Result<Option<Secret>> {
    let CheckLogin { host, access } = check;
    // Any repository will do: it is not asked for.
    let reference = Reference::parse(&format!("{host}/any")).ok();
    let reference = reference.filter(|reference| reference.host() == host).ok_or_else(|| {
        let shown: String = host.chars().take(80).collect();
        Error::invalid(format!("registry {shown:?}: write HOST[:PORT]"))
    })?;
    registry.repository(&reference, &access)?.check_login().await
}
