//! Images into registries.

use capstan_sdk::contract::transfer::Push;
use capstan_sdk::contract::{Content, Images};
use capstan_sdk::{Descriptor, Error, Link, Result};

use crate::registry::Registry;

/// What pushes work with.
pub(crate) struct Pusher {
    pub(crate) images: Link<Images>,
    pub(crate) content: Link<Content>,
    pub(crate) registry: Registry,
    pub(crate) max_document_bytes: u64,
}

impl Pusher {
    /// Sends an image that is here.
    pub(crate) async fn push(self, push: Push) -> Result<Descriptor> {
        let _ = (self.images, self.content, self.registry, self.max_document_bytes);
        Err(Error::unimplemented(format!("push {}: not built yet", push.reference)))
    }
}
