//! A provider of `metadata` in memory, so that a plugin which needs one can be tested with the SDK alone.
//!
//! Feature `testing`. It keeps the whole contract but durability: all is gone with the instance.

use std::collections::BTreeMap;
use std::ops::Bound;

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_schema::record_capnp::namespace_record;
use capstan_schema::{Error, Namespace, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::contract::Metadata;
use crate::contract::events::{Event, NewEvent};
use crate::contract::graph::Finding;
use crate::contract::metadata::{
    Audit, Commit, Expect, Get, Key, LogPage, MetadataAddr, ReadLog, Scan, ScanAll, Step, TrimLog,
    WatchLog,
};
use crate::record::encode;
use crate::{Context, Exports, Info, Plugin, clock};

/// The bucket of the namespaces themselves: one exists as soon as something is in it.
const NAMESPACES: &str = "namespaces";

type Records = BTreeMap<Key, Vec<u8>>;

/// metadata.memory.
#[derive(Debug)]
pub struct MemoryMetadata {
    records: Records,
    log: BTreeMap<u64, Event>,
    head: watch::Sender<u64>,
}

/// It has none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for MemoryMetadata {
    const INFO: Info = Info {
        id: "metadata.memory",
        version: env!("CARGO_PKG_VERSION"),
        about: "names in memory, for tests",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, _context: Context) -> Result<Self> {
        Ok(Self { records: Records::new(), log: BTreeMap::new(), head: watch::Sender::new(0) })
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        exports.contract::<Metadata>(MetadataAddr::from(addr));
    }
}

impl Actor for MemoryMetadata {
    type Context = Cell<Self>;
}

/// # Errors
/// `InvalidArgument`: an empty name, or a NUL.
fn check_key(key: &Key) -> Result<()> {
    for part in [&key.bucket, &key.name] {
        if part.is_empty() || part.contains('\0') {
            return Err(Error::invalid(format!(
                "{part:?} is empty or has a NUL in it, and names something in {:?}",
                key.bucket
            )));
        }
    }
    Ok(())
}

fn check(records: &Records, step: &Step) -> Result<()> {
    match step {
        Step::Guard { key, expect, error } => {
            check_key(key)?;
            let found = records.get(key);
            let is_met = match expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Equals(want) => found == Some(want),
            };
            if is_met { Ok(()) } else { Err(error.clone()) }
        }
        Step::GuardEmpty(namespace) => {
            let held = records.keys().find(|key| key.namespace.as_ref() == Some(namespace));
            held.map_or(Ok(()), |key| {
                Err(Error::precondition(format!(
                    "namespace {namespace} is not empty: it has {}; remove them first",
                    key.bucket
                )))
            })
        }
        Step::Put { key, .. } | Step::Delete(key) => check_key(key),
    }
}

impl MemoryMetadata {
    fn newest(&self) -> u64 {
        *self.head.borrow()
    }

    fn ensure_namespace(&mut self, namespace: &Namespace, fresh: &mut Vec<NewEvent>) {
        let key = Key::global(NAMESPACES, namespace.as_str());
        if self.records.contains_key(&key) {
            return;
        }
        let value = encode::<namespace_record::Owned>(|mut record| {
            record.set_created_at_unix_ns(clock::now_unix_ns());
        });
        self.records.insert(key, value);
        fresh.push(NewEvent::new(namespace, "/namespaces/create").with("name", namespace));
    }
}

impl Handler<Commit> for MemoryMetadata {
    type Result = Result<u64>;
    fn handle(&mut self, commit: Commit, _: &mut Cell<Self>) -> Self::Result {
        // All guards, before anything is written.
        commit.steps.iter().try_for_each(|step| check(&self.records, step))?;
        let mut events = Vec::new();
        for step in commit.steps {
            match step {
                Step::Guard { .. } | Step::GuardEmpty(_) => {}
                Step::Put { key, value } => {
                    if let Some(namespace) = &key.namespace {
                        self.ensure_namespace(namespace, &mut events);
                    }
                    self.records.insert(key, value);
                }
                Step::Delete(key) => drop(self.records.remove(&key)),
            }
        }
        events.extend(commit.events);
        let mut newest = self.newest();
        for event in events {
            newest += 1;
            let time_unix_ns = clock::now_unix_ns();
            self.log.insert(newest, Event { cursor: newest, time_unix_ns, event });
        }
        self.head.send_if_modified(|head| std::mem::replace(head, newest) != newest);
        Ok(newest)
    }
}

impl Handler<Get> for MemoryMetadata {
    type Result = Result<Option<Vec<u8>>>;
    fn handle(&mut self, Get(key): Get, _: &mut Cell<Self>) -> Self::Result {
        check_key(&key)?;
        Ok(self.records.get(&key).cloned())
    }
}

impl Handler<Scan> for MemoryMetadata {
    type Result = Result<Vec<(String, Vec<u8>)>>;
    fn handle(&mut self, scan: Scan, _: &mut Cell<Self>) -> Self::Result {
        let Scan { bucket, namespace, page } = scan;
        let from = Key { bucket, namespace, name: page.after };
        // No record has an empty name, so this leaves out none.
        let behind = self.records.range((Bound::Excluded(&from), Bound::Unbounded));
        let ours = behind
            .take_while(|(key, _)| key.bucket == from.bucket && key.namespace == from.namespace);
        Ok(ours.take(page.limit).map(|(key, value)| (key.name.clone(), value.clone())).collect())
    }
}

impl Handler<ScanAll> for MemoryMetadata {
    type Result = Result<Vec<(Key, Vec<u8>)>>;
    fn handle(&mut self, ScanAll(bucket): ScanAll, _: &mut Cell<Self>) -> Self::Result {
        let ours = self.records.iter().filter(|(key, _)| key.bucket == bucket);
        Ok(ours.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Handler<ReadLog> for MemoryMetadata {
    type Result = Result<LogPage>;
    fn handle(&mut self, read: ReadLog, _: &mut Cell<Self>) -> Self::Result {
        let oldest = self.log.keys().next().copied().unwrap_or(0);
        let behind = self.log.range((Bound::Excluded(read.after), Bound::Unbounded));
        let events = behind.take(read.limit).map(|(_, event)| event.clone()).collect();
        Ok(LogPage { events, missed: oldest.saturating_sub(read.after.saturating_add(1)) })
    }
}

impl Handler<TrimLog> for MemoryMetadata {
    type Result = Result<()>;
    fn handle(&mut self, TrimLog(up_to): TrimLog, _: &mut Cell<Self>) -> Self::Result {
        // The newest stays: by it a reader that comes later is told how many it missed.
        let first = up_to.min(self.newest().saturating_sub(1)).saturating_add(1);
        self.log = self.log.split_off(&first);
        Ok(())
    }
}

impl Handler<WatchLog> for MemoryMetadata {
    type Result = Result<watch::Receiver<u64>>;
    fn handle(&mut self, _: WatchLog, _: &mut Cell<Self>) -> Self::Result {
        Ok(self.head.subscribe())
    }
}

impl Handler<Audit> for MemoryMetadata {
    type Result = Result<Vec<Finding>>;
    fn handle(&mut self, _: Audit, _: &mut Cell<Self>) -> Self::Result {
        // There is no file to be damaged.
        Ok(Vec::new())
    }
}
