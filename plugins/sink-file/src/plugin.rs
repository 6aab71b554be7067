//! The plugin.

use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::Sink;
use capstan_sdk::contract::sink::{Deliver, SinkAddr};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, blocking, export_plugin, rpc};

use crate::Config;
use crate::journal::Journal;

/// sink.file.
#[derive(Debug)]
pub struct FileSink {
    /// `None` if it is not enabled.
    journal: Option<Arc<Mutex<Journal>>>,
}

export_plugin!(FileSink);

impl Plugin for FileSink {
    const INFO: Info = Info {
        id: "sink.file",
        version: env!("CARGO_PKG_VERSION"),
        about: "the event log as lines of JSON in a file; off by default",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(mut config: Config, context: Context) -> Result<Self> {
        if !config.enabled {
            return Ok(Self { journal: None });
        }
        if config.path.as_os_str().is_empty() {
            config.path = context.root_dir()?.join("events.jsonl");
        }
        let journal = blocking::run("open the file of events", move || Journal::open(&config));
        Ok(Self { journal: Some(Arc::new(Mutex::new(journal.await?))) })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Sink>(SinkAddr::from(addr));
        let link = context.link_self::<Sink>();
        exports.global_service(move |_peer| rpc::sink::serve(link.clone()));
    }
}

impl Actor for FileSink {
    type Context = Cell<Self>;
}

impl Handler<Deliver> for FileSink {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, Deliver(events): Deliver, _: &mut Cell<Self>) -> Self::Result {
        let Some(journal) = self.journal.clone() else { return Box::pin(async { Ok(()) }) };
        Box::pin(blocking::run("write events", move || {
            journal.lock().unwrap_or_else(PoisonError::into_inner).append(&events)
        }))
    }
}
