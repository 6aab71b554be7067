//! The blobs in the ownership graph: what there is, when it was used, and what nobody keeps.

use std::collections::HashSet;
use std::time::Duration;

use capstan_sdk::contract::Page;
use capstan_sdk::contract::content::{BlobInfo, Collect, IngestInfo, Label};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::graph::{Collected, Node, Resource};
use capstan_sdk::contract::metadata::{Commit, Scan, ScanAll, Step};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::uses::BATCH;
use capstan_sdk::{Digest, Labels, Namespace, Result, blocking, clock, merge_labels};
use tracing::warn;

use crate::ingest::last_written;
use crate::plugin::{LocalContent, decode, missing};
use crate::record;

impl LocalContent {
    /// Writes the times of last use to the records.
    pub(crate) async fn settle(&self, namespace: Option<&Namespace>) -> Result<()> {
        self.uses.settle(&self.metadata, record::BUCKET, namespace, record::stamp).await
    }

    pub(crate) async fn label(self, label: Label) -> Result<BlobInfo> {
        let Label { namespace, digest, labels } = label;
        let _shared = self.uses.shared().await;
        revise(&self.metadata, &record::key(&namespace, &digest), |old| {
            let mut blob = decode(&digest, old.ok_or_else(|| missing(&digest))?)?;
            merge_labels(&mut blob.info.labels, &labels);
            let event = NewEvent::new(&namespace, "/content/update").with("digest", &digest);
            Ok(Revision::write(record::write(&blob), blob.info).with(event))
        })
        .await
    }

    pub(crate) async fn collect(self, collect: Collect) -> Result<Collected> {
        let mut collected = Collected::default();
        for batch in collect.digests.chunks(BATCH) {
            let removed =
                self.unname(&collect.namespace, batch, collect.unused_since_unix_ns).await?;
            for (digest, size) in removed {
                // The bytes go one by one, so that nobody waits for many.
                let alone = self.hold(true).await?;
                match self.remove_unnamed(&digest).await {
                    Ok(true) => collected.freed += size,
                    Ok(false) => {}
                    Err(error) => warn!(%digest, %error, "a collected blob is still on disk"),
                }
                drop(alone);
                collected.removed.push(digest.to_string());
            }
        }
        Ok(collected)
    }

    /// Removes the records of those that nobody used since. Answers them with their sizes.
    async fn unname(
        &self,
        namespace: &Namespace,
        digests: &[Digest],
        since_unix_ns: i64,
    ) -> Result<Vec<(Digest, u64)>> {
        // The first lock is for writers that an instance before us left.
        let _alone = self.hold(true).await?;
        let _unused = self.uses.alone().await;
        let (mut steps, mut events, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for digest in digests {
            let Some((blob, old)) = self.find(namespace, digest).await? else { continue };
            if !self.uses.is_unused(namespace, digest.as_str(), blob.used_at_unix_ns, since_unix_ns)
            {
                continue;
            }
            let key = record::key(namespace, digest);
            steps.push(Step::unchanged(key.clone(), old));
            steps.push(Step::Delete(key));
            events.push(NewEvent::new(namespace, "/content/delete").with("digest", digest));
            removed.push((digest.clone(), blob.info.size));
        }
        if !steps.is_empty() {
            self.metadata.send(Commit { steps, events }).await?;
        }
        for (digest, _) in &removed {
            self.uses.forget(namespace, digest.as_str());
        }
        Ok(removed)
    }

    /// Blobs that have bytes and no record, and ingests of namespaces that have none.
    pub(crate) async fn orphans(self, is_removing: bool) -> Result<Vec<Node>> {
        let blobs = self.blobs.clone();
        let lying = blocking::run("list the blobs", move || blobs.lying()).await?;
        let records = self.metadata.send(ScanAll(record::BUCKET.into())).await?;
        let named: HashSet<&str> = records.iter().map(|(key, _)| key.name.as_str()).collect();
        let mut orphans = Vec::new();
        for (digest, size) in lying.blobs {
            if named.contains(digest.as_str()) {
                continue;
            }
            // Alone: a file gets its name before its record.
            let _alone = self.hold(true).await?;
            let is_orphan = match is_removing {
                true => self.remove_unnamed(&digest).await?,
                false => self.recorded_size(&digest).await?.is_none(),
            };
            if is_orphan {
                orphans.push(orphan_node(digest, size));
            }
        }
        let known = self.namespaces().await?.into_iter().collect();
        let (ingests, oldest) = (self.ingests.clone(), self.oldest_ingest());
        let forsaken = move || ingests.forsaken(&known, oldest, is_removing);
        let forsaken = blocking::run("list ingests", forsaken).await?;
        orphans.extend(forsaken.into_iter().map(|info| ingest_node(info, false, oldest)));
        orphans.sort_by(|one, other| one.resource.cmp(&other.resource));
        Ok(orphans)
    }

    pub(crate) async fn nodes(self, namespace: Namespace) -> Result<Vec<Node>> {
        if let Err(error) = self.settle(Some(&namespace)).await {
            // A full disk must not keep a collection from making room.
            warn!(%error, "times of last use could not be written; they are kept in memory");
        }
        let scan = Scan {
            bucket: record::BUCKET.into(),
            namespace: Some(namespace.clone()),
            page: Page::all(),
        };
        let mut nodes = Vec::new();
        for (name, bytes) in self.metadata.send(scan).await? {
            let blob = record::read_blob(&name, &bytes).map_err(|error| error.at(&name))?;
            nodes.push(Node {
                resource: Resource::Content(blob.info.digest),
                references: Vec::new(),
                root: String::new(),
                size: blob.info.size,
                created_at_unix_ns: blob.info.created_at_unix_ns,
                used_at_unix_ns: self.uses.last(&namespace, &name, blob.used_at_unix_ns),
                labels: blob.info.labels,
            });
        }
        let ingests = self.ingests.clone();
        let (listed, written) = blocking::run("list ingests", move || {
            Ok((ingests.list(&namespace)?, ingests.written(&namespace)?))
        })
        .await?;
        let oldest = self.oldest_ingest();
        nodes.extend(listed.into_iter().map(|info| {
            let is_written = written.contains(&info.reference);
            ingest_node(info, is_written, oldest)
        }));
        Ok(nodes)
    }

    /// From when on an ingest that nobody writes is kept, to be resumed.
    fn oldest_ingest(&self) -> i64 {
        let kept = Duration::from_secs(self.keep_ingests_seconds).as_nanos();
        clock::now_unix_ns().saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX))
    }
}

/// A blob that is in no namespace.
fn orphan_node(digest: Digest, size: u64) -> Node {
    Node {
        resource: Resource::Content(digest),
        references: Vec::new(),
        root: String::new(),
        size,
        created_at_unix_ns: 0,
        used_at_unix_ns: 0,
        labels: Labels::new(),
    }
}

/// `oldest` is from when on what nobody writes is kept.
fn ingest_node(info: IngestInfo, is_written: bool, oldest_unix_ns: i64) -> Node {
    let used_at_unix_ns = last_written(&info);
    let root = match (is_written, used_at_unix_ns >= oldest_unix_ns) {
        (true, _) => "it is being written",
        (false, true) => "it can be resumed",
        (false, false) => "",
    };
    Node {
        resource: Resource::Ingest(info.reference),
        references: Vec::new(),
        root: root.into(),
        size: info.offset,
        created_at_unix_ns: info.started_at_unix_ns,
        used_at_unix_ns,
        labels: Labels::new(),
    }
}
