//! `Health` of health.capnp.

use std::rc::Rc;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::health_capnp::health;
use capstan_sdk::{Class, Error, Kernel, PluginState, PluginStatus};

struct Server(Arc<dyn Kernel>);

pub(crate) fn serve(kernel: Arc<dyn Kernel>) -> Client {
    capnp_rpc::new_client::<health::Client, _>(Server(kernel)).client
}

fn detail(status: &PluginStatus) -> String {
    let why = if status.last_error.is_empty() { "" } else { ": " };
    format!("{} is {}{why}{}", status.id, status.state.name(), status.last_error)
}

/// A disabled plugin is the owner's wish, and one that this machine has no use for says so itself.
fn is_ill(plugin: &PluginStatus) -> bool {
    match plugin.state {
        PluginState::Running | PluginState::Disabled => false,
        PluginState::Skipped => !plugin.last_error.starts_with(Class::Unimplemented.name()),
        _ => true,
    }
}

impl health::Server for Server {
    async fn check(
        self: Rc<Self>,
        params: health::CheckParams,
        mut results: health::CheckResults,
    ) -> capnp::Result<()> {
        let wanted = params.get()?.get_plugin()?.to_str()?;
        let plugins = self.0.plugins();
        let mut out = results.get();
        if wanted.is_empty() {
            let ill: Vec<String> =
                plugins.iter().filter(|plugin| is_ill(plugin)).map(detail).collect();
            out.set_serving(ill.is_empty());
            out.set_detail(ill.join("; "));
        } else if let Some(status) = plugins.iter().find(|status| status.id == wanted) {
            out.set_serving(status.state == PluginState::Running);
            out.set_detail(detail(status));
        } else {
            let error = Error::not_found(format!(
                "plugin {wanted:?} is not there; see `capstan plugins ls`"
            ));
            error.write(out.init_error());
        }
        Ok(())
    }
}
