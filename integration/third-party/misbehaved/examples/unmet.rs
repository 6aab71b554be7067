//! A plugin that requires what is nowhere.

use capstan_sdk::actix::{Actor, Addr, Context as Cell};
use capstan_sdk::{Context, Exports, Info, Plugin, Result};

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Config {}

#[derive(Debug)]
struct One;

capstan_sdk::export_plugin!(One);

impl Plugin for One {
    const INFO: Info = Info {
        id: "metrics.unmet",
        version: env!("CARGO_PKG_VERSION"),
        about: "a plugin that requires what is nowhere",
        requires: &["nowhere"],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        Ok(Self)
    }

    fn export(_addr: &Addr<Self>, _context: &Context, _exports: &mut Exports) {}
}

impl Actor for One {
    type Context = Cell<Self>;
}
