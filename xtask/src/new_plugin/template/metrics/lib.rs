//! __KIND__.__NAME__: one gauge.

use std::time::Instant;

use capstan_sdk::actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::{Collect, MetricsAddr, Sample};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, export_plugin, rpc};
use serde::{Deserialize, Serialize};

/// __KIND__.__NAME__.
#[derive(Debug)]
pub struct __TYPE__ {
    started: Instant,
}

export_plugin!(__TYPE__);

/// `[plugins."__KIND__.__NAME__"]`: it has nothing in it yet.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

impl Plugin for __TYPE__ {
    const INFO: Info = Info {
        id: "__KIND__.__NAME__",
        version: env!("CARGO_PKG_VERSION"),
        about: "one gauge",
        requires: &[],
        rank: -1,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        tracing::debug!("it is there");
        Ok(Self { started: Instant::now() })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Metrics>(MetricsAddr::from(addr));
        let link = context.link_self::<Metrics>();
        exports.global_service(move |_peer| rpc::metrics::serve(link.clone()));
    }
}

impl Actor for __TYPE__ {
    type Context = Cell<Self>;
}

impl Handler<Collect> for __TYPE__ {
    type Result = Result<Vec<Sample>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        // Names are made of a-z, 0-9 and _, and end with the unit.
        let age = self.started.elapsed().as_secs_f64();
        let sample = Sample::gauge(
            "__CRATE___age_seconds",
            "How long this instance of the plugin has lived.",
            age,
        );
        Ok(vec![sample])
    }
}
