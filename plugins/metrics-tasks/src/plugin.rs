//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::metrics::{Collect, MetricsAddr, Sample};
use capstan_sdk::contract::{Metrics, Runtime};
use capstan_sdk::{Context, Exports, Info, Link, Plugin, Result, export_plugin, rpc};

use crate::collect::collect;

/// metrics.tasks.
#[derive(Debug)]
pub struct TaskMetrics {
    context: Context,
}

export_plugin!(TaskMetrics);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for TaskMetrics {
    const INFO: Info = Info {
        id: "metrics.tasks",
        version: env!("CARGO_PKG_VERSION"),
        about: "memory, processor time, processes, devices of each container",
        requires: &["runtime"],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        Ok(Self { context })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Metrics>(MetricsAddr::from(addr));
        let link = context.link_self::<Metrics>();
        exports.global_service(move |_peer| rpc::metrics::serve(link.clone()));
    }
}

impl Actor for TaskMetrics {
    type Context = Cell<Self>;
}

impl TaskMetrics {
    /// All runtimes; from outside of the daemon's program only the preferred one is seen.
    fn runtimes(&self) -> Result<Vec<Link<Runtime>>> {
        let Ok(kernel) = self.context.kernel() else {
            return Ok(vec![self.context.link::<Runtime>()?]);
        };
        let plugins = kernel.plugins();
        let names = plugins.iter().filter_map(|plugin| plugin.id.strip_prefix("runtime."));
        names.map(|name| self.context.link_named::<Runtime>(name)).collect()
    }
}

impl Handler<Collect> for TaskMetrics {
    type Result = ResponseFuture<Result<Vec<Sample>>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        let runtimes = self.runtimes();
        Box::pin(async move { Ok(collect(&runtimes?).await) })
    }
}
