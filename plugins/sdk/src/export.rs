//! What an instance of a plugin offers once it is up.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::{Namespace, Result};

use crate::{Contract, LocalFuture};

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

/// Whether a service is bound to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It has none; one that is given is ignored.
    Global,
    /// It needs one.
    Namespaced,
    /// The plugin decides.
    AsGiven,
}

/// A Cap'n Proto interface that a plugin offers to peers of the daemon.
#[derive(Clone)]
pub struct Service {
    /// Whether it is bound to a namespace.
    pub scope: Scope,
    open: Arc<Open>,
}

impl Service {
    /// The capability for one peer. `namespace` is given as the scope says.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn open(&self, peer: &Peer, namespace: Option<Namespace>) -> Result<Client> {
        (self.open)(peer, namespace)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({:?})", self.scope)
    }
}

/// Something that an instance is asked.
pub type Ask<T> = Box<dyn Fn() -> LocalFuture<'static, Result<T>>>;

/// How the supervisor looks after an instance. It stays on the thread of the actors.
#[derive(Default)]
pub struct Care {
    /// Whether the instance can do its work. No answer in time counts as an end.
    pub health: Option<Ask<()>>,
    /// Called before an orderly end, when no more calls come. Answers what the next instance should know.
    pub drain: Option<Ask<Vec<u8>>>,
    /// Its process, if it has one of its own.
    pub pid: Option<u32>,
}

impl fmt::Debug for Care {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Care(pid: {:?})", self.pid)
    }
}

/// Filled by [`Plugin::export`](crate::Plugin::export).
#[derive(Debug, Default)]
pub struct Exports {
    /// The contract of the plugin's kind, as its `Addr`.
    pub contract: Option<Arc<dyn Any + Send + Sync>>,
    /// Names of contracts, for introspection.
    pub provides: Vec<String>,
    /// The interface for peers.
    pub service: Option<Service>,
    /// For the supervisor.
    pub care: Care,
}

impl Exports {
    /// Offers the typed messages of a contract to other plugins.
    pub fn contract<C: Contract>(&mut self, addr: impl Into<C::Addr>) {
        self.contract = Some(Arc::new(addr.into()));
        self.provides.push(C::KIND.into());
    }

    /// Has the supervisor ask from time to time whether the instance can do its work.
    pub fn health<F: Future<Output = Result<()>> + 'static>(
        &mut self,
        ask: impl Fn() -> F + 'static,
    ) {
        self.care.health = Some(Box::new(move || Box::pin(ask())));
    }

    /// Has the supervisor call this before an orderly end; the next instance finds the answer in
    /// [`Context::handed_over`](crate::Context::handed_over).
    pub fn drain<F: Future<Output = Result<Vec<u8>>> + 'static>(
        &mut self,
        drain: impl Fn() -> F + 'static,
    ) {
        self.care.drain = Some(Box::new(move || Box::pin(drain())));
    }

    /// Offers an interface, bound to a namespace, to peers of the daemon.
    pub fn service(&mut self, open: impl Fn(&Peer, Namespace) -> Client + Send + Sync + 'static) {
        let open = move |peer: &Peer, namespace: Option<Namespace>| {
            let namespace = namespace.expect("the kernel checks for a namespace");
            Ok(open(peer, namespace))
        };
        self.opened_service(Scope::Namespaced, open);
    }

    /// Offers what `open` gives, which may fail.
    pub fn opened_service(
        &mut self,
        scope: Scope,
        open: impl Fn(&Peer, Option<Namespace>) -> Result<Client> + Send + Sync + 'static,
    ) {
        self.service = Some(Service { scope, open: Arc::new(open) });
    }

    /// Offers an interface that has no namespace.
    pub fn global_service(&mut self, open: impl Fn(&Peer) -> Client + Send + Sync + 'static) {
        let open = move |peer: &Peer, _: Option<Namespace>| Ok(open(peer));
        self.opened_service(Scope::Global, open);
    }
}
