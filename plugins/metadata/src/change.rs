//! A transaction under way: requests go into it one after the other, each all or nothing.

use std::collections::HashSet;

use capstan_schema::{event_capnp, record_capnp};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{Commit, Expect, Key, Step};
use capstan_sdk::{Error, Namespace, Result, clock, record};
use redb::{ReadableTable as _, Table, WriteTransaction};

use crate::entry::{Draft, Op};
use crate::key::{self, NAMESPACES};
use crate::store::{EVENTS, FORMAT, RECORDS, SEQUENCE, fail};
use crate::writer::Order;
use crate::{read, seal};

/// One transaction under way.
pub(crate) struct Change<'t> {
    /// The same for the journal.
    draft: Draft,
    records: Table<'t, &'static [u8], &'static [u8]>,
    events: Table<'t, u64, &'static [u8]>,
    known: &'t HashSet<Namespace>,
    fresh: &'t mut Vec<Namespace>,
    newest: &'t mut u64,
    /// What a request is told that adds something; `None`: there is room.
    scarcity: Option<&'t Error>,
}

impl<'t> Change<'t> {
    pub(crate) fn open(
        transaction: &'t WriteTransaction,
        known: &'t HashSet<Namespace>,
        fresh: &'t mut Vec<Namespace>,
        newest: &'t mut u64,
        scarcity: Option<&'t Error>,
    ) -> Result<Self> {
        let records = transaction.open_table(RECORDS).map_err(fail)?;
        let events = transaction.open_table(EVENTS).map_err(fail)?;
        Ok(Self { draft: Draft::new(), records, events, known, fresh, newest, scarcity })
    }

    /// Ends it: what is to be appended to the journal.
    pub(crate) fn finish(self) -> Draft {
        self.draft
    }

    /// The outer error fails the transaction, the inner one this request alone.
    pub(crate) fn take(&mut self, order: &Order) -> Result<Result<u64>> {
        match order {
            Order::Commit(commit) => {
                if let Err(error) = self.check(&commit.steps)? {
                    return Ok(Err(error));
                }
                if let Some(scarcity) = self.scarcity
                    && self.is_adding(commit)?
                {
                    return Ok(Err(scarcity.clone()));
                }
                self.apply(commit)?;
            }
            Order::Trim(up_to) => {
                // The newest stays, since the next cursor is told from it.
                let end = (*up_to).min(self.newest.saturating_sub(1));
                self.events.retain_in(..=end, |_, _| false).map_err(fail)?;
                self.draft.push(&Op::Trim(end));
            }
        }
        Ok(Ok(*self.newest))
    }

    /// All guards, before anything is written.
    fn check(&self, steps: &[Step]) -> Result<Result<()>> {
        for step in steps {
            let verdict = match step {
                Step::Put { key, .. } | Step::Delete(key) => key::encode(key).map(drop),
                Step::GuardEmpty(namespace) => match read::is_in_use(&self.records, namespace)? {
                    None => Ok(()),
                    Some(bucket) => Err(Error::precondition(format!(
                        "namespace {namespace} is not empty: it has {bucket}; remove them first"
                    ))),
                },
                Step::Guard { key, expect, error } => match key::encode(key) {
                    Err(error) => Err(error),
                    Ok(bytes) => {
                        if self.is_met(&bytes, expect)? {
                            Ok(())
                        } else {
                            Err(error.clone())
                        }
                    }
                },
            };
            if let Err(error) = verdict {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn is_met(&self, key: &[u8], expect: &Expect) -> Result<bool> {
        let found = self.records.get(key).map_err(fail)?;
        Ok(match (expect, &found) {
            (Expect::Absent, found) => found.is_none(),
            (Expect::Present, found) => found.is_some(),
            (Expect::Equals(want), Some(found)) => seal::open(key, found.value())? == want,
            (Expect::Equals(_), None) => false,
        })
    }

    /// Whether there is a record afterwards that was not there.
    fn is_adding(&self, commit: &Commit) -> Result<bool> {
        for step in &commit.steps {
            if let Step::Put { key, .. } = step
                && self.records.get(key::encode(key)?.as_slice()).map_err(fail)?.is_none()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn apply(&mut self, commit: &Commit) -> Result<()> {
        for step in &commit.steps {
            match step {
                Step::Guard { .. } | Step::GuardEmpty(_) => {}
                Step::Put { key, value } => {
                    if let Some(namespace) = &key.namespace {
                        self.ensure_namespace(namespace)?;
                    }
                    self.put(key, value)?;
                }
                Step::Delete(key) => {
                    let bytes = key::encode(key)?;
                    self.records.remove(bytes.as_slice()).map_err(fail)?;
                    self.draft.push(&Op::Delete(&bytes));
                }
            }
        }
        commit.events.iter().try_for_each(|event| self.log(event))
    }

    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        let bytes = key::encode(key)?;
        let stored = seal::seal(&bytes, value);
        self.records.insert(bytes.as_slice(), stored.as_slice()).map_err(fail)?;
        self.draft.push(&Op::Put(&bytes, value));
        Ok(())
    }

    fn ensure_namespace(&mut self, namespace: &Namespace) -> Result<()> {
        if self.known.contains(namespace) || self.fresh.contains(namespace) {
            // A delete earlier in this very batch makes the knowledge stale: look again.
            let key = key::encode(&Key::global(NAMESPACES, namespace.as_str()))?;
            if self.records.get(key.as_slice()).map_err(fail)?.is_some() {
                return Ok(());
            }
        }
        let key = Key::global(NAMESPACES, namespace.as_str());
        let bytes = key::encode(&key)?;
        let is_there = self.records.get(bytes.as_slice()).map_err(fail)?.is_some();
        self.fresh.push(namespace.clone());
        if is_there {
            return Ok(());
        }
        let value = record::encode::<record_capnp::namespace_record::Owned>(|mut record| {
            record.set_created_at_unix_ns(clock::now_unix_ns());
        });
        self.put(&key, &value)?;
        self.log(&NewEvent::new(namespace, "/namespaces/create").with("name", namespace))
    }

    fn log(&mut self, event: &NewEvent) -> Result<()> {
        *self.newest += 1;
        let value = record::encode::<event_capnp::event::Owned>(|mut out| {
            out.set_time_unix_ns(clock::now_unix_ns());
            let namespace = event.namespace.as_ref().map(Namespace::as_str).unwrap_or_default();
            out.set_namespace(namespace);
            out.set_topic(&event.topic);
            let count = u32::try_from(event.fields.len()).expect("an event has few fields");
            let mut fields = out.init_fields(count);
            for (index, (key, value)) in (0..).zip(&event.fields) {
                let mut field = fields.reborrow().get(index);
                field.set_key(key);
                field.set_value(value);
            }
        });
        let stored = seal::seal(&self.newest.to_le_bytes(), &value);
        self.events.insert(*self.newest, stored.as_slice()).map_err(fail)?;
        self.draft.push(&Op::Event(*self.newest, &value));
        Ok(())
    }
}

/// Notes the number of the transaction in it.
///
/// # Errors
/// Those of the database.
pub(crate) fn number(transaction: &WriteTransaction, sequence: u64) -> Result<()> {
    let mut format = transaction.open_table(FORMAT).map_err(fail)?;
    format.insert(SEQUENCE, sequence).map_err(fail)?;
    Ok(())
}
