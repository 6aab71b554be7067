//! A connection to a daemon.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;

use capnp::capability::{FromClientHook, Promise, Response};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use capstan_schema::root_capnp::root;
use capstan_schema::{Class, Error, Result};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};

/// Where a daemon listens unless it was told otherwise.
pub const DEFAULT_ADDRESS: &str = "unix:///run/capstan/capstan.sock";

/// The namespace of those who do not choose one.
pub const DEFAULT_NAMESPACE: &str = "default";

type Opening = Promise<Response<root::open_results::Owned>, capnp::Error>;

/// A connection. Dropping it ends it, and with it every call that is under way.
pub struct Client {
    root: root::Client,
    /// Services that were opened without waiting: if a call breaks, the reason may be here.
    openings: RefCell<Vec<Opening>>,
    system: AbortHandle,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.system.abort();
    }
}

impl Client {
    /// Connects to `unix:///path`. It must run inside a `LocalSet`.
    ///
    /// # Errors
    /// `InvalidArgument`: not such an address. `Unavailable`: no daemon listens there.
    /// `PermissionDenied`: the socket is not for this user.
    pub async fn connect(address: &str) -> Result<Self> {
        let path = address
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| Error::invalid(format!("address {address:?}: write unix:///PATH")))?;
        let stream = UnixStream::connect(Path::new(path)).await.map_err(|error| {
            let place = format!("connect to {path}");
            match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    Error::unavailable(format!("{place}: no daemon listens there; start capstand"))
                }
                std::io::ErrorKind::PermissionDenied => {
                    Error::denied(format!("{place}: the socket is root's; run this as root"))
                }
                _ => Error::io(place, error),
            }
        })?;
        let (read, write) = stream.into_split();
        let network = twoparty::VatNetwork::new(
            tokio::io::BufReader::new(read).compat(),
            write.compat_write(),
            Side::Client,
            capstan_schema::limits(),
        );
        let mut system = RpcSystem::new(Box::new(network), None);
        let root = system.bootstrap(Side::Server);
        let system = tokio::task::spawn_local(async move {
            // How it ends is seen by the calls that are under way.
            let _ = system.await;
        });
        Ok(Self { root, openings: RefCell::default(), system: system.abort_handle() })
    }

    /// Opens a service: a kind (`images`) or a plugin id (`snapshotter.native`). Does not wait; what
    /// is wrong with it is told by the first [`call`](Self::call).
    pub fn open<T: FromClientHook>(&self, service: &str, namespace: &str) -> T {
        let mut request = self.root.open_request();
        request.get().set_service(service);
        request.get().set_namespace(namespace);
        let opening = request.send();
        let hook = opening.pipeline.get_service().as_cap();
        self.openings.borrow_mut().push(opening.promise);
        T::new(hook)
    }

    /// Waits for a call. Errors of the daemon are in the answer (see [`check!`](crate::check)); this
    /// is for those of the connection.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), if the service was never there. `Unavailable`: the connection broke.
    pub async fn call<T>(&self, promise: impl Future<Output = capnp::Result<T>>) -> Result<T> {
        match promise.await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let openings = self.openings.take();
                for opening in openings {
                    if let Ok(response) = opening.await {
                        crate::check!(response.get()?)?;
                    }
                }
                Err(explain(error))
            }
        }
    }
}

fn explain(error: capnp::Error) -> Error {
    let error = Error::from(error);
    if error.class() == Class::Unavailable {
        return Error::unavailable(
            "the connection to the daemon broke; containers go on, see whether capstand runs",
        );
    }
    error
}
