//! For unit tests: a contract on this side of a stream, reached from the other.

use std::any::Any;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capstan_schema::Result;
use capstan_schema::plugin_capnp::services;
use tokio::sync::watch;

use super::host::Services;
use super::session::rpc;
use super::{Far, Serving, Wire, adapter};
use crate::{Absent, Contract, Link, Lookup, Provider};

/// A registry with one plugin.
struct One {
    provider: Provider,
    changes: watch::Sender<u64>,
}

impl Lookup for One {
    fn provider(&self, _: &str) -> Result<Provider, Absent> {
        Ok(self.provider.clone())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn resolve(&self, _: &str) -> Result<Arc<str>> {
        Ok(Arc::clone(&self.provider.id))
    }
}

fn lookup(addr: Arc<dyn Any + Send + Sync>) -> Arc<dyn Lookup> {
    let provider = Provider { id: "test".into(), generation: 1, stats: Arc::default(), addr };
    Arc::new(One { provider, changes: watch::Sender::new(0) })
}

/// A link to a provider on the other side, as the plugin `confined` has one.
pub(crate) fn across<C: Contract>(addr: C::Addr, confined: Option<&str>) -> Link<C> {
    let adapter = adapter(C::KIND).expect("the kind can cross");
    let serving = Serving {
        lookup: lookup(Arc::new(addr)),
        target: C::KIND.into(),
        namespace: None,
        wire: Wire::default(),
        confined: confined.map(Arc::from),
    };
    let served: services::Client =
        capnp_rpc::new_client(Services { serving, serve: adapter.serve });
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let system = rpc(far.into(), Side::Server, Some(served.client)).expect("a far end");
    tokio::task::spawn_local(system);
    let mut system = rpc(near.into(), Side::Client, None).expect("a near end");
    let services: services::Client = system.bootstrap(Side::Server);
    tokio::task::spawn_local(system);
    let proxy = (adapter.proxy)(Far::new("test".into(), services, Wire::default()));
    Link::new(lookup(proxy), C::KIND.into())
}
