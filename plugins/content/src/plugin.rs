//! The plugin: messages in, files and records behind.

use std::fs::File;
use std::sync::Arc;

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::content::{
    Abort, BlobInfo, ContentAddr, Delete, Ingest, IngestInfo, Ingests as ListIngests, List, Open,
    OpenBlob, OpenIngest, Stat,
};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{Commit, Get, ScanAll, Step};
use capstan_sdk::contract::{Content, Listed, Metadata};
use capstan_sdk::{
    Context, Digest, Error, Exports, Info, Labels, Link, Namespace, Plugin, Result, blocking,
    clock, export_plugin, rpc,
};

use crate::blobs::Blobs;
use crate::ingest::{Ingests, Verified};
use crate::record;

/// content.local.
#[derive(Clone, Debug)]
pub struct LocalContent {
    metadata: Link<Metadata>,
    blobs: Blobs,
    ingests: Ingests,
}

export_plugin!(LocalContent);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for LocalContent {
    const INFO: Info = Info {
        id: "content.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "blobs named by digest, as files",
        requires: &["metadata"],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        let metadata = context.link::<Metadata>()?;
        let root = context.root_dir()?;
        let (blobs, ingests) = blocking::run("open the content store", move || {
            Ok((Blobs::open(&root)?, Ingests::open(&root)?))
        })
        .await?;
        Ok(Self { metadata, blobs, ingests })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Content>(ContentAddr::from(addr));
        let link = context.link_self::<Content>();
        exports.service(move |_peer, namespace| rpc::content::serve(link.clone(), namespace));
    }
}

impl Actor for LocalContent {
    type Context = Cell<Self>;
}

fn missing(digest: &Digest) -> Error {
    Error::not_found(format!("blob {digest} is not in this namespace"))
}

impl LocalContent {
    async fn stat(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<BlobInfo>> {
        let bytes = self.metadata.send(Get(record::key(namespace, digest))).await?;
        bytes.map(|bytes| record::read(digest.as_str(), &bytes)).transpose()
    }

    async fn open(self, open: Open) -> Result<OpenBlob> {
        let digest = open.digest;
        let info = self.stat(&open.namespace, &digest).await?.ok_or_else(|| missing(&digest))?;
        blocking::run("open a blob", move || {
            let (file, size) = self.blobs.find(&digest)?.ok_or_else(|| {
                Error::corrupt(format!(
                    "blob {digest} is recorded, but its file is gone; fetch it again"
                ))
            })?;
            if size != info.size {
                return Err(Error::corrupt(format!(
                    "blob {digest} has {size} bytes, recorded are {}; fetch it again",
                    info.size
                )));
            }
            Ok(OpenBlob { file: Arc::new(file), size })
        })
        .await
    }

    async fn open_ingest(self, open: OpenIngest) -> Result<Ingest> {
        if open.reference.is_empty() {
            return Err(Error::invalid("an ingest needs a name"));
        }
        if let Some(expected) = &open.expected
            && self.is_there(&open.namespace, expected).await?
        {
            return Err(Error::already_exists(format!("blob {expected} exists")));
        }
        let (ingests, store) = (self.ingests.clone(), self.clone());
        let runtime = tokio::runtime::Handle::current();
        blocking::run("open an ingest", move || {
            let writer = ingests.writer(&open)?;
            let (ingest, inbox) = writer.ends();
            let serve = runtime.clone();
            runtime.spawn_blocking(move || {
                writer.run(inbox, |verified| serve.block_on(store.name(verified)));
            });
            Ok(ingest)
        })
        .await
    }

    /// Shared by whoever adds a record for a file, alone for whoever removes a file.
    async fn hold(&self, is_alone: bool) -> Result<File> {
        let blobs = self.blobs.clone();
        blocking::run("wait for the names of blobs", move || blobs.hold(is_alone)).await
    }

    /// Whether a namespace has a blob; one that only others have is given to it.
    async fn is_there(&self, namespace: &Namespace, digest: &Digest) -> Result<bool> {
        let _shared = self.hold(false).await?;
        let found = blocking::run("look for a blob", {
            let (blobs, digest) = (self.blobs.clone(), digest.clone());
            move || blobs.find(&digest)
        })
        .await?;
        let Some((_, size)) = found else {
            // Recorded or not, the bytes must come again.
            return Ok(false);
        };
        match self.stat(namespace, digest).await? {
            Some(info) if info.size == size => Ok(true),
            // A file of another size is damaged: it is written anew.
            Some(_) => Ok(false),
            None => match self.recorded_anywhere(digest).await? {
                true => self.record(namespace, digest, size).await.map(|()| true),
                // A crash came between file and record. The file was synced and verified before it
                // got its name, but nothing says so that can be checked cheaply: write it anew.
                false => Ok(false),
            },
        }
    }

    async fn recorded_anywhere(&self, digest: &Digest) -> Result<bool> {
        let namespaces = self.metadata.send(ScanAll("namespaces".into())).await?;
        for (key, _) in namespaces {
            if let Ok(namespace) = Namespace::parse(&key.name)
                && self.stat(&namespace, digest).await?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn record(&self, namespace: &Namespace, digest: &Digest, size: u64) -> Result<()> {
        let info = BlobInfo {
            digest: digest.clone(),
            size,
            created_at_unix_ns: clock::now_unix_ns(),
            labels: Labels::new(),
        };
        let step = Step::Put { key: record::key(namespace, digest), value: record::write(&info) };
        let event =
            NewEvent::new(namespace, "/content/create").with("digest", digest).with("size", size);
        self.metadata.send(Commit { steps: vec![step], events: vec![event] }).await.map(drop)
    }

    /// Gives verified bytes their name: file first, then record.
    async fn name(&self, verified: &Verified<'_>) -> Result<()> {
        let _shared = self.hold(false).await?;
        self.blobs.name(&verified.data, &verified.digest)?;
        if let Some(info) = self.stat(verified.namespace, &verified.digest).await?
            && info.size == verified.size
        {
            return Ok(());
        }
        self.record(verified.namespace, &verified.digest, verified.size).await
    }

    async fn delete(self, delete: Delete) -> Result<()> {
        let _alone = self.hold(true).await?;
        let Delete { namespace, digest } = delete;
        let key = record::key(&namespace, &digest);
        let steps = vec![Step::present(key.clone(), missing(&digest)), Step::Delete(key)];
        let event = NewEvent::new(&namespace, "/content/delete").with("digest", &digest);
        self.metadata.send(Commit { steps, events: vec![event] }).await?;
        if self.recorded_anywhere(&digest).await? {
            return Ok(());
        }
        let blobs = self.blobs.clone();
        blocking::run("remove a blob", move || blobs.remove(&digest)).await
    }
}

impl Handler<Stat> for LocalContent {
    type Result = ResponseFuture<Result<BlobInfo>>;
    fn handle(&mut self, stat: Stat, _: &mut Cell<Self>) -> Self::Result {
        let store = self.clone();
        Box::pin(async move {
            let found = store.stat(&stat.namespace, &stat.digest).await?;
            found.ok_or_else(|| missing(&stat.digest))
        })
    }
}

impl Handler<List> for LocalContent {
    type Result = ResponseFuture<Result<Listed<BlobInfo>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move {
            let List { namespace, page } = list;
            Listed::scan(&metadata, record::BUCKET, Some(namespace), page, record::read).await
        })
    }
}

impl Handler<Open> for LocalContent {
    type Result = ResponseFuture<Result<OpenBlob>>;
    fn handle(&mut self, open: Open, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().open(open))
    }
}

impl Handler<OpenIngest> for LocalContent {
    type Result = ResponseFuture<Result<Ingest>>;
    fn handle(&mut self, open: OpenIngest, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().open_ingest(open))
    }
}

impl Handler<ListIngests> for LocalContent {
    type Result = ResponseFuture<Result<Vec<IngestInfo>>>;
    fn handle(&mut self, ListIngests(namespace): ListIngests, _: &mut Cell<Self>) -> Self::Result {
        let ingests = self.ingests.clone();
        Box::pin(blocking::run("list ingests", move || ingests.list(&namespace)))
    }
}

impl Handler<Abort> for LocalContent {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, abort: Abort, _: &mut Cell<Self>) -> Self::Result {
        let ingests = self.ingests.clone();
        Box::pin(blocking::run("abort an ingest", move || {
            ingests.abort(&abort.namespace, &abort.reference)
        }))
    }
}

impl Handler<Delete> for LocalContent {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, delete: Delete, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().delete(delete))
    }
}

capstan_sdk::not_yet!({} LocalContent:
    capstan_sdk::contract::content::Label => BlobInfo,
    capstan_sdk::contract::content::Use => BlobInfo,
    capstan_sdk::contract::content::Collect => capstan_sdk::contract::graph::Collected,
    capstan_sdk::contract::content::Nodes => Vec<capstan_sdk::contract::graph::Node>,
    capstan_sdk::contract::content::Audit => Vec<capstan_sdk::contract::graph::Finding>,
);
