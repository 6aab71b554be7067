//! The plugin: messages in, store and writer behind.

use std::convert::Infallible;
use std::sync::Arc;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, Addr, AsyncContext as _, Context as Cell,
    Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::metadata::{
    Commit, Get, Key, LogPage, MetadataAddr, ReadLog, Scan, ScanAll, TrimLog, WatchLog,
};
use capstan_sdk::{Context, Exports, Info, Plugin, Result, blocking, export_plugin};
use redb::Database;
use tokio::sync::{oneshot, watch};

use crate::Config;
use crate::writer::{Order, Writer};
use crate::{read, store};

/// metadata.redb.
pub struct RedbMetadata {
    database: Arc<Database>,
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
        let path = context.root_dir()?.join("metadata.redb");
        let database =
            blocking::run("open the database", move || store::open(&path, config.cache_mib))
                .await?;
        let database = Arc::new(database);
        let (writer, ended) = Writer::start(Arc::clone(&database))?;
        Ok(Self { database, writer, writer_ended: Some(ended) })
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        exports.contract::<Metadata>(MetadataAddr::from(addr));
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
        read::get(&self.database, &key)
    }
}

impl Handler<Scan> for RedbMetadata {
    type Result = Result<Vec<(String, Vec<u8>)>>;
    fn handle(&mut self, scan: Scan, _: &mut Cell<Self>) -> Self::Result {
        read::scan(&self.database, &scan)
    }
}

impl Handler<ScanAll> for RedbMetadata {
    type Result = Result<Vec<(Key, Vec<u8>)>>;
    fn handle(&mut self, ScanAll(bucket): ScanAll, _: &mut Cell<Self>) -> Self::Result {
        read::scan_all(&self.database, &bucket)
    }
}

impl Handler<ReadLog> for RedbMetadata {
    type Result = Result<LogPage>;
    fn handle(&mut self, read: ReadLog, _: &mut Cell<Self>) -> Self::Result {
        read::log(&self.database, read.after, read.limit)
    }
}

impl Handler<WatchLog> for RedbMetadata {
    type Result = Result<watch::Receiver<u64>>;
    fn handle(&mut self, _: WatchLog, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.writer.head())
    }
}
