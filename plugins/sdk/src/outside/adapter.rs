//! The kinds that can cross a boundary, and how.

use std::any::Any;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::{Error, Namespace, Result};

use super::{Far, Proxy, Wire};
use crate::contract::{
    Content, Differ, Events, GcPolicy, Metadata, Metrics, Runtime, Sink, Snapshotter, Verifier,
};
use crate::{Contract, Link, Lookup, Scope, rpc};

/// A provider that is to be reached over a boundary.
#[derive(Clone)]
pub struct Serving {
    /// Where it is looked up.
    pub lookup: Arc<dyn Lookup>,
    /// Its kind or id.
    pub target: Arc<str>,
    /// For a kind that has one.
    pub namespace: Option<Namespace>,
    /// The way for descriptors.
    pub wire: Wire,
    /// The plugin that asks, if it is to reach only what is its own.
    pub confined: Option<Arc<str>>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Serving({})", self.target)
    }
}

impl Serving {
    fn link<C: Contract>(&self) -> Link<C> {
        Link::new(Arc::clone(&self.lookup), Arc::clone(&self.target))
    }

    fn namespace(&self) -> Result<Namespace> {
        let none = || Error::precondition(format!("{} needs a namespace: say which", self.target));
        self.namespace.clone().ok_or_else(none)
    }
}

/// The interface that peers of the daemon get of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    /// Whether it is bound to a namespace.
    pub scope: Scope,
    /// Makes it.
    pub serve: fn(&Serving) -> Result<Client>,
}

/// How one kind crosses a boundary: the contract as an interface, and the interface as the contract.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// The kind.
    pub kind: &'static str,
    /// Contract to interface.
    pub serve: fn(&Serving) -> Result<Client>,
    /// Interface to contract: the contract's `Addr`.
    pub proxy: fn(Far) -> Arc<dyn Any + Send + Sync>,
    /// For kinds that peers of the daemon reach.
    pub peers: Option<Peers>,
}

fn proxy_of<C>(far: Far) -> Arc<dyn Any + Send + Sync>
where
    C: Contract,
    C::Addr: for<'a> From<&'a actix::Addr<Proxy<C>>>,
{
    Arc::new(C::Addr::from(&Proxy::<C>::start(far)))
}

fn serve_content(serving: &Serving) -> Result<Client> {
    Ok(rpc::content::serve_over(serving.link(), serving.namespace()?, serving.wire.clone()))
}

fn serve_snapshotter(serving: &Serving) -> Result<Client> {
    Ok(rpc::snapshotter::serve(serving.link(), serving.namespace()?))
}

fn serve_gc_policy(serving: &Serving) -> Result<Client> {
    Ok(rpc::gc_policy::serve(serving.link()))
}

fn serve_metrics(serving: &Serving) -> Result<Client> {
    Ok(rpc::metrics::serve(serving.link()))
}

fn serve_sink(serving: &Serving) -> Result<Client> {
    Ok(rpc::sink::serve(serving.link()))
}

fn serve_verifier(serving: &Serving) -> Result<Client> {
    Ok(rpc::verifier::serve(serving.link()))
}

/// All of them. A plugin of another kind can be loaded too: its interface is its own, and peers reach it.
pub const ADAPTERS: &[Adapter] = &[
    Adapter {
        kind: GcPolicy::KIND,
        serve: serve_gc_policy,
        proxy: proxy_of::<GcPolicy>,
        peers: Some(Peers { scope: Scope::Global, serve: serve_gc_policy }),
    },
    Adapter {
        kind: Metrics::KIND,
        serve: serve_metrics,
        proxy: proxy_of::<Metrics>,
        peers: Some(Peers { scope: Scope::Global, serve: serve_metrics }),
    },
    Adapter {
        kind: Sink::KIND,
        serve: serve_sink,
        proxy: proxy_of::<Sink>,
        peers: Some(Peers { scope: Scope::Global, serve: serve_sink }),
    },
    Adapter {
        kind: Verifier::KIND,
        serve: serve_verifier,
        proxy: proxy_of::<Verifier>,
        peers: Some(Peers { scope: Scope::Global, serve: serve_verifier }),
    },
    Adapter {
        kind: Content::KIND,
        serve: serve_content,
        proxy: proxy_of::<Content>,
        peers: Some(Peers { scope: Scope::Namespaced, serve: serve_content }),
    },
    Adapter {
        kind: Differ::KIND,
        serve: |serving| Ok(rpc::differ::serve(serving.link(), serving.wire.clone())),
        proxy: proxy_of::<Differ>,
        peers: None,
    },
    Adapter {
        kind: Events::KIND,
        serve: |serving| Ok(rpc::event_log::serve(serving.link(), serving.confined.clone())),
        proxy: proxy_of::<Events>,
        peers: Some(Peers {
            scope: Scope::Namespaced,
            serve: |serving| Ok(rpc::events::serve(serving.link(), serving.namespace()?)),
        }),
    },
    Adapter {
        kind: Metadata::KIND,
        serve: |serving| Ok(rpc::metadata::serve(serving.link(), serving.confined.clone())),
        proxy: proxy_of::<Metadata>,
        peers: None,
    },
    Adapter {
        kind: Runtime::KIND,
        serve: |serving| Ok(rpc::runtime::serve(serving.link())),
        proxy: proxy_of::<Runtime>,
        peers: None,
    },
    Adapter {
        kind: Snapshotter::KIND,
        serve: serve_snapshotter,
        proxy: proxy_of::<Snapshotter>,
        peers: Some(Peers { scope: Scope::Namespaced, serve: serve_snapshotter }),
    },
];

/// How a kind crosses a boundary.
pub fn adapter(kind: &str) -> Option<&'static Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.kind == kind)
}
