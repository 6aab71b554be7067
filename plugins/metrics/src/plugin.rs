//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::{Collect, MetricsAddr, Sample};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, blocking, export_plugin, rpc};

use crate::process;

/// metrics.process.
#[derive(Debug)]
pub struct ProcessMetrics;

export_plugin!(ProcessMetrics);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for ProcessMetrics {
    const INFO: Info = Info {
        id: "metrics.process",
        version: env!("CARGO_PKG_VERSION"),
        about: "memory, descriptors, threads and processor time of the process",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        Ok(Self)
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Metrics>(MetricsAddr::from(addr));
        let link = context.link_self::<Metrics>();
        exports.global_service(move |_peer| rpc::metrics::serve(link.clone()));
    }
}

impl Actor for ProcessMetrics {
    type Context = Cell<Self>;
}

impl Handler<Collect> for ProcessMetrics {
    type Result = ResponseFuture<Result<Vec<Sample>>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        // To sum up its pages the kernel walks them all.
        Box::pin(blocking::run("measure the process", process::measure))
    }
}
