//! The daemon's side of a boundary.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp::capability::Client;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use capstan_schema::plugin_capnp::{LogLevel, plugin, services};
use capstan_schema::{Error, Namespace, Result, read_texts};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};
use tracing::level_filters::LevelFilter;

use super::far::call;
use super::host::Server;
use super::{Far, Serving, Wire, adapter};
use crate::context::kind_of;
use crate::rpc::text;
use crate::{Context, Exports, Manifest, Scope};

/// Texts of a manifest are short. What is longer is no manifest.
const LONGEST: usize = 1024;

/// What was said last has so long to go out to a plugin that does not read.
const CLOSING: Duration = Duration::from_millis(100);

/// A plugin at the other end of two sockets. Dropping it closes them, which ends the plugin.
pub struct Session {
    plugin: plugin::Client,
    wire: Wire,
    reason: Rc<RefCell<String>>,
    ended: watch::Receiver<bool>,
    /// Dropped, it closes the stream.
    _stream: oneshot::Sender<()>,
    descriptors: JoinHandle<()>,
    foreign: RefCell<Option<Foreign>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.descriptors.abort();
    }
}

thread_local! {
    /// Providers of kinds that we do not know. A capability stays on its thread, and a service does not.
    static FOREIGN: RefCell<HashMap<u64, services::Client>> = RefCell::default();
}

/// A place in [`FOREIGN`], for as long as this lives.
struct Foreign(u64);

impl Foreign {
    fn new(services: services::Client) -> Self {
        FOREIGN.with_borrow_mut(|all| {
            let number = all.keys().max().map_or(0, |highest| highest + 1);
            all.insert(number, services);
            Self(number)
        })
    }

    fn open(number: u64, namespace: Option<&Namespace>) -> Result<Client> {
        let services = FOREIGN.with_borrow(|all| all.get(&number).cloned());
        let services = services.ok_or_else(|| Error::unavailable("the plugin has ended"))?;
        let mut request = services.open_request();
        request.get().set_namespace(namespace.map(Namespace::as_str).unwrap_or_default());
        let hook = request.send().pipeline.get_service().as_cap();
        Ok(Client::new(hook))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It fails only while the thread ends, and all with it.
        let _ = FOREIGN.try_with(|all| all.borrow_mut().remove(&self.0));
    }
}

/// Where errors of a session come from, until its plugin said its name.
struct Nameless;

impl Nameless {
    fn broken(&self, error: capnp::Error) -> Error {
        Error::from(error).at("the plugin broke off, or did not answer as a plugin does")
    }
}

/// An RPC system over a stream that carries Cap'n Proto, for either side.
pub(super) fn rpc(
    stream: OwnedFd,
    side: Side,
    bootstrap: Option<Client>,
) -> Result<RpcSystem<Side>> {
    let stream = StdStream::from(stream);
    let fail = |error| Error::io("open the stream of a plugin", error);
    stream.set_nonblocking(true).map_err(fail)?;
    let (read, write) = UnixStream::from_std(stream).map_err(fail)?.into_split();
    let network = twoparty::VatNetwork::new(
        tokio::io::BufReader::new(read).compat(),
        write.compat_write(),
        side,
        capstan_schema::limits(),
    );
    Ok(RpcSystem::new(Box::new(network), bootstrap))
}

impl Session {
    /// Speaks with a plugin over the daemon's ends of the two sockets. Inside an actix system.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(stream: OwnedFd, descriptors: OwnedFd) -> Result<Self> {
        let wire = Wire::new(descriptors)?;
        let end_of_stream =
            stream.try_clone().map_err(|error| Error::io("open the stream of a plugin", error))?;
        let mut system = rpc(stream, Side::Client, None)?;
        let plugin = system.bootstrap(Side::Server);
        let reason = Rc::new(RefCell::new(String::new()));
        let (end, ended) = watch::channel(false);
        let (stream, closed) = oneshot::channel();
        tokio::task::spawn_local({
            let reason = Rc::clone(&reason);
            async move {
                let outcome = tokio::select! {
                    outcome = &mut system => outcome,
                    _ = closed => {
                        // To the system it is as if the plugin had left: calls that are under way fail. (Its
                        // own way to disconnect panics if a message comes at that moment.)
                        let _ = rustix::net::shutdown(&end_of_stream, rustix::net::Shutdown::Both);
                        let _ = tokio::time::timeout(CLOSING, &mut system).await;
                        Ok(())
                    }
                };
                let mut reason = reason.borrow_mut();
                if let (Err(error), true) = (outcome, reason.is_empty()) {
                    *reason = format!("its stream broke: {error}");
                }
                drop(reason);
                let _ = end.send(true);
            }
        });
        let receiver = wire.clone();
        let descriptors = tokio::task::spawn_local(async move { receiver.receive().await });
        Ok(Self {
            plugin,
            wire,
            reason,
            ended,
            _stream: stream,
            descriptors,
            foreign: RefCell::default(),
        })
    }

    /// What the plugin says that it is.
    ///
    /// # Errors
    /// `InvalidArgument`: that is no manifest.
    pub async fn describe(&self) -> Result<Manifest> {
        let request = self.plugin.describe_request();
        let manifest = call!(Nameless, request, |results| {
            let manifest = results.get_manifest()?;
            Ok(Manifest {
                id: text(manifest.get_id())?.into(),
                version: text(manifest.get_version())?,
                about: text(manifest.get_about())?,
                requires: read_texts(manifest.get_requires()?)?.into(),
                rank: manifest.get_rank(),
                built_with: text(manifest.get_built_with())?,
            })
        })?;
        let mut texts =
            vec![&*manifest.id, &manifest.version, &manifest.about, &manifest.built_with];
        texts.extend(manifest.requires.iter().map(String::as_str));
        if texts.len() > LONGEST || texts.iter().any(|text| text.len() > LONGEST) {
            return Err(Error::invalid("the plugin's manifest is far too long"));
        }
        Ok(manifest)
    }

    /// A section with the plugin's defaults filled in.
    ///
    /// # Errors
    /// `InvalidArgument`, with the path of what does not decode.
    pub async fn complete(&self, section: &toml::Table) -> Result<toml::Table> {
        let mut request = self.plugin.complete_request();
        request.get().set_section(section.to_string());
        let section = call!(Nameless, request, |results| text(results.get_section()))?;
        section.parse().map_err(|error| {
            Error::internal(format!("the plugin's configuration is no TOML: {error}"))
        })
    }

    /// Makes the instance; answers what it offers. It lives until [`Session::ended`].
    ///
    /// # Errors
    /// Those of the plugin.
    pub async fn start(&self, context: &Context, section: &toml::Table) -> Result<Exports> {
        let host = Server {
            context: context.clone(),
            wire: self.wire.clone(),
            reason: Rc::clone(&self.reason),
        };
        let mut request = self.plugin.start_request();
        let mut params = request.get();
        params.set_host(capnp_rpc::new_client(host));
        params.set_section(section.to_string());
        params.set_state(context.handed_over());
        params.set_log(match LevelFilter::current().into_level() {
            Some(tracing::Level::TRACE) => LogLevel::Trace,
            Some(tracing::Level::DEBUG) => LogLevel::Debug,
            Some(tracing::Level::INFO) => LogLevel::Info,
            Some(tracing::Level::WARN) => LogLevel::Warn,
            _ => LogLevel::Error,
        });
        let (services, provides) = call!(Nameless, request, |results| {
            Ok((results.get_services()?, read_texts(results.get_provides()?)?))
        })?;
        let mut exports = self.exports(context, services);
        exports.provides = provides;
        let plugin = self.plugin.clone();
        exports.health(move || {
            let request = plugin.health_request();
            async move { call!(Nameless, request) }
        });
        let plugin = self.plugin.clone();
        exports.drain(move || {
            let request = plugin.drain_request();
            async move { call!(Nameless, request, |results| Ok(results.get_state()?.to_vec())) }
        });
        Ok(exports)
    }

    /// A kind that we know is reached by its messages, here and from peers; of another kind peers get what
    /// the plugin gives.
    fn exports(&self, context: &Context, services: services::Client) -> Exports {
        let mut exports = Exports::default();
        let Some(adapter) = adapter(kind_of(context.id())) else {
            let foreign = Foreign::new(services);
            let number = foreign.0;
            exports.opened_service(Scope::AsGiven, move |_peer, namespace| {
                Foreign::open(number, namespace.as_ref())
            });
            self.foreign.replace(Some(foreign));
            return exports;
        };
        let far = Far::new(context.id().into(), services, self.wire.clone());
        exports.contract = Some((adapter.proxy)(far));
        if let Some(peers) = adapter.peers {
            let (lookup, _) = context.parts();
            let (lookup, id): (_, Arc<str>) = (Arc::clone(lookup), context.id().into());
            exports.opened_service(peers.scope, move |_peer, namespace| {
                (peers.serve)(&Serving {
                    lookup: Arc::clone(&lookup),
                    target: Arc::clone(&id),
                    namespace,
                    wire: Wire::default(),
                    confined: None,
                })
            });
        }
        exports
    }

    /// Whether the other side is gone.
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the other side is gone; answers why.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        // An error means the same.
        let _ = ended.wait_for(|ended| *ended).await;
        match self.reason.borrow().as_str() {
            "" => "it closed its stream".into(),
            reason => reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_call_fails_when_the_other_side_goes_away() {
        actix_rt::System::new().block_on(async {
            let (stream, its_stream) = pair(SocketType::STREAM);
            let (descriptors, _its_descriptors) = pair(SocketType::SEQPACKET);
            let session = Session::new(stream, descriptors).unwrap();
            let leave = async {
                // The question is on its way by then.
                tokio::task::yield_now().await;
                drop(its_stream);
            };
            let (answer, ()) = futures::join!(session.describe(), leave);
            assert_eq!(answer.unwrap_err().class(), capstan_schema::Class::Unavailable);
            session.ended().await;
        });
    }
}
