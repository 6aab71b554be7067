//! Kind `content`, from `Content`, `Blob` and `Ingest` of content.capnp. Blobs come as descriptors: only what
//! is written goes through messages.

use std::fs::File;
use std::sync::Arc;

use actix::{Context as Cell, Handler, ResponseFuture};
use bytes::Bytes;
use capstan_schema::{
    Algorithm, Digest, Error, MAX_CHUNK_BYTES, Result, content_capnp as wire, read_labels,
    read_texts, write_texts,
};
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc;

use super::{all_pages, graph, labels, write_page};
use crate::contract::content::{
    Abort, Audit, BlobInfo, Collect, Delete, Ingest, IngestCommand, IngestInfo, IngestProgress,
    Ingests, Label, List, Nodes, Open, OpenBlob, OpenIngest, Orphans, Stat, Use,
};
use crate::contract::graph::{Collected, Finding, Node};
use crate::contract::{Content, Listed, Page};
use crate::outside::{Far, Proxy, answered, call};
use crate::rpc::{length, text};

type Client = wire::content::Client;
type This = Proxy<Content>;

/// Chunks that may wait for the other side, per ingest. A writer seldom sends more than 64 KiB at once, so
/// that is about 1 MiB.
const QUEUE: usize = 16;

/// Writes that may be on their way at once, per ingest: enough that the store always has the next one.
const WINDOW: usize = 4;

fn read_blob(reader: wire::blob_info::Reader<'_>) -> Result<BlobInfo> {
    Ok(BlobInfo {
        digest: Digest::parse(&text(reader.get_digest())?)?,
        size: reader.get_size(),
        created_at_unix_ns: reader.get_created_at_unix_ns(),
        labels: read_labels(reader.get_labels()?)?,
    })
}

fn read_ingest(reader: wire::ingest_info::Reader<'_>) -> Result<IngestInfo> {
    Ok(IngestInfo {
        reference: text(reader.get_ref())?,
        offset: reader.get_offset(),
        total: reader.get_total(),
        expected: match text(reader.get_expected())?.as_str() {
            "" => None,
            digest => Some(Digest::parse(digest)?),
        },
        started_at_unix_ns: reader.get_started_at_unix_ns(),
        updated_at_unix_ns: reader.get_updated_at_unix_ns(),
    })
}

impl Handler<Stat> for This {
    type Result = ResponseFuture<Result<BlobInfo>>;
    fn handle(&mut self, stat: Stat, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&stat.namespace)).await?;
            let mut request = client.info_request();
            request.get().set_digest(stat.digest.as_str());
            call!(far, request, |results| read_blob(results.get_info()?))
        })
    }
}

impl Handler<List> for This {
    type Result = ResponseFuture<Result<Listed<BlobInfo>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&list.namespace)).await?;
            all_pages(list.page, |page| read_blobs(&far, &client, page)).await
        })
    }
}

async fn read_blobs(far: &Far, client: &Client, page: Page) -> Result<Listed<BlobInfo>> {
    let mut request = client.list_request();
    write_page(&page, request.get().init_page());
    call!(far, request, |results| {
        let items = results.get_blobs()?.iter().map(read_blob).collect::<Result<_>>()?;
        Ok(Listed { items, next: text(results.get_next())? })
    })
}

impl Handler<Open> for This {
    type Result = ResponseFuture<Result<OpenBlob>>;
    fn handle(&mut self, open: Open, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&open.namespace)).await?;
            let mut request = client.open_request();
            request.get().set_digest(open.digest.as_str());
            let (blob, size) =
                call!(far, request, |results| Ok((results.get_blob()?, results.get_size())))?;
            let request = blob.descriptor_request();
            let number = call!(far, request, |results| Ok(results.get_descriptor()))?;
            Ok(OpenBlob { file: Arc::new(File::from(far.take(number).await?)), size })
        })
    }
}

impl Handler<OpenIngest> for This {
    type Result = ResponseFuture<Result<Ingest>>;
    fn handle(&mut self, open: OpenIngest, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&open.namespace)).await?;
            let mut request = client.ingest_request();
            let mut params = request.get();
            params.set_ref(&open.reference);
            params.set_expected(open.expected.as_ref().map(Digest::as_str).unwrap_or_default());
            params.set_total(open.total);
            params.set_algorithm(open.algorithm.map(Algorithm::name).unwrap_or_default());
            labels(&open.labels, |count| params.init_labels(count));
            let (ingest, info) = call!(far, request, |results| {
                Ok((results.get_ingest()?, read_ingest(results.get_info()?)?))
            })?;
            let request = ingest.descriptor_request();
            let number = call!(far, request, |results| Ok(results.get_descriptor()))?;
            let file = Arc::new(File::from(far.take(number).await?));
            let progress = Arc::new(IngestProgress::starting_at(info.offset));
            let (commands, inbox) = mpsc::channel(QUEUE);
            let writer = Writer {
                far,
                ingest,
                offset: info.offset,
                progress: Arc::clone(&progress),
                on_their_way: FuturesOrdered::new(),
            };
            tokio::task::spawn_local(writer.run(inbox));
            Ok(Ingest::new(info, commands, progress, file))
        })
    }
}

impl Handler<Ingests> for This {
    type Result = ResponseFuture<Result<Vec<IngestInfo>>>;
    fn handle(&mut self, Ingests(namespace): Ingests, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&namespace)).await?;
            let request = client.ingests_request();
            call!(far, request, |results| results.get_ingests()?.iter().map(read_ingest).collect())
        })
    }
}

impl Handler<Abort> for This {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, abort: Abort, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&abort.namespace)).await?;
            let mut request = client.abort_request();
            request.get().set_ref(&abort.reference);
            call!(far, request)
        })
    }
}

impl Handler<Delete> for This {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, delete: Delete, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&delete.namespace)).await?;
            let mut request = client.delete_request();
            request.get().set_digest(delete.digest.as_str());
            call!(far, request)
        })
    }
}

/// Passes the commands of one ingest on. It holds the capability: with it the name of the ingest is released.
struct Writer {
    far: Far,
    ingest: wire::ingest::Client,
    /// Where the next write goes.
    offset: u64,
    progress: Arc<IngestProgress>,
    /// Answers to writes, in their order: where the ingest then stands.
    on_their_way: FuturesOrdered<LocalBoxFuture<'static, Result<u64>>>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<IngestCommand>) {
        loop {
            let command = tokio::select! {
                biased;
                Some(answer) = self.on_their_way.next() => match self.note(answer) {
                    Ok(()) => continue,
                    Err(error) => return self.progress.end(Err(error)),
                },
                command = inbox.recv() => command,
            };
            match command {
                Some(IngestCommand::Write(bytes)) => {
                    if let Err(error) = self.write(bytes).await {
                        return self.progress.end(Err(error));
                    }
                }
                Some(IngestCommand::Commit { expected, total, reply }) => {
                    let outcome = self.commit(expected.as_ref(), total).await;
                    self.progress.end(outcome.clone().map(drop));
                    drop(self);
                    // A client that left does not undo a commit.
                    let _ = reply.send(outcome);
                    return;
                }
                Some(IngestCommand::Abort(reply)) => {
                    let outcome = self.abort().await;
                    self.progress.end(Err(Error::aborted("the ingest was aborted")));
                    drop(self);
                    let _ = reply.send(outcome);
                    return;
                }
                None => {
                    // What was written is kept.
                    let written = self.land().await;
                    let left = || Error::aborted("the writer of the ingest went away");
                    return self.progress.end(Err(written.err().unwrap_or_else(left)));
                }
            }
        }
    }

    fn note(&self, answer: Result<u64>) -> Result<()> {
        self.progress.advance(answer?);
        Ok(())
    }

    /// Waits for the answers to all writes.
    async fn land(&mut self) -> Result<()> {
        while let Some(answer) = self.on_their_way.next().await {
            self.note(answer)?;
        }
        Ok(())
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            if self.on_their_way.len() >= WINDOW
                && let Some(answer) = self.on_their_way.next().await
            {
                self.note(answer)?;
            }
            let piece = bytes.split_to(bytes.len().min(MAX_CHUNK_BYTES as usize));
            let mut request = self.ingest.write_request();
            let mut params = request.get();
            params.set_offset(self.offset);
            params.set_bytes(&piece);
            // Sent now, so that they go in order.
            let (far, promise) = (self.far.clone(), request.send().promise);
            self.offset += piece.len() as u64;
            let end = self.offset;
            self.on_their_way.push_back(Box::pin(async move {
                match answered!(far, promise, |results| Ok(results.get_offset()))? {
                    offset if offset == end => Ok(end),
                    offset => Err(Error::internal(format!(
                        "{far:?}: the ingest stands at {offset}, after bytes up to {end}"
                    ))),
                }
            }));
        }
        Ok(())
    }

    async fn commit(&mut self, expected: Option<&Digest>, total: u64) -> Result<(Digest, u64)> {
        self.land().await?;
        let mut request = self.ingest.commit_request();
        let mut params = request.get();
        params.set_expected(expected.map(Digest::as_str).unwrap_or_default());
        params.set_total(total);
        call!(self.far, request, |results| {
            Ok((Digest::parse(&text(results.get_digest())?)?, results.get_size()))
        })
    }

    async fn abort(&mut self) -> Result<()> {
        // An ingest that cannot be written can be dropped.
        let _ = self.land().await;
        let request = self.ingest.abort_request();
        call!(self.far, request)
    }
}

impl Handler<Label> for This {
    type Result = ResponseFuture<Result<BlobInfo>>;
    fn handle(&mut self, label: Label, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&label.namespace)).await?;
            let mut request = client.label_request();
            let mut params = request.get();
            params.set_digest(label.digest.as_str());
            labels(&label.labels, |count| params.init_labels(count));
            call!(far, request, |results| read_blob(results.get_info()?))
        })
    }
}

impl Handler<Use> for This {
    type Result = ResponseFuture<Result<BlobInfo>>;
    fn handle(&mut self, message: Use, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&message.namespace)).await?;
            let mut request = client.note_use_request();
            request.get().set_digest(message.digest.as_str());
            call!(far, request, |results| read_blob(results.get_info()?))
        })
    }
}

impl Handler<Collect> for This {
    type Result = ResponseFuture<Result<Collected>>;
    fn handle(&mut self, collect: Collect, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&collect.namespace)).await?;
            let mut collected = Collected::default();
            for names in collect.digests.chunks(graph::NAMES) {
                let mut request = client.collect_request();
                let mut params = request.get();
                params.set_unused_since_unix_ns(collect.unused_since_unix_ns);
                write_texts(
                    &names.iter().map(Digest::as_str).collect::<Vec<_>>(),
                    params.init_digests(length(names)),
                );
                let some = call!(far, request, |results| Ok(Collected {
                    removed: read_texts(results.get_removed()?)?,
                    freed: results.get_freed(),
                }))?;
                graph::add(&mut collected, some);
            }
            Ok(collected)
        })
    }
}

impl Handler<Nodes> for This {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(Some(&namespace)).await?;
            let request = client.nodes_request();
            let nodes = call!(far, request, |results| Ok(results.get_nodes()?))?;
            graph::nodes(&far, nodes).await
        })
    }
}

impl Handler<Audit> for This {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, audit: Audit, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            // It is of all namespaces, whichever is named.
            let namespace = capstan_schema::Namespace::parse("default")?;
            let client: Client = far.open(Some(&namespace)).await?;
            let mut request = client.audit_request();
            let mut params = request.get();
            params.set_full(audit.is_full);
            params.set_repair(audit.is_cleaning);
            let findings = call!(far, request, |results| Ok(results.get_findings()?))?;
            graph::findings(&far, findings).await
        })
    }
}

impl Handler<Orphans> for This {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Orphans { is_removing }: Orphans, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            // As an audit.
            let namespace = capstan_schema::Namespace::parse("default")?;
            let client: Client = far.open(Some(&namespace)).await?;
            let mut request = client.orphans_request();
            request.get().set_remove(is_removing);
            let nodes = call!(far, request, |results| Ok(results.get_nodes()?))?;
            graph::nodes(&far, nodes).await
        })
    }
}
