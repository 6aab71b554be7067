//! An id that is no `kind.name`.
//!
//! says: `Info::id` is `kind.name`: two words of a-z, 0-9 and `-` with one dot between, such as `metrics.process`

use capstan_sdk::actix::{Actor, Addr, Context as Cell};
use capstan_sdk::{Context, Exports, Info, Plugin, Result};

struct Mine;

impl Actor for Mine {
    type Context = Cell<Self>;
}

impl Plugin for Mine {
    const INFO: Info = Info { id: "Metrics", version: "1", about: "", requires: &[], rank: 0 };
    type Config = ();

    async fn build(_: (), _: Context) -> Result<Self> {
        Ok(Self)
    }

    fn export(_: &Addr<Self>, _: &Context, _: &mut Exports) {}
}

capstan_sdk::export_plugin!(Mine);

fn main() {}
