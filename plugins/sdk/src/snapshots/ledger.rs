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
use std::sync::{Arc, Mutex, PoisonError};

use capstan_schema::record_capnp::snapshot_record;
use capstan_schema::{Error, Labels, Namespace, Result, read_labels, write_labels};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::contract::events::NewEvent;
use crate::contract::metadata::{Commit, Get, Key, ScanAll, Step};
use crate::contract::snapshotter::{Kind, SnapshotInfo};
use crate::contract::{Listed, Metadata, Page};
use crate::record::{Record, encode};
use crate::{Link, clock};

/// A snapshot's record.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What everybody may know.
    pub info: SnapshotInfo,
    /// Names its directory.
    pub id: u64,
    /// Of the snapshots below it, immediate parent first.
    pub parent_ids: Vec<u64>,
}

/// A snapshot that has a number but no record yet. Until it is dropped its parent cannot be removed.
#[derive(Debug)]
pub(super) struct Draft {
    /// As it will be.
    pub(super) snapshot: Snapshot,
    parent: Option<Key>,
    _hold: OwnedRwLockReadGuard<()>,
}

/// The ledger of one driver.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    bucket: &'static str,
    metadata: Link<Metadata>,
    next_id: Arc<AtomicU64>,
    /// How many snapshots stand on each.
    children: Arc<Mutex<HashMap<u64, usize>>>,
    /// Held shared while a child is made, alone while a parent is removed.
    gate: Arc<RwLock<()>>,
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
    ) -> Result<(Self, HashSet<u64>)> {
        let mut known = HashSet::new();
        let mut children = HashMap::new();
        for (key, bytes) in metadata.send(ScanAll(bucket.into())).await? {
            let snapshot = read(&key.name, &bytes).map_err(|error| error.at(&key.name))?;
            known.insert(snapshot.id);
            if let Some(&parent) = snapshot.parent_ids.first() {
                *children.entry(parent).or_insert(0) += 1;
            }
        }
        let highest = known.iter().copied().chain(numbers).max().unwrap_or(0);
        let ledger = Self {
            bucket,
            metadata,
            next_id: Arc::new(AtomicU64::new(highest + 1)),
            children: Arc::new(Mutex::new(children)),
            gate: Arc::default(),
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
        let hold = Arc::clone(&self.gate).read_owned().await;
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
        let snapshot = Snapshot { info, id, parent_ids };
        Ok(Draft { snapshot, parent: parent_record, _hold: hold })
    }

    fn taken(&self, key: &str) -> Error {
        Error::already_exists(format!("snapshot {key:?} exists in {}", self.bucket))
    }

    /// Writes the record of a snapshot whose directories are there.
    ///
    /// # Errors
    /// `AlreadyExists`: somebody was faster. The driver then removes its directories.
    pub(super) async fn create(&self, namespace: &Namespace, draft: Draft) -> Result<Snapshot> {
        let Draft { snapshot, parent, _hold } = draft;
        let info = &snapshot.info;
        let key = self.key(namespace, &info.key);
        let mut steps = vec![Step::absent(key.clone(), self.taken(&info.key))];
        if let Some(parent) = parent {
            steps.push(Step::present(parent, self.missing(&info.parent)));
        }
        steps.push(Step::Put { key, value: write(&snapshot) });
        let event = NewEvent::new(namespace, "/snapshot/prepare")
            .with("key", &info.key)
            .with("parent", &info.parent)
            .with("snapshotter", self.bucket);
        let events = if info.kind == Kind::Active { vec![event] } else { Vec::new() };
        self.metadata.send(Commit { steps, events }).await?;
        self.count(&snapshot.parent_ids, true);
        Ok(snapshot)
    }

    fn count(&self, parent_ids: &[u64], is_more: bool) {
        let Some(&parent) = parent_ids.first() else { return };
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let count = children.entry(parent).or_insert(0);
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            children.remove(&parent);
        }
    }

    /// Whether an active snapshot may become `name`, before the driver syncs its tree.
    ///
    /// # Errors
    /// Those of `snapshotter::Commit`.
    pub(super) async fn check_commit(
        &self,
        namespace: &Namespace,
        name: &str,
        key: &str,
    ) -> Result<Snapshot> {
        if name.is_empty() {
            return Err(Error::invalid("a committed snapshot needs a name"));
        }
        let snapshot = self.get(namespace, key).await?;
        match snapshot.info.kind {
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
        Ok(snapshot)
    }

    /// Turns an active snapshot, whose tree is on disk, into a committed one.
    ///
    /// # Errors
    /// Those of `snapshotter::Commit`.
    pub(super) async fn commit(
        &self,
        namespace: &Namespace,
        name: &str,
        key: &str,
        rebase: Option<&str>,
        labels: Labels,
    ) -> Result<()> {
        let _hold = self.gate.read().await;
        let (mut snapshot, old) = self.find(namespace, key).await?;
        self.check_commit(namespace, name, key).await?;
        let mut steps = vec![Step::unchanged(self.key(namespace, key), old)];
        if let Some(parent) = rebase.filter(|parent| !parent.is_empty()) {
            if !snapshot.parent_ids.is_empty() {
                return Err(Error::invalid(format!(
                    "snapshot {key:?} stands on {:?} and cannot be put on another",
                    snapshot.info.parent
                )));
            }
            let below = self.get(namespace, parent).await?;
            if below.info.kind != Kind::Committed {
                return Err(not_committed(parent));
            }
            steps.push(Step::present(self.key(namespace, parent), self.missing(parent)));
            snapshot.info.parent = parent.into();
            snapshot.parent_ids = vec![below.id];
            snapshot.parent_ids.extend(below.parent_ids);
        }
        snapshot.info.key = name.into();
        snapshot.info.kind = Kind::Committed;
        snapshot.info.updated_at_unix_ns = clock::now_unix_ns();
        snapshot.info.labels = labels;
        if name != key {
            steps.push(Step::absent(self.key(namespace, name), self.taken(name)));
            steps.push(Step::Delete(self.key(namespace, key)));
        }
        steps.push(Step::Put { key: self.key(namespace, name), value: write(&snapshot) });
        let event = NewEvent::new(namespace, "/snapshot/commit")
            .with("key", key)
            .with("name", name)
            .with("snapshotter", self.bucket);
        self.metadata.send(Commit { steps, events: vec![event] }).await?;
        if rebase.is_some() {
            self.count(&snapshot.parent_ids, true);
        }
        Ok(())
    }

    /// Removes a record. The driver removes the directories afterwards.
    ///
    /// # Errors
    /// `NotFound`. `FailedPrecondition`: it has children.
    pub(super) async fn remove(&self, namespace: &Namespace, key: &str) -> Result<Snapshot> {
        let _alone = self.gate.write().await;
        let (snapshot, old) = self.find(namespace, key).await?;
        let children = {
            let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
            children.get(&snapshot.id).copied().unwrap_or(0)
        };
        if children > 0 {
            return Err(Error::precondition(format!(
                "snapshot {key:?} has {children} snapshots on top of it; remove those first"
            )));
        }
        let name = self.key(namespace, key);
        let steps = vec![Step::unchanged(name.clone(), old), Step::Delete(name)];
        let event = NewEvent::new(namespace, "/snapshot/remove")
            .with("key", key)
            .with("snapshotter", self.bucket);
        self.metadata.send(Commit { steps, events: vec![event] }).await?;
        self.count(&snapshot.parent_ids, false);
        Ok(snapshot)
    }
}

fn not_committed(parent: &str) -> Error {
    Error::invalid(format!("snapshot {parent:?} is not committed: it cannot be a parent"))
}

fn write(snapshot: &Snapshot) -> Vec<u8> {
    encode::<snapshot_record::Owned>(|mut out| {
        out.set_id(snapshot.id);
        out.set_parent(&snapshot.info.parent);
        out.set_kind(match snapshot.info.kind {
            Kind::Active => 0,
            Kind::View => 1,
            Kind::Committed => 2,
        });
        out.set_created_at_unix_ns(snapshot.info.created_at_unix_ns);
        out.set_updated_at_unix_ns(snapshot.info.updated_at_unix_ns);
        let count = u32::try_from(snapshot.info.labels.len()).expect("labels are few");
        write_labels(&snapshot.info.labels, out.reborrow().init_labels(count));
        let count = u32::try_from(snapshot.parent_ids.len()).expect("an image has few layers");
        let mut ids = out.init_parent_ids(count);
        for (index, &id) in (0..).zip(&snapshot.parent_ids) {
            ids.set(index, id);
        }
    })
}

fn read(name: &str, bytes: &[u8]) -> Result<Snapshot> {
    let record = Record::decode(bytes)?;
    let record = record.get::<snapshot_record::Owned>()?;
    let kind = match record.get_kind() {
        0 => Kind::Active,
        1 => Kind::View,
        2 => Kind::Committed,
        other => return Err(Error::corrupt(format!("snapshot record of kind {other}"))),
    };
    Ok(Snapshot {
        info: SnapshotInfo {
            key: name.into(),
            parent: record.get_parent()?.to_str()?.into(),
            kind,
            created_at_unix_ns: record.get_created_at_unix_ns(),
            updated_at_unix_ns: record.get_updated_at_unix_ns(),
            labels: read_labels(record.get_labels()?)?,
        },
        id: record.get_id(),
        parent_ids: record.get_parent_ids()?.iter().collect(),
    })
}
