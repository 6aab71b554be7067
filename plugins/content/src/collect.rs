//! What keeps blobs, and how those go that nothing keeps.

use capstan_sdk::contract::content::{BlobInfo, Collect, Label, Use};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::graph::{Collected, Node, Resource};
use capstan_sdk::contract::metadata::{Commit, Get, Scan, Step};
use capstan_sdk::contract::{Listed, Page};
use capstan_sdk::{Class, Digest, Error, Labels, Namespace, Result, blocking, merge_labels};

use crate::plugin::{LocalContent, missing};
use crate::record;

/// Blobs that go while the names are held: a few milliseconds.
const BATCH: usize = 64;

impl LocalContent {
    pub(crate) async fn label(self, label: Label) -> Result<BlobInfo> {
        let Label { namespace, digest, labels } = label;
        let key = record::key(&namespace, &digest);
        loop {
            let old =
                self.metadata.send(Get(key.clone())).await?.ok_or_else(|| missing(&digest))?;
            let mut info = record::read(digest.as_str(), &old)?;
            merge_labels(&mut info.labels, &labels);
            let event = NewEvent::new(&namespace, "/content/update").with("digest", &digest);
            let steps = vec![
                Step::unchanged(key.clone(), old),
                Step::Put { key: key.clone(), value: record::write(&info) },
            ];
            match self.metadata.send(Commit { steps, events: vec![event] }).await {
                // Somebody else was faster: on top of that, then.
                Err(error) if error.class() == Class::Aborted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(info),
            }
        }
    }

    pub(crate) async fn use_(self, use_: Use) -> Result<BlobInfo> {
        let Use { namespace, digest } = use_;
        let _shared = self.hold(false).await?;
        let info = self.stat(&namespace, &digest).await?.ok_or_else(|| missing(&digest))?;
        let found = blocking::run("look for a blob", {
            let (blobs, digest) = (self.blobs.clone(), digest.clone());
            move || blobs.find(&digest)
        });
        match found.await? {
            Some((_, size)) if size == info.size => {
                self.uses.note(&namespace, digest.as_str());
                Ok(info)
            }
            _ => Err(Error::not_found(format!(
                "blob {digest} is recorded, but its bytes are gone or damaged; fetch it again"
            ))),
        }
    }

    pub(crate) async fn collect(self, collect: Collect) -> Result<Collected> {
        let Collect { namespace, digests, unused_since_unix_ns } = collect;
        let mut collected = Collected::default();
        for batch in digests.chunks(BATCH) {
            let _alone = self.hold(true).await?;
            let mut going: Vec<(&Digest, u64)> = Vec::new();
            let (mut steps, mut events) = (Vec::new(), Vec::new());
            for digest in batch {
                let is_unused =
                    self.uses.is_unused_since(&namespace, digest.as_str(), unused_since_unix_ns);
                if !is_unused {
                    continue;
                }
                let Some(info) = self.stat(&namespace, digest).await? else { continue };
                going.push((digest, info.size));
                steps.push(Step::Delete(record::key(&namespace, digest)));
                events.push(NewEvent::new(&namespace, "/content/delete").with("digest", digest));
            }
            if going.is_empty() {
                continue;
            }
            self.metadata.send(Commit { steps, events }).await?;
            for (digest, size) in going {
                self.uses.forget(&namespace, digest.as_str());
                if self.remove_bytes(digest).await? {
                    collected.freed += size;
                }
                collected.removed.push(digest.to_string());
            }
        }
        Ok(collected)
    }

    pub(crate) async fn nodes(self, namespace: Namespace) -> Result<Vec<Node>> {
        let scan = Scan {
            bucket: record::BUCKET.into(),
            namespace: Some(namespace.clone()),
            page: Page::all(),
        };
        let rows = self.metadata.send(scan).await?;
        let blobs = Listed::decode(&rows, usize::MAX, record::read)?.items;
        let mut nodes: Vec<Node> = blobs
            .into_iter()
            .map(|info| Node {
                used_at_unix_ns: self
                    .uses
                    .of(&namespace, info.digest.as_str())
                    .unwrap_or(info.created_at_unix_ns),
                resource: Resource::Content(info.digest),
                references: Vec::new(),
                root: String::new(),
                size: info.size,
                created_at_unix_ns: info.created_at_unix_ns,
                labels: info.labels,
            })
            .collect();
        let ingests = self.ingests.clone();
        let list = blocking::run("list ingests", move || ingests.list(&namespace)).await?;
        nodes.extend(list.into_iter().map(|ingest| Node {
            resource: Resource::Ingest(ingest.reference),
            references: Vec::new(),
            root: "it can be resumed".into(),
            size: ingest.offset,
            created_at_unix_ns: ingest.started_at_unix_ns,
            used_at_unix_ns: ingest.updated_at_unix_ns,
            labels: Labels::new(),
        }));
        Ok(nodes)
    }
}
