//! The plugins.

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::{Collect, MetricsAddr, Sample};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, Scope, export_plugin, rpc};

use crate::{calls, health, introspection, version};

/// They have no configuration.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

macro_rules! service {
    ($(#[$doc:meta])* $plugin:ident, $id:literal, $about:literal, $serve:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $plugin;

        export_plugin!($plugin);

        impl Actor for $plugin {
            type Context = Cell<Self>;
        }

        impl Plugin for $plugin {
            const INFO: Info = Info {
                id: $id,
                version: env!("CARGO_PKG_VERSION"),
                about: $about,
                requires: &[],
                rank: 0,
            };
            type Config = Config;

            async fn build(_config: Config, context: Context) -> Result<Self> {
                // They show all plugins, so they have to be compiled in.
                context.kernel()?;
                Ok(Self)
            }

            fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
                // The service holds the address: an actor without one ends.
                let (kernel, addr) = (context.kernel().cloned(), addr.clone());
                exports.opened_service(Scope::Global, move |_peer, _namespace| {
                    debug_assert!(addr.connected());
                    kernel.clone().map($serve)
                });
            }
        }
    };
}

service!(
    /// introspection.local.
    IntrospectionService,
    "introspection.local",
    "plugins and daemon, for looking at",
    introspection::serve
);
service!(
    /// health.local.
    HealthService,
    "health.local",
    "whether the daemon and its plugins serve",
    health::serve
);
service!(
    /// version.local.
    VersionService,
    "version.local",
    "which build this is",
    version::serve
);

/// metrics.calls.
#[derive(Debug)]
pub struct CallMetrics {
    context: Context,
}

export_plugin!(CallMetrics);

impl Actor for CallMetrics {
    type Context = Cell<Self>;
}

impl Plugin for CallMetrics {
    const INFO: Info = Info {
        id: "metrics.calls",
        version: env!("CARGO_PKG_VERSION"),
        about: "how often each message of each plugin was answered, and how",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        // As the others.
        context.kernel()?;
        Ok(Self { context })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Metrics>(MetricsAddr::from(addr));
        let link = context.link_self::<Metrics>();
        exports.global_service(move |_peer| rpc::metrics::serve(link.clone()));
    }
}

impl Handler<Collect> for CallMetrics {
    type Result = Result<Vec<Sample>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        self.context.kernel().map(calls::measure)
    }
}
