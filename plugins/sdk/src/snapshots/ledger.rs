//! The ledger of a snapshotter: which snapshots there are, kept in the metadata plugin.
//!
//! The states and their rules are the same for every driver (contract `snapshotter`); a driver that
//! lives in the daemon adds only directories and mounts. Each snapshot has a number that names its
//! directory, never used twice by one driver.
//!
//! Order: directories are made before their record and removed after it, so what a crash leaves is
//! directories without a record, and those are swept at the next start.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use capstan_schema::{Class, Error, Labels, Namespace, Result, merge_labels};

use crate::contract::events::NewEvent;
use crate::contract::metadata::{Commit, Get, Key, Scan, ScanAll, Step};
use crate::contract::snapshotter::{
    self, Kind, LABEL_SIZE, SnapshotInfo, StackLayer, Usage, parse_size,
};
use crate::contract::{Listed, Metadata, Page};
use crate::revise::{Revision, revise, until_alone};
use crate::uses::Uses;
use crate::{Link, clock};

use super::record::{read, stamp, write};

/// A snapshot's record.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What everybody may know.
    pub info: SnapshotInfo,
    /// Names its directory.
    pub id: u64,
    /// Of the snapshots below it, immediate parent first.
    pub parent_ids: Vec<u64>,
    /// When it was last of use, as its record has it.
    pub used_at_unix_ns: i64,
    /// What its own data takes, once that was measured; only of a committed one, which does not change.
    pub usage: Option<Usage>,
}

impl Snapshot {
    /// How many bytes its own data may take; `None` = there is no limit.
    pub fn limit(&self) -> Option<u64> {
        // What makes no sense was not let in.
        self.info.labels.get(LABEL_SIZE).and_then(|text| parse_size(text).ok())
    }
}

/// A snapshot that has a number but no record yet. Until it is dropped its parent cannot be removed, and what is
/// on disk under its number is no orphan.
#[derive(Debug)]
pub(super) struct Draft {
    /// As it will be.
    pub(super) snapshot: Snapshot,
    parent: Option<Key>,
    counts: Arc<Counts>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.counts.count(&self.snapshot.parent_ids, false);
        self.counts.lock(&self.counts.making).remove(&self.snapshot.id);
    }
}

/// What is known of the trees without reading records.
#[derive(Debug, Default)]
struct Counts {
    /// How many snapshots and drafts stand on each.
    children: Mutex<HashMap<u64, usize>>,
    /// Numbers of drafts, and of snapshots that are being removed from disk.
    making: Mutex<HashSet<u64>>,
}

impl Counts {
    #[expect(clippy::unused_self, reason = "it reads better")]
    fn lock<'l, T>(&self, what: &'l Mutex<T>) -> MutexGuard<'l, T> {
        what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, parent_ids: &[u64], is_more: bool) {
        let Some(&parent) = parent_ids.first() else { return };
        let mut children = self.lock(&self.children);
        let count = children.entry(parent).or_insert(0);
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            children.remove(&parent);
        }
    }
}

/// The ledger of one driver.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    bucket: &'static str,
    metadata: Link<Metadata>,
    next_id: Arc<AtomicU64>,
    /// What was written to active snapshots with a smaller id need not be on the disk, whatever a sync says from now on.
    doubted: Arc<AtomicU64>,
    counts: Arc<Counts>,
    /// Its gate is also held alone while a snapshot is removed.
    uses: Uses,
}

impl Ledger {
    /// Reads all records of a driver. `bucket` is the driver's plugin id; `numbers` are those of the
    /// directories that it found, with or without a record. Answers those that have one.
    ///
    /// # Errors
    /// `Corrupt`: a record does not decode.
    pub(super) async fn open(
        bucket: &'static str,
        metadata: Link<Metadata>,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Result<(Self, Vec<Snapshot>)> {
        let mut known = Vec::new();
        let mut children = HashMap::new();
        for (key, bytes) in metadata.send(ScanAll(bucket.into())).await? {
            let snapshot = read(&key.name, &bytes).map_err(|error| error.at(&key.name))?;
            if let Some(&parent) = snapshot.parent_ids.first() {
                *children.entry(parent).or_insert(0) += 1;
            }
            known.push(snapshot);
        }
        let highest = known.iter().map(|snapshot| snapshot.id).chain(numbers).max().unwrap_or(0);
        let ledger = Self {
            bucket,
            metadata,
            next_id: Arc::new(AtomicU64::new(highest + 1)),
            doubted: Arc::default(),
            counts: Arc::new(Counts { children: Mutex::new(children), ..Counts::default() }),
            uses: Uses::default(),
        };
        Ok((ledger, known))
    }

    fn key(&self, namespace: &Namespace, name: &str) -> Key {
        Key::new(self.bucket, namespace, name)
    }

    fn missing(&self, name: &str) -> Error {
        Error::not_found(format!("snapshot {name:?} does not exist in {}", self.bucket))
    }

    async fn find(&self, namespace: &Namespace, name: &str) -> Result<(Snapshot, Vec<u8>)> {
        let bytes = self.metadata.send(Get(self.key(namespace, name))).await?;
        let bytes = bytes.ok_or_else(|| self.missing(name))?;
        Ok((read(name, &bytes).map_err(|error| error.at(name))?, bytes))
    }

    /// Looks a snapshot up.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn get(&self, namespace: &Namespace, name: &str) -> Result<Snapshot> {
        Ok(self.find(namespace, name).await?.0)
    }

    /// Lists snapshots by key.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) async fn list(
        &self,
        namespace: &Namespace,
        page: Page,
    ) -> Result<Listed<SnapshotInfo>> {
        let decode = |name: &str, bytes: &[u8]| Ok(read(name, bytes)?.info);
        Listed::scan(&self.metadata, self.bucket, Some(namespace.clone()), page, decode).await
    }

    /// Begins a snapshot: checks key and parent, gives it a number. The driver then makes its
    /// directories and calls [`Ledger::create`].
    ///
    /// # Errors
    /// Those of `snapshotter::Prepare`.
    pub(super) async fn draft(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        kind: Kind,
        labels: Labels,
    ) -> Result<Draft> {
        if key.is_empty() {
            return Err(Error::invalid("a snapshot needs a key"));
        }
        let _shared = self.uses.shared().await;
        if self.metadata.send(Get(self.key(namespace, key))).await?.is_some() {
            return Err(self.taken(key));
        }
        let (parent_record, parent_ids) = match parent {
            "" => (None, Vec::new()),
            _ => {
                let found = self.get(namespace, parent).await?;
                if found.info.kind != Kind::Committed {
                    return Err(not_committed(parent));
                }
                self.uses.note(namespace, parent);
                let mut ids = vec![found.id];
                ids.extend(found.parent_ids);
                (Some(self.key(namespace, parent)), ids)
            }
        };
        let now = clock::now_unix_ns();
        let info = SnapshotInfo {
            key: key.into(),
            parent: parent.into(),
            kind,
            created_at_unix_ns: now,
            updated_at_unix_ns: now,
            labels,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.counts.count(&parent_ids, true);
        self.counts.lock(&self.counts.making).insert(id);
        let snapshot = Snapshot { info, id, parent_ids, used_at_unix_ns: now, usage: None };
        Ok(Draft { snapshot, parent: parent_record, counts: Arc::clone(&self.counts) })
    }

    fn taken(&self, key: &str) -> Error {
        Error::already_exists(format!("snapshot {key:?} exists in {}", self.bucket))
    }

    /// Writes the record of a snapshot whose directories are there.
    ///
    /// # Errors
    /// `AlreadyExists`: somebody was faster. The driver then removes its directories.
    pub(super) async fn create(&self, namespace: &Namespace, draft: &Draft) -> Result<Snapshot> {
        let _shared = self.uses.shared().await;
        let (snapshot, parent) = (&draft.snapshot, draft.parent.clone());
        let info = &snapshot.info;
        let key = self.key(namespace, &info.key);
        let mut steps = vec![Step::absent(key.clone(), self.taken(&info.key))];
        if let Some(parent) = parent {
            steps.push(Step::present(parent, self.missing(&info.parent)));
        }
        steps.push(Step::Put { key, value: write(snapshot) });
        let event = NewEvent::new(namespace, "/snapshot/prepare")
            .with("key", &info.key)
            .with("parent", &info.parent)
            .with("snapshotter", self.bucket);
        let events = if info.kind == Kind::Active { vec![event] } else { Vec::new() };
        self.metadata.send(Commit { steps, events }).await?;
        self.counts.count(&snapshot.parent_ids, true);
        Ok(snapshot.clone())
    }

    /// A sync failed: it does not say whose bytes are not on the disk, and the next one succeeds without them.
    pub(super) fn doubt(&self) {
        self.doubted.fetch_max(self.next_id.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether an active snapshot may become `name`; the snapshot, and its record as it is stored.
    ///
    /// # Errors
    /// Those of `snapshotter::Commit`.
    pub(super) async fn check_commit(
        &self,
        namespace: &Namespace,
        name: &str,
        key: &str,
    ) -> Result<(Snapshot, Vec<u8>)> {
        if name.is_empty() {
            return Err(Error::invalid("a committed snapshot needs a name"));
        }
        let (snapshot, stored) = self.find(namespace, key).await?;
        match snapshot.info.kind {
            Kind::Active if snapshot.id < self.doubted.load(Ordering::Relaxed) => {
                return Err(Error::precondition(format!(
                    "snapshot {key:?}: a sync failed since it was made, and what was written to it may not be on the \
                     disk; remove it and make it anew (capstan snapshots rm)"
                )));
            }
            Kind::Active => {}
            Kind::View => {
                return Err(Error::precondition(format!("snapshot {key:?} is a read-only view")));
            }
            Kind::Committed => {
                return Err(Error::precondition(format!("snapshot {key:?} is committed already")));
            }
        }
        if name != key && self.metadata.send(Get(self.key(namespace, name))).await?.is_some() {
            return Err(self.taken(name));
        }
        Ok((snapshot, stored))
    }

    /// Turns active snapshots, whose trees are on disk, into committed ones, in order, all or none. Each may be put on one
    /// before it.
    ///
    /// # Errors
    /// Those of `snapshotter::Commit`.
    pub(super) async fn commit(&self, commits: &[snapshotter::Commit]) -> Result<()> {
        // A label or a time of last use may be written meanwhile.
        until_alone(async || self.try_commit(commits).await).await
    }

    async fn try_commit(&self, commits: &[snapshotter::Commit]) -> Result<()> {
        let _shared = self.uses.shared().await;
        let (mut steps, mut events) = (Vec::new(), Vec::new());
        // By their names.
        let mut done: HashMap<&str, Snapshot> = HashMap::new();
        for commit in commits {
            let snapshotter::Commit { namespace, name, key, .. } = commit;
            let (active, old) = self.check_commit(namespace, name, key).await?;
            if done.values().any(|done| done.id == active.id) {
                return Err(Error::precondition(format!("snapshot {key:?} is committed already")));
            }
            steps.push(Step::unchanged(self.key(namespace, key), old));
            let below = match commit.rebase.as_deref().filter(|parent| !parent.is_empty()) {
                None => None,
                Some(parent) => {
                    if let Some(below) = done.get(parent) {
                        Some(below.clone())
                    } else {
                        let below = self.get(namespace, parent).await?;
                        self.uses.note(namespace, parent);
                        let key = self.key(namespace, parent);
                        steps.push(Step::present(key, self.missing(parent)));
                        Some(below)
                    }
                }
            };
            let snapshot = committed(active, commit, below)?;
            if name != key {
                steps.push(Step::absent(self.key(namespace, name), self.taken(name)));
                steps.push(Step::Delete(self.key(namespace, key)));
            }
            steps.push(Step::Put { key: self.key(namespace, name), value: write(&snapshot) });
            let event = NewEvent::new(namespace, "/snapshot/commit")
                .with("key", key)
                .with("name", name)
                .with("snapshotter", self.bucket);
            events.push(event);
            if done.insert(name, snapshot).is_some() {
                return Err(self.taken(name));
            }
        }
        self.metadata.send(Commit { steps, events }).await?;
        for snapshotter::Commit { namespace, name, key, rebase, .. } in commits {
            self.uses.forget(namespace, key);
            if rebase.is_some() {
                self.counts.count(&done[name.as_str()].parent_ids, true);
            }
        }
        Ok(())
    }

    /// What a view of layers on each other would be.
    ///
    /// # Errors
    /// Those of `snapshotter::Stack`.
    pub(super) async fn stack(
        &self,
        namespace: &Namespace,
        layers: &[StackLayer],
    ) -> Result<Snapshot> {
        let _shared = self.uses.shared().await;
        let mut ids = Vec::with_capacity(layers.len());
        for StackLayer { key, name } in layers {
            let found = match self.get(namespace, key).await {
                Err(error) if error.class() == Class::NotFound => self.get(namespace, name).await?,
                found => found?,
            };
            ids.push(found.id);
            if found.info.kind == Kind::Committed {
                self.uses.note(namespace, &found.info.key);
                ids.extend(found.parent_ids);
                break;
            }
            if !found.parent_ids.is_empty() {
                return Err(Error::invalid(format!(
                    "snapshot {key:?} stands on {:?}: it is no layer of its own",
                    found.info.parent
                )));
            }
        }
        if ids.is_empty() {
            return Err(Error::invalid("a stack needs a layer"));
        }
        let now = clock::now_unix_ns();
        let info = SnapshotInfo {
            key: String::new(),
            parent: String::new(),
            kind: Kind::View,
            created_at_unix_ns: now,
            updated_at_unix_ns: now,
            labels: Labels::new(),
        };
        // It has no directory, and needs none: it stands on something.
        Ok(Snapshot { info, id: 0, parent_ids: ids, used_at_unix_ns: now, usage: None })
    }

    /// Removes a record. The driver removes the directories afterwards, and drops the answer then.
    ///
    /// # Errors
    /// `NotFound`. `FailedPrecondition`: it has children.
    pub(super) async fn remove(&self, namespace: &Namespace, key: &str) -> Result<Going> {
        let _alone = self.uses.alone().await;
        let (snapshot, old) = self.find(namespace, key).await?;
        let children = self.children(snapshot.id);
        if children > 0 {
            return Err(Error::precondition(format!(
                "snapshot {key:?} has {children} snapshots on top of it; remove those first"
            )));
        }
        let name = self.key(namespace, key);
        let steps = vec![Step::unchanged(name.clone(), old), Step::Delete(name)];
        self.metadata.send(Commit { steps, events: vec![self.removed(namespace, key)] }).await?;
        Ok(self.gone(namespace, snapshot))
    }

    fn children(&self, id: u64) -> usize {
        self.counts.lock(&self.counts.children).get(&id).copied().unwrap_or(0)
    }

    fn removed(&self, namespace: &Namespace, key: &str) -> NewEvent {
        NewEvent::new(namespace, "/snapshot/remove")
            .with("key", key)
            .with("snapshotter", self.bucket)
    }

    fn gone(&self, namespace: &Namespace, snapshot: Snapshot) -> Going {
        self.counts.count(&snapshot.parent_ids, false);
        self.counts.lock(&self.counts.making).insert(snapshot.id);
        self.uses.forget(namespace, &snapshot.info.key);
        Going { snapshot, counts: Arc::clone(&self.counts) }
    }

    /// Removes the records of those that nobody used since and that have no children, or only such that go with
    /// them. The driver then removes their directories.
    ///
    /// # Errors
    /// Those of the metadata; nothing is removed then.
    pub(super) async fn collect(
        &self,
        namespace: &Namespace,
        keys: &[String],
        since_unix_ns: i64,
    ) -> Result<Vec<Going>> {
        let _alone = self.uses.alone().await;
        let (mut steps, mut events) = (Vec::new(), Vec::new());
        let mut removed: Vec<Snapshot> = Vec::new();
        let mut fewer: HashMap<u64, usize> = HashMap::new();
        for name in keys {
            let key = self.key(namespace, name);
            let Some(old) = self.metadata.send(Get(key.clone())).await? else { continue };
            let snapshot = read(name, &old).map_err(|error| error.at(name))?;
            let children = self.children(snapshot.id);
            let going = fewer.get(&snapshot.id).copied().unwrap_or(0);
            let is_unused =
                self.uses.is_unused(namespace, name, snapshot.used_at_unix_ns, since_unix_ns);
            if children > going || !is_unused || removed.iter().any(|r| r.id == snapshot.id) {
                continue;
            }
            if let Some(&parent) = snapshot.parent_ids.first() {
                *fewer.entry(parent).or_insert(0) += 1;
            }
            steps.push(Step::unchanged(key.clone(), old));
            steps.push(Step::Delete(key));
            events.push(self.removed(namespace, name));
            removed.push(snapshot);
        }
        if !steps.is_empty() {
            self.metadata.send(Commit { steps, events }).await?;
        }
        Ok(removed.into_iter().map(|snapshot| self.gone(namespace, snapshot)).collect())
    }

    /// Sets labels.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn label(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: &Labels,
    ) -> Result<SnapshotInfo> {
        let changed = self
            .change(namespace, key, |snapshot| {
                merge_labels(&mut snapshot.info.labels, labels);
                snapshot.info.updated_at_unix_ns = clock::now_unix_ns();
                true
            })
            .await?;
        Ok(changed.info)
    }

    /// Keeps what a committed snapshot was found to take.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn keep_usage(
        &self,
        namespace: &Namespace,
        measured: &Snapshot,
        usage: Usage,
    ) -> Result<()> {
        let keep = |snapshot: &mut Snapshot| {
            let is_it = snapshot.id == measured.id && snapshot.info.kind == Kind::Committed;
            snapshot.usage = Some(usage);
            is_it
        };
        self.change(namespace, &measured.info.key, keep).await.map(drop)
    }

    async fn change(
        &self,
        namespace: &Namespace,
        key: &str,
        change: impl Fn(&mut Snapshot) -> bool,
    ) -> Result<Snapshot> {
        let _shared = self.uses.shared().await;
        revise(&self.metadata, &self.key(namespace, key), |old| {
            let old = old.ok_or_else(|| self.missing(key))?;
            let mut snapshot = read(key, old).map_err(|error| error.at(key))?;
            Ok(match change(&mut snapshot) {
                true => Revision::write(write(&snapshot), snapshot),
                false => Revision::keep(snapshot),
            })
        })
        .await
    }

    /// Looks a snapshot up, and notes that it is used.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn use_(&self, namespace: &Namespace, key: &str) -> Result<Snapshot> {
        let _shared = self.uses.shared().await;
        let snapshot = self.get(namespace, key).await?;
        self.uses.note(namespace, key);
        Ok(snapshot)
    }

    /// Writes the times of last use to the records.
    ///
    /// # Errors
    /// Those of the metadata.
    pub(super) async fn settle(&self, namespace: Option<&Namespace>) -> Result<()> {
        self.uses.settle(&self.metadata, self.bucket, namespace, stamp).await
    }

    /// All snapshots of a namespace, with the best knowledge of when they were used.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) async fn all(&self, namespace: &Namespace) -> Result<Vec<Snapshot>> {
        let scan = Scan {
            bucket: self.bucket.into(),
            namespace: Some(namespace.clone()),
            page: Page::all(),
        };
        let rows = self.metadata.send(scan).await?;
        rows.iter()
            .map(|(name, bytes)| {
                let mut snapshot = read(name, bytes).map_err(|error| error.at(name))?;
                snapshot.used_at_unix_ns =
                    self.uses.last(namespace, name, snapshot.used_at_unix_ns);
                Ok(snapshot)
            })
            .collect()
    }

    /// All records of all namespaces, those too that do not decode.
    ///
    /// # Errors
    /// Those of the metadata.
    pub(super) async fn everything(&self) -> Result<Vec<(Key, Result<Snapshot>)>> {
        let rows = self.metadata.send(ScanAll(self.bucket.into())).await?;
        Ok(rows.into_iter().map(|(key, bytes)| (key.clone(), read(&key.name, &bytes))).collect())
    }

    /// Whether a number is that of a draft, or of a snapshot that is on its way out.
    pub(super) fn is_busy(&self, id: u64) -> bool {
        self.counts.lock(&self.counts.making).contains(&id)
    }
}

/// A snapshot without a record, whose directories are still there. Until it is dropped they are no orphans.
#[derive(Debug)]
pub(super) struct Going {
    pub(super) snapshot: Snapshot,
    counts: Arc<Counts>,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.counts.lock(&self.counts.making).remove(&self.snapshot.id);
    }
}

/// What an active snapshot becomes, put on another one if that is wanted.
fn committed(
    active: Snapshot,
    commit: &snapshotter::Commit,
    below: Option<Snapshot>,
) -> Result<Snapshot> {
    let mut snapshot = active;
    if let Some(below) = below {
        if !snapshot.parent_ids.is_empty() {
            return Err(Error::invalid(format!(
                "snapshot {:?} stands on {:?} and cannot be put on another",
                commit.key, snapshot.info.parent
            )));
        }
        if below.info.kind != Kind::Committed {
            return Err(not_committed(&below.info.key));
        }
        snapshot.info.parent = below.info.key;
        snapshot.parent_ids = vec![below.id];
        snapshot.parent_ids.extend(below.parent_ids);
    }
    let now = clock::now_unix_ns();
    snapshot.info.key.clone_from(&commit.name);
    snapshot.info.kind = Kind::Committed;
    snapshot.info.updated_at_unix_ns = now;
    snapshot.info.labels.clone_from(&commit.labels);
    snapshot.used_at_unix_ns = now;
    Ok(snapshot)
}

fn not_committed(parent: &str) -> Error {
    Error::invalid(format!("snapshot {parent:?} is not committed: it cannot be a parent"))
}
