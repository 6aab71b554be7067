//! The root capability: what a peer holds after connecting.

use std::rc::Rc;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::root_capnp::root;
use capstan_schema::{Error, Result};
use capstan_sdk::Peer;

use crate::Registry;

struct Root {
    registry: Arc<Registry>,
    peer: Peer,
}

pub(super) fn serve(registry: Arc<Registry>, peer: Peer) -> Client {
    capnp_rpc::new_client::<root::Client, _>(Root { registry, peer }).client
}

impl Root {
    async fn open(&self, params: &root::OpenParams) -> Result<Client> {
        let params = params.get()?;
        let (service, namespace) =
            (params.get_service()?.to_str()?, params.get_namespace()?.to_str()?);
        if service.is_empty() {
            return Err(Error::invalid("which service? say a kind or a plugin id"));
        }
        self.registry.open(&self.peer, service, namespace).await
    }
}

impl root::Server for Root {
    async fn open(
        self: Rc<Self>,
        params: root::OpenParams,
        mut results: root::OpenResults,
    ) -> capnp::Result<()> {
        match Root::open(&self, &params).await {
            Ok(client) => {
                results.get().init_service().set_as_capability(client.hook);
            }
            Err(error) => error.write(results.get().init_error()),
        }
        Ok(())
    }
}
