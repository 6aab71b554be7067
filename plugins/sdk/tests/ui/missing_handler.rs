//! A contract is offered without a handler for its message.
//!
//! says: `Mine` does not handle the message
//! says: a plugin handles all messages of its contract

use capstan_sdk::actix::{Actor, Addr, Context as Cell};
use capstan_sdk::contract::GcPolicy;
use capstan_sdk::contract::gc_policy::GcPolicyAddr;
use capstan_sdk::{Context, Exports, Info, Plugin, Result};

struct Mine;

impl Actor for Mine {
    type Context = Cell<Self>;
}

impl Plugin for Mine {
    const INFO: Info =
        Info { id: "gc-policy.mine", version: "1", about: "", requires: &[], rank: 0 };
    type Config = ();

    async fn build(_: (), _: Context) -> Result<Self> {
        Ok(Self)
    }

    fn export(addr: &Addr<Self>, _: &Context, exports: &mut Exports) {
        exports.contract::<GcPolicy>(GcPolicyAddr::from(addr));
    }
}

capstan_sdk::export_plugin!(Mine);

fn main() {}
