//! Single blobs and documents of registries.

use capstan_sdk::contract::Content;
use capstan_sdk::contract::transfer::{GetObject, PutObject};
use capstan_sdk::{Error, Link, Result};

use crate::registry::Registry;

/// Gives what a registry has, without storing it.
pub(crate) async fn get(_registry: Registry, get: GetObject) -> Result<()> {
    Err(Error::unimplemented(format!("get {}: not built yet", get.reference)))
}

/// Sends what is here.
pub(crate) async fn put(
    _content: Link<Content>,
    _registry: Registry,
    put: PutObject,
) -> Result<()> {
    Err(Error::unimplemented(format!("put {}: not built yet", put.reference)))
}
