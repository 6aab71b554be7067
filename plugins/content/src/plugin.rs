//! The plugin: messages in, files and records behind.

use std::fs::File;
use std::sync::Arc;

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::content::{
    Abort, Audit, BlobInfo, Collect, ContentAddr, Delete, Ingest, IngestInfo,
    Ingests as ListIngests, Label, List, Nodes, Open, OpenBlob, OpenIngest, Orphans, Stat, Use,
};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::graph::{Collected, Finding, Node};
use capstan_sdk::contract::metadata::{Commit, Get, ScanAll, Step};
use capstan_sdk::contract::{Content, Listed, Metadata};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::uses::Uses;
use capstan_sdk::{
    Algorithm, Context, Digest, Error, Exports, Info, Labels, Link, Namespace, Plugin, Result,
    blocking, clock, export_plugin, failpoint, merge_labels, rpc,
};
use futures::future::join_all;

use crate::blobs::Blobs;
use crate::ingest::Ingests;
use crate::landing::{Landings, Verified};
use crate::record::{self, Blob};

/// content.local.
#[derive(Clone, Debug)]
pub struct LocalContent {
    pub(crate) metadata: Link<Metadata>,
    pub(crate) blobs: Blobs,
    pub(crate) ingests: Ingests,
    landings: Landings,
    pub(crate) uses: Uses,
    sharing: Sharing,
    algorithm: Algorithm,
    pub(crate) keep_ingests_seconds: u64,
}

export_plugin!(LocalContent);

/// Its section.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What a namespace gets that asks for a blob which only others have. Default: `shared`.
    pub sharing: Sharing,
    /// How bytes are hashed whose writer does not say: `sha256`, `sha384` or `sha512`. Default: `sha256`.
    pub algorithm: String,
    /// For how long an ingest that nobody writes can be resumed, in seconds since its last byte; then a collection removes
    /// it. A pull that broke off, or whose daemon was killed, leaves such ingests. Default: 86,400 (a day).
    pub keep_ingests_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sharing: Sharing::Shared,
            algorithm: Algorithm::Sha256.name().into(),
            keep_ingests_seconds: 86_400,
        }
    }
}

/// What a namespace gets that asks for a blob which only others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// The blob, at once.
    Shared,
    /// Nothing: it must bring the bytes, so that nobody learns from a digest what others have.
    Isolated,
}

impl Plugin for LocalContent {
    const INFO: Info = Info {
        id: "content.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "blobs named by digest, as files",
        requires: &["metadata"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let algorithm = Algorithm::parse(&config.algorithm)?;
        let metadata = context.link::<Metadata>()?;
        let root = context.root_dir()?;
        let (blobs, ingests) = blocking::run("open the content store", move || {
            Ok((Blobs::open(&root)?, Ingests::open(&root)?))
        })
        .await?;
        Ok(Self {
            metadata,
            blobs,
            ingests,
            landings: Landings::default(),
            uses: Uses::default(),
            sharing: config.sharing,
            algorithm,
            keep_ingests_seconds: config.keep_ingests_seconds,
        })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Content>(ContentAddr::from(addr));
        let link = context.link_self::<Content>();
        exports.service(move |_peer, namespace| rpc::content::serve(link.clone(), namespace));
        let addr = addr.clone();
        exports.drain(move || {
            let settled = addr.send(Settle);
            // It fails only if the actor has ended already.
            async move { settled.await.unwrap_or(Ok(())).map(|()| Vec::new()) }
        });
    }
}

impl Actor for LocalContent {
    type Context = Cell<Self>;
}

pub(crate) fn missing(digest: &Digest) -> Error {
    Error::not_found(format!("blob {digest} is not in this namespace"))
}

pub(crate) fn decode(digest: &Digest, record: &[u8]) -> Result<Blob> {
    record::read_blob(digest.as_str(), record).map_err(|error| error.at(format!("blob {digest}")))
}

fn put_aside(digest: &Digest) -> Error {
    Error::not_found(format!(
        "the bytes of blob {digest} were damaged and are put aside; fetch it again (capstan system heal)"
    ))
}

impl LocalContent {
    pub(crate) async fn find(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<Option<(Blob, Vec<u8>)>> {
        let bytes = self.metadata.send(Get(record::key(namespace, digest))).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        Ok(Some((decode(digest, &bytes)?, bytes)))
    }

    async fn stat(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<BlobInfo>> {
        Ok(self.find(namespace, digest).await?.map(|(blob, _)| blob.info))
    }

    /// The record of a blob that is used from now on.
    async fn note(&self, namespace: &Namespace, digest: &Digest) -> Result<BlobInfo> {
        let _shared = self.uses.shared().await;
        let info = self.stat(namespace, digest).await?.ok_or_else(|| missing(digest))?;
        self.uses.note(namespace, digest.as_str());
        Ok(info)
    }

    async fn open(self, open: Open) -> Result<OpenBlob> {
        let digest = open.digest;
        let info = self.note(&open.namespace, &digest).await?;
        blocking::run("open a blob", move || {
            let Some((file, size)) = self.blobs.find(&digest)? else {
                if self.blobs.is_aside(&digest) {
                    return Err(put_aside(&digest));
                }
                return Err(Error::corrupt(format!(
                    "blob {digest} is recorded, but its file is gone; fetch it again"
                )));
            };
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

    async fn use_(self, namespace: Namespace, digest: Digest) -> Result<BlobInfo> {
        let info = self.note(&namespace, &digest).await?;
        blocking::run("look at a blob", move || match self.blobs.find(&digest)? {
            Some((_, size)) if size == info.size => Ok(info),
            _ if self.blobs.is_aside(&digest) => Err(put_aside(&digest)),
            _ => Err(Error::not_found(format!(
                "blob {digest} is recorded, but its bytes are not there; fetch it again"
            ))),
        })
        .await
    }

    async fn open_ingest(self, open: OpenIngest) -> Result<Ingest> {
        if open.reference.is_empty() {
            return Err(Error::invalid("an ingest needs a name"));
        }
        if let (Some(wanted), Some(expected)) = (open.algorithm, &open.expected)
            && wanted != expected.algorithm()
        {
            return Err(Error::invalid(format!(
                "{expected} cannot be what {} gives",
                wanted.name()
            )));
        }
        if let Some(expected) = &open.expected
            && self.is_there(&open.namespace, expected, &open.labels).await?
        {
            return Err(Error::already_exists(format!("blob {expected} exists")));
        }
        let (ingests, store) = (self.ingests.clone(), self.clone());
        let runtime = tokio::runtime::Handle::current();
        blocking::run("open an ingest", move || {
            let writer = ingests.writer(&open, store.algorithm)?;
            let (ingest, inbox) = writer.ends();
            let serve = runtime.clone();
            runtime.spawn_blocking(move || {
                let landings = store.landings.clone();
                let name = |files: &[&Verified]| serve.block_on(store.name(files));
                writer.run(inbox, |verified| landings.land(verified, name));
            });
            Ok(ingest)
        })
        .await
    }

    /// Shared by whoever adds a record for a file, alone for whoever removes a file.
    pub(crate) async fn hold(&self, is_alone: bool) -> Result<File> {
        let blobs = self.blobs.clone();
        blocking::run("wait for the names of blobs", move || blobs.hold(is_alone)).await
    }

    /// Whether a namespace has a blob; one that only others have is given to it, where they share.
    async fn is_there(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        labels: &Labels,
    ) -> Result<bool> {
        let (blobs, wanted) = (self.blobs.clone(), digest.clone());
        let look = move || Ok((blobs.hold(false)?, blobs.find(&wanted)?));
        let (_shared, found) = blocking::run("look for a blob", look).await?;
        let Some((_, size)) = found else {
            // Recorded or not, the bytes must come again.
            return Ok(false);
        };
        match self.stat(namespace, digest).await? {
            Some(info) if info.size == size => {
                let has = |(key, value): (&String, &String)| match value.as_str() {
                    "" => !info.labels.contains_key(key),
                    _ => info.labels.get(key) == Some(value),
                };
                if labels.iter().all(has) {
                    self.uses.note(namespace, digest.as_str());
                    return Ok(true);
                }
            }
            // A file of another size is damaged: it is written anew.
            Some(_) => return Ok(false),
            None if self.sharing == Sharing::Isolated => return Ok(false),
            // Without a record anywhere a crash came between file and record. The file was synced and verified
            // before it got its name, but nothing says so that can be checked cheaply: it is written anew.
            None if self.recorded_size(digest).await? != Some(size) => return Ok(false),
            None => {}
        }
        self.record(namespace, digest, size, labels).await?;
        Ok(true)
    }

    /// How many bytes a blob has, by the record of any namespace.
    pub(crate) async fn recorded_size(&self, digest: &Digest) -> Result<Option<u64>> {
        for namespace in self.namespaces().await? {
            if let Some(info) = self.stat(&namespace, digest).await? {
                return Ok(Some(info.size));
            }
        }
        Ok(None)
    }

    pub(crate) async fn namespaces(&self) -> Result<Vec<Namespace>> {
        let known = self.metadata.send(ScanAll("namespaces".into())).await?;
        Ok(known.iter().filter_map(|(key, _)| Namespace::parse(&key.name).ok()).collect())
    }

    /// Has a namespace name a file, or notes that it used the one that it names. Labels are added to those of before.
    async fn record(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        size: u64,
        labels: &Labels,
    ) -> Result<()> {
        let _shared = self.uses.shared().await;
        revise(&self.metadata, &record::key(namespace, digest), |old| {
            let now = clock::now_unix_ns();
            let mut blob = match old {
                Some(old) => decode(digest, old)?,
                None => Blob {
                    info: BlobInfo {
                        digest: digest.clone(),
                        size,
                        created_at_unix_ns: now,
                        labels: Labels::new(),
                    },
                    used_at_unix_ns: now,
                },
            };
            let is_same = old.is_some() && blob.info.size == size;
            blob.info.size = size;
            blob.used_at_unix_ns = now;
            merge_labels(&mut blob.info.labels, labels);
            let revision = Revision::write(record::write(&blob), ());
            if is_same {
                return Ok(revision);
            }
            let event = NewEvent::new(namespace, "/content/create")
                .with("digest", digest)
                .with("size", size);
            Ok(revision.with(event))
        })
        .await
    }

    /// Gives verified files their names: first the files, then the records. What becomes of each.
    async fn name(&self, files: &[&Verified]) -> Vec<Result<()>> {
        let _shared = match self.hold(false).await {
            Ok(shared) => shared,
            Err(error) => return files.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut outcomes: Vec<Result<()>> =
            files.iter().map(|file| self.blobs.name(&file.data(), &file.digest)).collect();
        let named = files.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        let synced = self.blobs.sync_names(named.map(|(file, _)| &file.digest));
        failpoint::at("blob:named");
        let recorded = files.iter().zip(&mut outcomes).map(async |(file, outcome)| {
            if outcome.is_ok() {
                *outcome = synced.clone();
            }
            if outcome.is_ok() {
                let Verified { namespace, digest, size, labels, .. } = file;
                *outcome = self.record(namespace, digest, *size, labels).await;
            }
        });
        join_all(recorded).await;
        outcomes
    }

    async fn delete(self, delete: Delete) -> Result<()> {
        let _alone = self.hold(true).await?;
        let Delete { namespace, digest } = delete;
        let key = record::key(&namespace, &digest);
        let steps = vec![Step::present(key.clone(), missing(&digest)), Step::Delete(key)];
        let event = NewEvent::new(&namespace, "/content/delete").with("digest", &digest);
        self.metadata.send(Commit { steps, events: vec![event] }).await?;
        self.uses.forget(&namespace, digest.as_str());
        failpoint::at("blob:forgotten");
        self.remove_unnamed(&digest).await.map(drop)
    }

    /// Removes a file that no namespace names. The caller has the names alone.
    pub(crate) async fn remove_unnamed(&self, digest: &Digest) -> Result<bool> {
        if self.recorded_size(digest).await?.is_some() {
            return Ok(false);
        }
        let (blobs, digest) = (self.blobs.clone(), digest.clone());
        blocking::run("remove a blob", move || blobs.remove(&digest)).await?;
        Ok(true)
    }
}

/// Before an orderly end.
struct Settle;

impl actix::Message for Settle {
    type Result = Result<()>;
}

impl Handler<Settle> for LocalContent {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, _: Settle, _: &mut Cell<Self>) -> Self::Result {
        let store = self.clone();
        Box::pin(async move { store.settle(None).await })
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

impl Handler<Label> for LocalContent {
    type Result = ResponseFuture<Result<BlobInfo>>;
    fn handle(&mut self, label: Label, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().label(label))
    }
}

impl Handler<Use> for LocalContent {
    type Result = ResponseFuture<Result<BlobInfo>>;
    fn handle(&mut self, message: Use, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().use_(message.namespace, message.digest))
    }
}

impl Handler<Collect> for LocalContent {
    type Result = ResponseFuture<Result<Collected>>;
    fn handle(&mut self, collect: Collect, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().collect(collect))
    }
}

impl Handler<Nodes> for LocalContent {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().nodes(namespace))
    }
}

impl Handler<Audit> for LocalContent {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, audit: Audit, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().audit(audit))
    }
}

impl Handler<Orphans> for LocalContent {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Orphans { is_removing }: Orphans, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().orphans(is_removing))
    }
}
