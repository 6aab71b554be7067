//! `Introspection` of introspection.capnp.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::introspection_capnp::{self as wire, introspection};
use capstan_schema::write_texts;
use capstan_sdk::{Control, Error, Kernel, PluginState, PluginStatus, Result};

use crate::host::Host;

struct Server(Arc<dyn Kernel>);

pub(crate) fn serve(kernel: Arc<dyn Kernel>) -> Client {
    capnp_rpc::new_client::<introspection::Client, _>(Server(kernel)).client
}

fn write(status: &PluginStatus, mut out: wire::plugin::Builder<'_>) {
    out.set_id(&status.id);
    out.set_state(match status.state {
        PluginState::Starting => wire::PluginState::Starting,
        PluginState::Running if !status.degraded.is_empty() => wire::PluginState::Degraded,
        PluginState::Running => wire::PluginState::Running,
        PluginState::Restarting => wire::PluginState::Restarting,
        PluginState::Failed => wire::PluginState::Failed,
        PluginState::Skipped => wire::PluginState::Skipped,
        PluginState::Disabled => wire::PluginState::Disabled,
        PluginState::Stopped => wire::PluginState::Stopped,
        PluginState::Replacing => wire::PluginState::Replacing,
    });
    out.set_source(status.source);
    out.set_version(&status.version);
    out.set_restarts(status.restarts);
    out.set_about(&status.about);
    let count = |list: &[String]| u32::try_from(list.len()).expect("a plugin has few of them");
    write_texts(&status.requires, out.reborrow().init_requires(count(&status.requires)));
    write_texts(&status.provides, out.reborrow().init_provides(count(&status.provides)));
    out.set_last_error(&status.last_error);
    out.set_generation(status.generation);
    out.set_calls(status.calls);
    out.set_failures(status.failures);
    out.set_config(&status.config);
    out.set_started_at_unix_ns(status.started_at_unix_ns);
    out.set_abi(status.abi);
    out.set_origin(&status.origin);
    out.set_built_with(&status.built_with);
    out.set_degraded(&status.degraded);
    out.set_mailbox(u32::try_from(status.mailbox).unwrap_or(u32::MAX));
    out.set_latency_p50_ns(status.latency_p50_ns);
    out.set_latency_p99_ns(status.latency_p99_ns);
    out.set_blackout_ns(status.blackout_ns);
    write_texts(&status.rights, out.reborrow().init_rights(count(&status.rights)));
    out.set_pid(status.pid);
    out.set_memory_bytes(status.memory_bytes);
}

/// Has the kernel change something; the error, or the plugins that it was done to.
async fn control(server: &Server, change: Result<Control>) -> Result<Vec<String>> {
    server.0.control(change?).await
}

fn text(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<String> {
    Ok(reader?.to_str()?.to_owned())
}

fn path(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<PathBuf> {
    let path = PathBuf::from(text(reader)?);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::invalid(format!("library {}: write an absolute path", path.display()))),
    }
}

impl introspection::Server for Server {
    async fn plugins(
        self: Rc<Self>,
        _params: introspection::PluginsParams,
        mut results: introspection::PluginsResults,
    ) -> capnp::Result<()> {
        let plugins = self.0.plugins();
        let count = u32::try_from(plugins.len()).expect("a daemon has few plugins");
        let mut list = results.get().init_plugins(count);
        for (index, status) in (0..).zip(&plugins) {
            write(status, list.reborrow().get(index));
        }
        Ok(())
    }

    async fn plugin(
        self: Rc<Self>,
        params: introspection::PluginParams,
        mut results: introspection::PluginResults,
    ) -> capnp::Result<()> {
        let id = params.get()?.get_id()?.to_str()?;
        match self.0.plugins().iter().find(|status| status.id == id) {
            Some(status) => write(status, results.get().init_plugin()),
            None => {
                let error = Error::not_found(format!(
                    "plugin {id:?} is not there; see `capstan plugins ls`"
                ));
                error.write(results.get().init_error());
            }
        }
        Ok(())
    }

    async fn info(
        self: Rc<Self>,
        _params: introspection::InfoParams,
        mut results: introspection::InfoResults,
    ) -> capnp::Result<()> {
        let (daemon, host, plugins) = (self.0.daemon(), Host::read(), self.0.plugins());
        let running = plugins.iter().filter(|p| p.state == PluginState::Running).count();
        let mut out = results.get().init_info();
        out.set_version(daemon.version);
        out.set_revision(daemon.revision);
        out.set_pid(std::process::id());
        out.set_root(&*daemon.root.to_string_lossy());
        out.set_state(&*daemon.state.to_string_lossy());
        out.set_address(&daemon.address);
        out.set_started_at_unix_ns(daemon.started_at_unix_ns);
        out.set_kernel(&host.kernel);
        out.set_architecture(&host.architecture);
        out.set_cgroup(host.cgroup);
        out.set_cpus(host.cpus);
        out.set_memory_bytes(host.memory_bytes);
        out.set_plugins_running(u32::try_from(running).unwrap_or(u32::MAX));
        out.set_plugins_total(u32::try_from(plugins.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    async fn restart(
        self: Rc<Self>,
        params: introspection::RestartParams,
        mut results: introspection::RestartResults,
    ) -> capnp::Result<()> {
        let change = text(params.get()?.get_id()).map(Control::Restart);
        if let Err(error) = control(&self, change).await {
            error.write(results.get().init_error());
        }
        Ok(())
    }

    async fn load(
        self: Rc<Self>,
        params: introspection::LoadParams,
        mut results: introspection::LoadResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let is_isolated = params.get_isolated();
        let change = path(params.get_path()).map(|path| Control::Load { path, is_isolated });
        match control(&self, change).await {
            Ok(ids) => results.get().set_id(ids.first().map(String::as_str).unwrap_or_default()),
            Err(error) => error.write(results.get().init_error()),
        }
        Ok(())
    }

    async fn replace(
        self: Rc<Self>,
        params: introspection::ReplaceParams,
        mut results: introspection::ReplaceResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let change = text(params.get_id())
            .and_then(|id| path(params.get_path()).map(|path| Control::Replace { id, path }));
        if let Err(error) = control(&self, change).await {
            error.write(results.get().init_error());
        }
        Ok(())
    }

    async fn unload(
        self: Rc<Self>,
        params: introspection::UnloadParams,
        mut results: introspection::UnloadResults,
    ) -> capnp::Result<()> {
        let change = text(params.get()?.get_id()).map(Control::Unload);
        if let Err(error) = control(&self, change).await {
            error.write(results.get().init_error());
        }
        Ok(())
    }

    async fn reload(
        self: Rc<Self>,
        _params: introspection::ReloadParams,
        mut results: introspection::ReloadResults,
    ) -> capnp::Result<()> {
        match control(&self, Ok(Control::Reload)).await {
            Ok(ids) => {
                let count = u32::try_from(ids.len()).expect("a daemon has few plugins");
                write_texts(&ids, results.get().init_changed(count));
            }
            Err(error) => error.write(results.get().init_error()),
        }
        Ok(())
    }
}
