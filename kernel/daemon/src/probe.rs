//! probe.panic: a plugin that panics when it is told to, for the tests of supervision. It is in a
//! daemon only if that was built with the feature `probe`.
//!
//! It offers `Health`: `check("panic")` panics in its actor, any other check answers that it serves.

use std::rc::Rc;

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_schema::health_capnp::health;
use capstan_sdk::{Context, Exports, Info, Link, Plugin, Result, export_plugin};

/// probe.panic.
#[derive(Debug)]
pub(crate) struct Probe;

export_plugin!(Probe);

/// Panics, if it is told to.
#[derive(Debug)]
pub(crate) struct Poke {
    is_fatal: bool,
}

capstan_sdk::contract! {
    /// The contract of kind `probe`.
    ProbeContract ("probe") as ProbeAddr {
        poke: Poke => (),
    }
}

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {}

impl Plugin for Probe {
    const INFO: Info = Info {
        id: "probe.panic",
        version: env!("CARGO_PKG_VERSION"),
        about: "panics when it is told to",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        Ok(Self)
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<ProbeContract>(ProbeAddr::from(addr));
        let link = context.link_self::<ProbeContract>();
        exports.global_service(move |_peer| {
            capnp_rpc::new_client::<health::Client, _>(Server(link.clone())).client
        });
    }
}

impl Actor for Probe {
    type Context = Cell<Self>;
}

impl Handler<Poke> for Probe {
    type Result = Result<()>;
    fn handle(&mut self, poke: Poke, _: &mut Cell<Self>) -> Self::Result {
        assert!(!poke.is_fatal, "as it was told to");
        Ok(())
    }
}

struct Server(Link<ProbeContract>);

impl health::Server for Server {
    async fn check(
        self: Rc<Self>,
        params: health::CheckParams,
        mut results: health::CheckResults,
    ) -> capnp::Result<()> {
        let is_fatal = params.get()?.get_plugin()?.to_str()? == "panic";
        match self.0.send(Poke { is_fatal }).await {
            Ok(()) => results.get().set_serving(true),
            Err(error) => error.write(results.get().init_error()),
        }
        Ok(())
    }
}
