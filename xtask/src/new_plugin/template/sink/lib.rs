//! __KIND__.__NAME__: remembers the cursors of the events that it got, and says them in the daemon's log.
//!
//! They are gone with the instance; a sink of any use keeps events before it answers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use capstan_sdk::actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::Sink;
use capstan_sdk::contract::sink::{Deliver, SinkAddr};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, export_plugin, rpc};
use serde::{Deserialize, Serialize};
use tracing::info;

/// So many cursors are remembered.
const REMEMBERED: usize = 1000;

/// The newest cursors, the oldest of them first.
static CURSORS: Mutex<VecDeque<u64>> = Mutex::new(VecDeque::new());

/// __KIND__.__NAME__.
#[derive(Debug, Default)]
pub struct __TYPE__ {
    count: u64,
}

export_plugin!(__TYPE__);

/// The cursors of the events that it got.
pub fn cursors() -> Vec<u64> {
    CURSORS.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// `[plugins."__KIND__.__NAME__"]`: it has nothing in it yet.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

impl Plugin for __TYPE__ {
    const INFO: Info = Info {
        id: "__KIND__.__NAME__",
        version: env!("CARGO_PKG_VERSION"),
        about: "counts events",
        requires: &[],
        rank: -1,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        Ok(Self::default())
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Sink>(SinkAddr::from(addr));
        let link = context.link_self::<Sink>();
        exports.global_service(move |_peer| rpc::sink::serve(link.clone()));
    }
}

impl Actor for __TYPE__ {
    type Context = Cell<Self>;
}

impl Handler<Deliver> for __TYPE__ {
    type Result = Result<()>;
    fn handle(&mut self, Deliver(events): Deliver, _: &mut Cell<Self>) -> Self::Result {
        let mut cursors = CURSORS.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            // A batch may come again.
            if cursors.back().is_some_and(|&last| last >= event.cursor) {
                continue;
            }
            cursors.push_back(event.cursor);
            if cursors.len() > REMEMBERED {
                cursors.pop_front();
            }
            self.count += 1;
            info!(cursor = event.cursor, topic = event.event.topic, count = self.count, "an event");
        }
        Ok(())
    }
}
