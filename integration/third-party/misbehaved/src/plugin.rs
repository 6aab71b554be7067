//! The plugin.

use std::time::Duration;

use capstan_sdk::actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::{Collect, MetricsAddr, Sample};
use capstan_sdk::{Context, Error, Exports, Info, Plugin, Result, export_plugin, rpc};

use crate::{Config, What};

/// As much as one call leaks: 1 GiB.
const LEAK: usize = 1 << 30;
/// So many samples are more than a message may hold.
const HUGE: usize = 1 << 20;

/// metrics.misbehaved.
#[derive(Debug)]
pub struct Misbehaved {
    what: What,
    leaked: Vec<Vec<u8>>,
}

export_plugin!(Misbehaved);

impl Plugin for Misbehaved {
    const INFO: Info = Info {
        id: "metrics.misbehaved",
        version: env!("CARGO_PKG_VERSION"),
        about: "does what a plugin must not do, when it is told to",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        match config.what {
            What::PanicInBuild => panic!("it panicked in build, as it was told to"),
            What::Refuse => Err(Error::precondition("it refused, as it was told to")),
            what => Ok(Self { what, leaked: Vec::new() }),
        }
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Metrics>(MetricsAddr::from(addr));
        let link = context.link_self::<Metrics>();
        exports.global_service(move |_peer| rpc::metrics::serve(link.clone()));
        let addr = addr.clone();
        exports.health(move || {
            let asked = addr.send(Ask);
            async move { asked.await.unwrap_or_else(|_| Err(Error::unavailable("it is gone"))) }
        });
    }
}

impl Misbehaved {
    /// Takes memory, and writes to each page of it: before that it is a promise of the system.
    fn leak(&mut self) {
        let mut more = vec![0; LEAK];
        more.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        self.leaked.push(more);
    }
}

impl Actor for Misbehaved {
    type Context = Cell<Self>;
}

impl Drop for Misbehaved {
    fn drop(&mut self) {
        if self.what == What::PanicInDrop {
            panic!("it panicked in drop, as it was told to");
        }
    }
}

impl Handler<Collect> for Misbehaved {
    type Result = Result<Vec<Sample>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        let name = "capstan_misbehaved_leaked_bytes";
        let mut count = 1;
        match self.what {
            What::PanicInCall => panic!("it panicked in a call, as it was told to"),
            What::Hang => loop {
                std::thread::sleep(Duration::from_secs(60));
            },
            What::Abort => std::process::abort(),
            What::Leak => self.leak(),
            What::Huge => count = HUGE,
            _ => {}
        }
        let bytes = self.leaked.iter().map(Vec::len).sum::<usize>();
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        let sample = |number: usize| {
            Sample::gauge(name, "Memory that it took and keeps.", bytes).with("number", number)
        };
        Ok((0..count).map(sample).collect())
    }
}

/// Whether it can work.
struct Ask;

impl capstan_sdk::actix::Message for Ask {
    type Result = Result<()>;
}

impl Handler<Ask> for Misbehaved {
    type Result = Result<()>;
    fn handle(&mut self, _: Ask, _: &mut Cell<Self>) -> Self::Result {
        match self.what {
            What::Unwell => Err(Error::internal("it is unwell, as it was told to")),
            _ => Ok(()),
        }
    }
}
