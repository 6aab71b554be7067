//! The three plugins.

use actix::{Actor, Addr, Context as Cell};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, Scope, export_plugin};

use crate::{health, introspection, version};

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
