//! When things were last used: what settles the race between a collection and a new use.
//!
//! An owner notes each use here, in memory, and writes the times to its records when somebody looks at the
//! graph, and when it ends in order. A use takes the gate shared, a collection takes it alone while it decides
//! and commits: so what answered a use is either seen by the collection, or comes after it and finds nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_schema::{Class, Namespace, Result};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::contract::Metadata;
use crate::contract::metadata::{Commit, Get, Key, Step};
use crate::{Link, clock};

/// How many records are changed or removed in one commit: few syncs, and nobody waits for long.
pub const BATCH: usize = 128;

type Times = HashMap<(Namespace, String), i64>;

/// Times of last use of the things of one owner. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Uses {
    /// When this instance began: of what was before it knows only what is in the records.
    since_unix_ns: i64,
    times: Arc<Mutex<Times>>,
    gate: Arc<RwLock<()>>,
}

impl Default for Uses {
    fn default() -> Self {
        Self { since_unix_ns: clock::steady_unix_ns(), times: Arc::default(), gate: Arc::default() }
    }
}

impl Uses {
    /// For a use: held from the note of it until its answer is known. Also for all other changes of records.
    pub async fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// For a collection: held from the decision until the commit.
    pub async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Notes that something is used now.
    pub fn note(&self, namespace: &Namespace, name: &str) {
        let now = clock::steady_unix_ns();
        let mut times = self.times();
        let time = times.entry((namespace.clone(), name.to_owned())).or_insert(now);
        *time = now.max(*time);
    }

    /// When it was last used, given what its record says.
    pub fn last(&self, namespace: &Namespace, name: &str, recorded: i64) -> i64 {
        let noted = self.times().get(&(namespace.clone(), name.to_owned())).copied();
        noted.unwrap_or(0).max(recorded)
    }

    /// Whether nobody used it since a collector began to look. Of what was before this instance nobody knows: all
    /// counts as used when it began.
    pub fn is_unused(
        &self,
        namespace: &Namespace,
        name: &str,
        recorded: i64,
        since_unix_ns: i64,
    ) -> bool {
        self.last(namespace, name, recorded).max(self.since_unix_ns) < since_unix_ns
    }

    /// Forgets what is gone.
    pub fn forget(&self, namespace: &Namespace, name: &str) {
        self.times().remove(&(namespace.clone(), name.to_owned()));
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the times to the records of a bucket; `None` = of all namespaces. `stamp` puts a time into a record.
    /// What another change of the same record comes between is left to the next call.
    ///
    /// # Errors
    /// Those of the metadata; the times are kept then.
    pub async fn settle(
        &self,
        metadata: &Link<Metadata>,
        bucket: &str,
        namespace: Option<&Namespace>,
        stamp: impl Fn(&str, &[u8], i64) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let noted: Vec<_> = {
            let times = self.times();
            let here =
                times.iter().filter(|((where_, _), _)| namespace.is_none_or(|n| n == where_));
            here.map(|((where_, name), &at)| (where_.clone(), name.clone(), at)).collect()
        };
        for batch in noted.chunks(BATCH) {
            let _shared = self.shared().await;
            let mut steps = Vec::new();
            for (namespace, name, at) in batch {
                let key = Key::new(bucket, namespace, name.as_str());
                // What is not there was removed meanwhile.
                if let Some(old) = metadata.send(Get(key.clone())).await?
                    && let Ok(value) = stamp(name, &old, *at)
                {
                    steps.push(Step::unchanged(key.clone(), old));
                    steps.push(Step::Put { key, value });
                }
            }
            if !steps.is_empty() {
                match metadata.send(Commit { steps, events: Vec::new() }).await {
                    Err(error) if error.class() == Class::Aborted => continue,
                    answer => answer?,
                };
            }
            let mut times = self.times();
            for (namespace, name, at) in batch {
                let key = (namespace.clone(), name.clone());
                if times.get(&key) == Some(at) {
                    times.remove(&key);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_since_is_not_unused() {
        let uses = Uses { since_unix_ns: 10, ..Uses::default() };
        let namespace = Namespace::parse("a").unwrap();
        let is_unused = |recorded, since| uses.is_unused(&namespace, "x", recorded, since);
        assert!(!is_unused(0, 10), "the look began before this instance did");
        assert!(is_unused(0, 11));
        assert!(is_unused(19, 20));
        assert!(!is_unused(20, 20), "at the same time is not before");
        let before = clock::steady_unix_ns();
        uses.note(&namespace, "x");
        assert!(!is_unused(0, before));
        assert!(is_unused(0, clock::steady_unix_ns() + 1));
        uses.forget(&namespace, "x");
        assert!(is_unused(0, before));
    }
}
