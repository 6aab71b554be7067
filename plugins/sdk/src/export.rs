//! What an instance of a plugin offers once it is up.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::{Namespace, Result};

use crate::Contract;

/// Who is at the other end of a connection, taken when it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id at that time; for the log only, never for a decision.
    pub pid: i32,
}

type Open = dyn Fn(&Peer, Option<Namespace>) -> Result<Client> + Send + Sync;

/// A Cap'n Proto interface that a plugin offers to peers of the daemon.
#[derive(Clone)]
pub struct Service {
    /// Whether it is bound to a namespace.
    pub is_namespaced: bool,
    open: Arc<Open>,
}

impl Service {
    /// The capability for one peer. `namespace` is given if and only if the service has one.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn open(&self, peer: &Peer, namespace: Option<Namespace>) -> Result<Client> {
        (self.open)(peer, namespace)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service(namespaced: {})", self.is_namespaced)
    }
}

/// Filled by [`Plugin::export`](crate::Plugin::export).
#[derive(Debug, Default)]
pub struct Exports {
    /// The contract of the plugin's kind, as its `Addr`.
    pub contract: Option<Arc<dyn Any + Send + Sync>>,
    /// Names of contracts, for introspection.
    pub provides: Vec<&'static str>,
    /// The interface for peers.
    pub service: Option<Service>,
}

impl Exports {
    /// Offers the typed messages of a contract to other plugins.
    pub fn contract<C: Contract>(&mut self, addr: impl Into<C::Addr>) {
        self.contract = Some(Arc::new(addr.into()));
        self.provides.push(C::KIND);
    }

    /// Offers an interface, bound to a namespace, to peers of the daemon.
    pub fn service(&mut self, open: impl Fn(&Peer, Namespace) -> Client + Send + Sync + 'static) {
        let open = move |peer: &Peer, namespace: Option<Namespace>| {
            let namespace = namespace.expect("the kernel checks for a namespace");
            Ok(open(peer, namespace))
        };
        self.service = Some(Service { is_namespaced: true, open: Arc::new(open) });
    }

    /// Offers an interface that has no namespace.
    pub fn global_service(&mut self, open: impl Fn(&Peer) -> Client + Send + Sync + 'static) {
        let open = move |peer: &Peer, _: Option<Namespace>| Ok(open(peer));
        self.service = Some(Service { is_namespaced: false, open: Arc::new(open) });
    }
}
