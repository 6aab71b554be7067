//! The snapshots in the ownership graph, and the audit of them.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use capstan_schema::{Namespace, Result};
use tracing::warn;

use super::driver::{Driver, DriverPlugin};
use super::ledger::Snapshot;
use crate::contract::graph::{Collected, Finding, Flaw, Node, Resource};
use crate::contract::snapshotter::{Audit, Collect, Kind};
use crate::uses::BATCH;
use crate::{blocking, tree};

impl<D: Driver> DriverPlugin<D> {
    fn resource(key: &str) -> Resource {
        let snapshotter = D::INFO.id.split_once('.').map_or(D::INFO.id, |(_, name)| name);
        Resource::Snapshot { snapshotter: snapshotter.into(), key: key.into() }
    }

    pub(super) async fn collect(self, collect: Collect) -> Result<Collected> {
        let Collect { namespace, keys, unused_since_unix_ns } = collect;
        let mut collected = Collected::default();
        for batch in keys.chunks(BATCH) {
            let gone = self.ledger.collect(&namespace, batch, unused_since_unix_ns).await?;
            for going in gone {
                let (driver, snapshot) = (Arc::clone(&self.driver), going.snapshot.clone());
                let usage = match snapshot.usage {
                    Some(usage) => Ok(usage),
                    None => {
                        blocking::run("measure a snapshot", move || driver.measure(&snapshot)).await
                    }
                };
                self.discard(going.snapshot.id).await;
                collected.freed += usage.map_or(0, |usage| usage.size);
                collected.removed.push(going.snapshot.info.key.clone());
            }
        }
        Ok(collected)
    }

    pub(super) async fn nodes(self, namespace: Namespace) -> Result<Vec<Node>> {
        if let Err(error) = self.ledger.settle(Some(&namespace)).await {
            // A full disk must not keep a collection from making room.
            warn!(%error, "times of last use could not be written; they are kept in memory");
        }
        let mut nodes = Vec::new();
        for snapshot in self.ledger.all(&namespace).await? {
            // What cannot be measured is the audit's matter; it may also be on its way out.
            let usage = self.usage(&namespace, snapshot.clone()).await.unwrap_or_default();
            nodes.push(Self::node(snapshot, usage.size));
        }
        Ok(nodes)
    }

    fn node(snapshot: Snapshot, size: u64) -> Node {
        let info = snapshot.info;
        let references = match info.parent.as_str() {
            "" => Vec::new(),
            parent => vec![Self::resource(parent)],
        };
        Node {
            resource: Self::resource(&info.key),
            references,
            root: match info.kind {
                Kind::Committed => String::new(),
                Kind::Active => "it is active".into(),
                Kind::View => "it is a view".into(),
            },
            size,
            created_at_unix_ns: info.created_at_unix_ns,
            used_at_unix_ns: snapshot.used_at_unix_ns,
            labels: info.labels,
        }
    }

    pub(super) async fn audit(self, audit: Audit) -> Result<Vec<Finding>> {
        let driver = Arc::clone(&self.driver);
        // First what is on disk and nobody works on, then the records: by then what is new has one.
        let (mut numbers, strays) =
            blocking::run("list the snapshots", move || Ok((driver.numbers()?, driver.strays()?)))
                .await?;
        numbers.retain(|&id| !self.ledger.is_busy(id));
        let (records, mut findings) = self.records().await?;
        let names: HashSet<(&Namespace, &str)> =
            records.iter().map(|(ns, snapshot)| (ns, snapshot.info.key.as_str())).collect();
        let known: HashSet<u64> = records.iter().map(|(_, snapshot)| snapshot.id).collect();
        if audit.is_cleaning {
            self.end_limits(&records).await?;
        }
        for (namespace, snapshot) in &records {
            if let Some((flaw, detail)) = self.flaw(snapshot, &names, namespace, &audit).await?
                && self.ledger.get(namespace, &snapshot.info.key).await.is_ok()
            {
                let what = Self::resource(&snapshot.info.key).to_string();
                findings.push(Finding { namespace: Some(namespace.clone()), what, flaw, detail });
            }
        }
        numbers.retain(|id| !known.contains(id));
        let driver = Arc::clone(&self.driver);
        let still: HashSet<u64> = match numbers.is_empty() {
            true => HashSet::new(),
            false => blocking::run("list the snapshots", move || driver.numbers())
                .await?
                .into_iter()
                .collect(),
        };
        for id in numbers.into_iter().filter(|id| still.contains(id)) {
            let what = self.driver.path(id).display().to_string();
            let mut detail = "no record names it".to_owned();
            if audit.is_cleaning {
                let driver = Arc::clone(&self.driver);
                blocking::run("remove a snapshot", move || driver.remove(id)).await?;
                detail += "; removed";
            }
            findings.push(Finding { namespace: None, what, flaw: Flaw::Orphan, detail });
        }
        for path in strays {
            let what = path.display().to_string();
            let mut detail = "it is no snapshot".to_owned();
            if audit.is_cleaning {
                blocking::run("remove a stray file", move || match fs::symlink_metadata(&path) {
                    Ok(about) if !about.is_dir() => fs::remove_file(&path).map_err(|error| {
                        capstan_schema::Error::io(format!("remove {}", path.display()), error)
                    }),
                    _ => tree::remove(&path),
                })
                .await?;
                detail += "; removed";
            }
            findings.push(Finding { namespace: None, what, flaw: Flaw::Orphan, detail });
        }
        Ok(findings)
    }

    /// Of committed snapshots: a crash came between the record and the end of the limit.
    async fn end_limits(&self, records: &[(Namespace, Snapshot)]) -> Result<()> {
        let is_committed =
            |(_, snapshot): &&(Namespace, Snapshot)| snapshot.info.kind == Kind::Committed;
        let ids: Vec<u64> =
            records.iter().filter(is_committed).map(|(_, snapshot)| snapshot.id).collect();
        let driver = Arc::clone(&self.driver);
        blocking::run("end limits of committed snapshots", move || {
            if let Some(projects) = driver.projects() {
                ids.into_iter().for_each(|id| projects.settle(id));
            }
            Ok(())
        })
        .await
    }

    async fn records(&self) -> Result<(Vec<(Namespace, Snapshot)>, Vec<Finding>)> {
        let (mut records, mut findings) = (Vec::new(), Vec::new());
        for (key, snapshot) in self.ledger.everything().await? {
            let Some(namespace) = key.namespace else { continue };
            match snapshot {
                Ok(snapshot) => records.push((namespace, snapshot)),
                Err(error) => findings.push(Finding {
                    namespace: Some(namespace),
                    what: Self::resource(&key.name).to_string(),
                    flaw: Flaw::Damaged,
                    detail: format!("its record does not decode: {}", error.message()),
                }),
            }
        }
        Ok((records, findings))
    }

    async fn flaw(
        &self,
        snapshot: &Snapshot,
        names: &HashSet<(&Namespace, &str)>,
        namespace: &Namespace,
        audit: &Audit,
    ) -> Result<Option<(Flaw, String)>> {
        let parent = snapshot.info.parent.as_str();
        if !parent.is_empty() && !names.contains(&(namespace, parent)) {
            return Ok(Some((Flaw::Missing, format!("its parent {parent:?} is gone"))));
        }
        let (driver, snapshot, is_full) =
            (Arc::clone(&self.driver), snapshot.clone(), audit.is_full);
        blocking::run("check a snapshot", move || driver.check(&snapshot, is_full)).await
    }
}
