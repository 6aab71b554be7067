//! __KIND__.__NAME__: keeps all that it is asked about.

use capstan_sdk::actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::GcPolicy;
use capstan_sdk::contract::gc_policy::{GcPolicyAddr, Judge, Verdict};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, export_plugin, rpc};
use serde::{Deserialize, Serialize};

/// __KIND__.__NAME__.
#[derive(Debug)]
pub struct __TYPE__;

export_plugin!(__TYPE__);

/// `[plugins."__KIND__.__NAME__"]`: it has nothing in it yet.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

impl Plugin for __TYPE__ {
    const INFO: Info = Info {
        id: "__KIND__.__NAME__",
        version: env!("CARGO_PKG_VERSION"),
        about: "keeps everything",
        requires: &[],
        rank: -1,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        tracing::debug!("it is there");
        Ok(Self)
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<GcPolicy>(GcPolicyAddr::from(addr));
        let link = context.link_self::<GcPolicy>();
        exports.global_service(move |_peer| rpc::gc_policy::serve(link.clone()));
    }
}

impl Actor for __TYPE__ {
    type Context = Cell<Self>;
}

impl Handler<Judge> for __TYPE__ {
    type Result = Result<Vec<Verdict>>;
    fn handle(&mut self, question: Judge, _: &mut Cell<Self>) -> Self::Result {
        Ok(vec![Verdict::Keep; question.candidates.len()])
    }
}
