//! What refers to an image in its registry.

use capstan_sdk::contract::transfer::{ListReferrers, Referrer};
use capstan_sdk::{Error, Result};

use crate::registry::Registry;

/// Lists it.
pub(crate) async fn list(_registry: Registry, list: ListReferrers) -> Result<Vec<Referrer>> {
    Err(Error::unimplemented(format!("referrers of {}: not built yet", list.reference)))
}
