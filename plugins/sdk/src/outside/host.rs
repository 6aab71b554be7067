//! What the daemon lends to one plugin from outside: `Host` of plugin.capnp.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use capstan_schema::plugin_capnp::{Directory, LogLevel, host, services};
use capstan_schema::{Error, Namespace, Result};
use tracing::{debug, error, info, trace, warn};

use super::{Serving, Wire, adapter};
use crate::Context;
use crate::context::kind_of;
use crate::rpc::{answer, text};

/// Log records of a plugin are cut to so many bytes.
const LONGEST: usize = 4096;

pub(super) struct Server {
    pub(super) context: Context,
    pub(super) wire: Wire,
    /// Why the instance ended, if it said so.
    pub(super) reason: Rc<RefCell<String>>,
}

impl Server {
    /// A provider for what the manifest requires, by kind or id.
    fn link(&self, target: &str) -> Result<services::Client> {
        let (lookup, requires) = self.context.parts();
        let may = requires.iter().any(|requirement| {
            let requirement = requirement.trim_end_matches('?');
            requirement == target || requirement == kind_of(target)
        });
        let id = self.context.id();
        if !may {
            return Err(Error::denied(format!(
                "{id} does not require {target}: its manifest says what it can reach"
            )));
        }
        let kind = kind_of(target);
        let adapter = adapter(kind).ok_or_else(|| {
            Error::unimplemented(format!("plugins of kind {kind} cannot be reached from outside"))
        })?;
        lookup.resolve(target)?;
        let serving = Serving {
            lookup: Arc::clone(lookup),
            target: target.into(),
            namespace: None,
            wire: self.wire.clone(),
            confined: Some(id.into()),
        };
        Ok(capnp_rpc::new_client(Services { serving, serve: adapter.serve }))
    }
}

/// One provider, open for one other side.
pub(super) struct Services {
    pub(super) serving: Serving,
    pub(super) serve: fn(&Serving) -> Result<capnp::capability::Client>,
}

impl services::Server for Services {
    async fn open(
        self: Rc<Self>,
        params: services::OpenParams,
        mut results: services::OpenResults,
    ) -> capnp::Result<()> {
        let work = async {
            let namespace = text(params.get()?.get_namespace())?;
            let namespace = match namespace.as_str() {
                "" => None,
                name => Some(Namespace::parse(name)?),
            };
            (self.serve)(&Serving { namespace, ..self.serving.clone() })
        };
        answer!(results, work, |out, client| {
            out.init_service().set_as_capability(client.hook);
        })
    }
}

impl host::Server for Server {
    async fn link(
        self: Rc<Self>,
        params: host::LinkParams,
        mut results: host::LinkResults,
    ) -> capnp::Result<()> {
        let work = async { Server::link(&self, &text(params.get()?.get_target())?) };
        answer!(results, work, |out, services| out.set_services(services))
    }

    async fn directory(
        self: Rc<Self>,
        params: host::DirectoryParams,
        mut results: host::DirectoryResults,
    ) -> capnp::Result<()> {
        let work = async {
            let which = params.get()?.get_which().map_err(capnp::Error::from)?;
            let (path, open) = match which {
                Directory::Root => (self.context.root_dir()?, self.context.root_descriptor()?),
                Directory::State => (self.context.state_dir()?, self.context.state_descriptor()?),
            };
            Ok((path, self.wire.give(&open).await?))
        };
        answer!(results, work, |out, (path, number)| {
            out.set_path(&*path.to_string_lossy());
            out.set_descriptor(number);
        })
    }

    async fn log(
        self: Rc<Self>,
        params: host::LogParams,
        _results: host::LogResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let plugin = self.context.id();
        for record in params.get_records()? {
            let (module, text) = (record.get_target()?.to_str()?, record.get_text()?.to_str()?);
            let text = &text[..text.floor_char_boundary(LONGEST)];
            match record.get_level()? {
                LogLevel::Error => error!(plugin, module, "{text}"),
                LogLevel::Warn => warn!(plugin, module, "{text}"),
                LogLevel::Info => info!(plugin, module, "{text}"),
                LogLevel::Debug => debug!(plugin, module, "{text}"),
                LogLevel::Trace => trace!(plugin, module, "{text}"),
            }
        }
        if params.get_dropped() > 0 {
            warn!(plugin, lost = params.get_dropped(), "it logs faster than that is taken");
        }
        Ok(())
    }

    async fn ended(
        self: Rc<Self>,
        params: host::EndedParams,
        _results: host::EndedResults,
    ) -> capnp::Result<()> {
        *self.reason.borrow_mut() = params.get()?.get_reason()?.to_str()?.to_owned();
        Ok(())
    }
}
