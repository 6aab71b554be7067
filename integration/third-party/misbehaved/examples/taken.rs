//! A plugin with the id of one that is built in.

use capstan_sdk::actix::{Actor, Addr, Context as Cell};
use capstan_sdk::{Context, Exports, Info, Plugin, Result};

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Config {}

#[derive(Debug)]
struct One;

capstan_sdk::export_plugin!(One);

impl Plugin for One {
    const INFO: Info = Info {
        id: "metrics.process",
        version: env!("CARGO_PKG_VERSION"),
        about: "a plugin with the id of one that is built in",
        requires: &[],
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
