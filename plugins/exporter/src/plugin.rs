//! The plugin.

use actix::{Actor, Addr, AsyncContext as _, Context as Cell, WrapFuture as _};
use capstan_sdk::{Context, Error, Exports, Info, Plugin, Result, export_plugin};
use tokio::net::TcpListener;
use tracing::info;

use crate::serve;

/// `[plugins."exporter.prometheus"]`.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen, such as `127.0.0.1:9323`. Default: empty, which means nowhere.
    pub address: String,
}

/// exporter.prometheus.
#[derive(Debug)]
pub struct PrometheusExporter {
    context: Context,
    listener: Option<TcpListener>,
}

export_plugin!(PrometheusExporter);

impl Plugin for PrometheusExporter {
    const INFO: Info = Info {
        id: "exporter.prometheus",
        version: env!("CARGO_PKG_VERSION"),
        about: "what is counted and measured, over HTTP",
        requires: &["metrics?"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        // It shows all plugins, so it has to be compiled in.
        context.kernel()?;
        if config.address.is_empty() {
            return Ok(Self { context, listener: None });
        }
        let listener = TcpListener::bind(&config.address).await.map_err(|error| {
            let what = "[plugins.\"exporter.prometheus\"] address";
            Error::io(format!("listen on {what} = {:?}", config.address), error)
        })?;
        info!(address = config.address, "metrics are served");
        Ok(Self { context, listener: Some(listener) })
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        // It holds the address: an actor without one ends.
        let addr = addr.clone();
        exports.health(move || {
            let is_alive = addr.connected();
            async move {
                match is_alive {
                    true => Ok(()),
                    false => Err(Error::unavailable("it has ended")),
                }
            }
        });
    }
}

impl Actor for PrometheusExporter {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        if let Some(listener) = self.listener.take() {
            // It ends with the actor, and its connections with it.
            cell.spawn(serve::run(listener, self.context.clone()).into_actor(self));
        }
    }
}
