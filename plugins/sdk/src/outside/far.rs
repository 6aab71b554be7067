//! The far end of a boundary, as a proxy sees it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, AsyncContext as _};
use capnp::capability::{Client, FromClientHook};
use capstan_schema::plugin_capnp::services;
use capstan_schema::{Class, Error, Namespace, Result};

use super::Wire;

/// Interfaces that are kept open, one per namespace. With more namespaces than that some are opened anew.
const OPENED: usize = 256;

/// One provider of one contract, behind a boundary. Cheap to clone.
#[derive(Clone)]
pub struct Far(Rc<Inner>);

struct Inner {
    /// Of the plugin there, for errors.
    id: Arc<str>,
    services: services::Client,
    wire: Wire,
    opened: RefCell<HashMap<String, Client>>,
}

impl std::fmt::Debug for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Far({})", self.0.id)
    }
}

impl Far {
    pub(super) fn new(id: Arc<str>, services: services::Client, wire: Wire) -> Self {
        Self(Rc::new(Inner { id, services, wire, opened: RefCell::default() }))
    }

    /// The interface of the kind, bound to a namespace if the kind's is.
    pub(crate) async fn open<T: FromClientHook>(&self, namespace: Option<&Namespace>) -> Result<T> {
        let name = namespace.map(Namespace::as_str).unwrap_or_default();
        if let Some(client) = self.0.opened.borrow().get(name) {
            return Ok(T::new(client.hook.add_ref()));
        }
        let mut request = self.0.services.open_request();
        request.get().set_namespace(name);
        let client: Client = call!(self, request, |opened| {
            Ok(opened.get_service().get_as_capability::<Client>()?)
        })?;
        let mut opened = self.0.opened.borrow_mut();
        if opened.len() >= OPENED {
            opened.clear();
        }
        opened.insert(name.to_owned(), Client::new(client.hook.add_ref()));
        Ok(T::new(client.hook))
    }

    /// What became of a call that has no answer.
    pub(crate) fn broken(&self, error: capnp::Error) -> Error {
        let id = &self.0.id;
        let error = Error::from(error);
        match error.class() {
            Class::Unavailable => Error::broken_off(format!(
                "{id} broke off while it handled a call; try again, the daemon's log has the cause"
            )),
            _ => error.at(format!("{id} did not answer as it should")),
        }
    }

    /// Sends a descriptor to the other side.
    pub(crate) async fn give(&self, descriptor: impl AsFd) -> Result<u64> {
        self.0.wire.give(descriptor).await
    }

    /// A descriptor that the other side named.
    pub(crate) async fn take(&self, number: u64) -> Result<OwnedFd> {
        self.0.wire.take(number).await
    }
}

/// Calls over a boundary: `call!(far, request, |results| read them)`. The body gives a `Result`.
macro_rules! call {
    ($far:expr, $request:expr, |$results:ident| $read:expr) => {
        $crate::outside::answered!($far, $request.send().promise, |$results| $read)
    };
    ($far:expr, $request:expr) => {
        $crate::outside::call!($far, $request, |_results| Ok(()))
    };
}
pub(crate) use call;

/// The answer to a call that was sent before, as [`call!`] reads it.
macro_rules! answered {
    ($far:expr, $promise:expr, |$results:ident| $read:expr) => {
        match $promise.await {
            Ok(response) => match response.get() {
                Ok($results) => {
                    match capstan_schema::Error::read($results.has_error(), $results.get_error()) {
                        Some(error) => Err(error),
                        None => $read,
                    }
                }
                Err(error) => Err($far.broken(error)),
            },
            Err(error) => Err($far.broken(error)),
        }
    };
}
pub(crate) use answered;

/// The actor that passes the messages of a contract on to the far end.
#[derive(Debug)]
pub(crate) struct Proxy<C> {
    pub(crate) far: Far,
    contract: PhantomData<fn() -> C>,
}

impl<C: 'static> Actor for Proxy<C> {
    type Context = actix::Context<Self>;
}

impl<C: 'static> Proxy<C> {
    /// Starts one on this thread; it lives as long as its address.
    pub(crate) fn start(far: Far) -> actix::Addr<Self> {
        let cell = actix::Context::new();
        let addr = cell.address();
        tokio::task::spawn_local(cell.into_future(Self { far, contract: PhantomData }));
        addr
    }
}
