//! `Version` of version.capnp.

use std::rc::Rc;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::version_capnp::version;
use capstan_sdk::Kernel;

struct Server(Arc<dyn Kernel>);

pub(crate) fn serve(kernel: Arc<dyn Kernel>) -> Client {
    capnp_rpc::new_client::<version::Client, _>(Server(kernel)).client
}

impl version::Server for Server {
    async fn get(
        self: Rc<Self>,
        _params: version::GetParams,
        mut results: version::GetResults,
    ) -> capnp::Result<()> {
        let daemon = self.0.daemon();
        let mut out = results.get();
        out.set_version(daemon.version);
        out.set_revision(daemon.revision);
        Ok(())
    }
}
