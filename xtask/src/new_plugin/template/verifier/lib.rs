//! __KIND__.__NAME__: refuses images from certain registries.

use capstan_sdk::actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::verifier::{Ask, Verdict, VerifierAddr, Verify};
use capstan_sdk::{Context, Exports, Info, Plugin, Reference, Result, export_plugin, rpc};
use serde::{Deserialize, Serialize};

/// __KIND__.__NAME__.
#[derive(Debug)]
pub struct __TYPE__ {
    config: Config,
}

export_plugin!(__TYPE__);

/// `[plugins."__KIND__.__NAME__"]`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hosts, such as `registry.example`, whose images get no name here. Default: none.
    pub refused: Vec<String>,
}

impl Plugin for __TYPE__ {
    const INFO: Info = Info {
        id: "__KIND__.__NAME__",
        version: env!("CARGO_PKG_VERSION"),
        about: "refuses images from certain registries",
        requires: &[],
        rank: -1,
    };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        tracing::debug!("it is there");
        Ok(Self { config })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Verifier>(VerifierAddr::from(addr));
        let link = context.link_self::<Verifier>();
        exports.global_service(move |_peer| rpc::verifier::serve(link.clone()));
    }
}

impl Actor for __TYPE__ {
    type Context = Cell<Self>;
}

impl Handler<Ask> for __TYPE__ {
    type Result = Result<bool>;
    fn handle(&mut self, _: Ask, _: &mut Cell<Self>) -> Self::Result {
        // It looks at names alone. With `true` it would get signatures, too.
        Ok(false)
    }
}

impl Handler<Verify> for __TYPE__ {
    type Result = Result<Verdict>;
    fn handle(&mut self, question: Verify, _: &mut Cell<Self>) -> Self::Result {
        let name = Reference::parse(&question.name)?;
        Ok(match self.config.refused.iter().find(|host| *host == name.host()) {
            Some(host) => Verdict::Refused(format!("nothing comes from {host} here")),
            None => Verdict::Accepted,
        })
    }
}
