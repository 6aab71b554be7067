//! A requirement that names nothing.
//!
//! says: an entry of `Info::requires` is a kind or an id, with or without `?` behind it, such as `metadata`, `snapshotter.overlay` or `events?`

use capstan_sdk::actix::{Actor, Addr, Context as Cell};
use capstan_sdk::{Context, Exports, Info, Plugin, Result};

struct Mine;

impl Actor for Mine {
    type Context = Cell<Self>;
}

impl Plugin for Mine {
    const INFO: Info =
        Info { id: "metrics.mine", version: "1", about: "", requires: &["metadata", "?"], rank: 0 };
    type Config = ();

    async fn build(_: (), _: Context) -> Result<Self> {
        Ok(Self)
    }

    fn export(_: &Addr<Self>, _: &Context, _: &mut Exports) {}
}

capstan_sdk::export_plugin!(Mine);

fn main() {}
