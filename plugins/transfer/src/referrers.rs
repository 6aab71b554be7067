//! What refers to an image in its registry.

use capstan_sdk::contract::transfer::{ListReferrers, Referrer};
use capstan_sdk::{Reference, Result};

use crate::registry::Registry;

/// Lists it. What a tag means is asked for first: referrers refer to digests.
pub(crate) async fn list(registry: Registry, list: ListReferrers) -> Result<Vec<Referrer>> {
    let reference = Reference::parse(&list.reference)?;
    let at = |error: capstan_sdk::Error| error.at(format!("referrers of {reference}"));
    let repository = registry.repository(&reference, &list.access).map_err(at)?;
    let digest = match reference.digest() {
        Some(digest) => digest.clone(),
        None => repository.resolve().await.map_err(at)?.descriptor.digest,
    };
    repository.referrers(&digest, &list.artifact_type).await
}
