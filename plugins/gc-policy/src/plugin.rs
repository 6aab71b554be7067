//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::GcPolicy;
use capstan_sdk::contract::gc_policy::{GcPolicyAddr, Judge, Verdict};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, export_plugin, rpc};

use crate::{Config, age};

/// gc-policy.age.
#[derive(Debug)]
pub struct AgePolicy {
    config: Config,
}

export_plugin!(AgePolicy);

impl Plugin for AgePolicy {
    const INFO: Info = Info {
        id: "gc-policy.age",
        version: env!("CARGO_PKG_VERSION"),
        about: "spares unreferenced things for a time, and up to a size",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        Ok(Self { config })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<GcPolicy>(GcPolicyAddr::from(addr));
        let link = context.link_self::<GcPolicy>();
        exports.global_service(move |_peer| rpc::gc_policy::serve(link.clone()));
    }
}

impl Actor for AgePolicy {
    type Context = Cell<Self>;
}

impl Handler<Judge> for AgePolicy {
    type Result = Result<Vec<Verdict>>;
    fn handle(&mut self, question: Judge, _: &mut Cell<Self>) -> Self::Result {
        Ok(age::judge(self.config, &question))
    }
}
