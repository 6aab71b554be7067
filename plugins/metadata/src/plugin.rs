//! The plugin: messages in, store and writer behind.

use std::convert::Infallible;
use std::sync::Arc;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, Addr, AsyncContext as _, Context as Cell,
    Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::graph::Finding;
use capstan_sdk::contract::metadata::{
    Audit, Commit, Get, Key, LogPage, MetadataAddr, ReadLog, Scan, ScanAll, TrimLog, WatchLog,
};
use capstan_sdk::{Class, Context, Exports, Info, Plugin, Result, blocking, export_plugin};
use tokio::sync::{mpsc, oneshot, watch};

use crate::reserve::Reserve;
use crate::shared::Shared;
use crate::writer::{Order, Writer};
use crate::{Config, audit, read, writer};

/// metadata.redb.
pub struct RedbMetadata {
    shared: Arc<Shared>,
    writer: Writer,
    writer_ended: Option<oneshot::Receiver<Infallible>>,
}

impl std::fmt::Debug for RedbMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbMetadata")
    }
}

export_plugin!(RedbMetadata);

impl Plugin for RedbMetadata {
    const INFO: Info = Info {
        id: "metadata.redb",
        version: env!("CARGO_PKG_VERSION"),
        about: "names, made durable by one writer with group commit (redb)",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let dir = context.root_dir()?;
        let (written, answers) = mpsc::unbounded_channel();
        actix::spawn(writer::answer(answers));
        let open = move || {
            let mut reserve = Reserve::new(&dir, config.reserve_mib);
            let shared = Arc::new(Shared::open(dir, config, &mut reserve)?);
            let (writer, ended) = Writer::start(Arc::clone(&shared), reserve, written)?;
            Ok(Self { shared, writer, writer_ended: Some(ended) })
        };
        blocking::run("open the database", open).await
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        exports.contract::<Metadata>(MetadataAddr::from(addr));
    }
}

impl Drop for RedbMetadata {
    fn drop(&mut self) {
        // First what is queued is written; then nobody has the file open, whoever still has a call under way.
        self.writer.end();
        self.shared.close();
    }
}

impl Actor for RedbMetadata {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        // A writer that has failed takes the plugin with it, so that the supervisor starts both anew.
        if let Some(ended) = self.writer_ended.take() {
            let stop = ended.into_actor(self).map(|_, _, cell: &mut Cell<Self>| cell.stop());
            cell.spawn(stop);
        }
        // So does damage that a reader meets: the next instance rebuilds.
        let mut damage = self.shared.damage();
        let met = async move { damage.wait_for(|is_met| *is_met).await.is_ok() };
        let stop = met.into_actor(self).map(|is_met, _, cell: &mut Cell<Self>| {
            if is_met {
                cell.stop();
            }
        });
        cell.spawn(stop);
        if self.shared.is_large() {
            // It was not looked at when it was opened.
            let shared = Arc::clone(&self.shared);
            let check = blocking::run("check the metadata", move || {
                shared.check().map_err(|error| match error.class() {
                    Class::Corrupt => shared.damaged(&error),
                    _ => error,
                })
            });
            cell.spawn(check.into_actor(self).map(|_, _, _| ()));
        }
    }
}

impl Handler<Commit> for RedbMetadata {
    type Result = ResponseFuture<Result<u64>>;
    fn handle(&mut self, commit: Commit, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.writer.send(Order::Commit(commit)))
    }
}

impl Handler<TrimLog> for RedbMetadata {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, TrimLog(up_to): TrimLog, _: &mut Cell<Self>) -> Self::Result {
        let answer = self.writer.send(Order::Trim(up_to));
        Box::pin(async move { answer.await.map(drop) })
    }
}

impl Handler<Get> for RedbMetadata {
    type Result = Result<Option<Vec<u8>>>;
    fn handle(&mut self, Get(key): Get, _: &mut Cell<Self>) -> Self::Result {
        self.shared.with(|database| read::get(database, &key))
    }
}

impl Handler<Scan> for RedbMetadata {
    type Result = Result<Vec<(String, Vec<u8>)>>;
    fn handle(&mut self, scan: Scan, _: &mut Cell<Self>) -> Self::Result {
        self.shared.with(|database| read::scan(database, &scan))
    }
}

impl Handler<ScanAll> for RedbMetadata {
    type Result = Result<Vec<(Key, Vec<u8>)>>;
    fn handle(&mut self, ScanAll(bucket): ScanAll, _: &mut Cell<Self>) -> Self::Result {
        self.shared.with(|database| read::scan_all(database, &bucket))
    }
}

impl Handler<ReadLog> for RedbMetadata {
    type Result = Result<LogPage>;
    fn handle(&mut self, read: ReadLog, _: &mut Cell<Self>) -> Self::Result {
        self.shared.with(|database| read::log(database, read.after, read.limit))
    }
}

impl Handler<WatchLog> for RedbMetadata {
    type Result = Result<watch::Receiver<u64>>;
    fn handle(&mut self, _: WatchLog, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.writer.head())
    }
}

impl Handler<Audit> for RedbMetadata {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, Audit { is_full }: Audit, _: &mut Cell<Self>) -> Self::Result {
        let shared = Arc::clone(&self.shared);
        Box::pin(blocking::run("audit the metadata", move || audit::audit(&shared, is_full)))
    }
}
