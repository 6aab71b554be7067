//! The writer: a thread that folds what waits into one durable transaction.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;

use capstan_schema::{event_capnp, record_capnp};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{Commit, Expect, Key, Step};
use capstan_sdk::{Error, Namespace, Result, clock, failpoint, record};
use redb::{Database, ReadableTable as _, Table, WriteTransaction};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::key::{self, NAMESPACES};
use crate::read;
use crate::store::{EVENTS, RECORDS, fail};

/// Commits in one transaction at most: it bounds how long the first of them waits for the sync.
const BATCH: usize = 1024;

/// Commits that may wait for the writer: a tenth of a second of work at full speed. More are refused.
const QUEUE: usize = 4096;

/// Something to write.
pub(crate) enum Order {
    Commit(Commit),
    Trim(u64),
}

/// An order, and where to answer. The answer is the newest cursor.
struct Request {
    order: Order,
    reply: oneshot::Sender<Result<u64>>,
}

impl Request {
    fn answer(self, answer: Result<u64>) {
        // Nobody may wait any more: that is the caller's choice.
        let _ = self.reply.send(answer);
    }
}

/// The thread. Dropping this ends it, after it has written what was sent.
///
/// Only this holds the sending half, so that dropping it closes the queue at once; the wait in
/// `drop` is for what is queued, at most.
pub(crate) struct Writer {
    requests: Option<mpsc::Sender<Request>>,
    head: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. The receiver resolves when the thread has ended, for whatever reason.
    pub(crate) fn start(database: Arc<Database>) -> Result<(Self, oneshot::Receiver<Infallible>)> {
        let newest = read::head(&database)?;
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, head) = watch::channel(newest);
        let (alive, ended) = oneshot::channel();
        let state = State { database, newest, publish, known: HashSet::new() };
        let thread = std::thread::Builder::new()
            .name("metadata".into())
            .spawn(move || {
                let _alive = alive;
                state.run(inbox);
            })
            .map_err(|error| Error::io("start the metadata writer", error))?;
        Ok((Self { requests: Some(requests), head, thread: Some(thread) }, ended))
    }

    /// Queues an order; the future waits for its answer.
    pub(crate) fn send(&self, order: Order) -> impl Future<Output = Result<u64>> + 'static {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().expect("only drop takes it");
        let queued = requests.try_send(Request { order, reply }).map_err(|error| match error {
            TrySendError::Full(_) => {
                Error::exhausted(format!("{QUEUE} changes wait to be written; try again later"))
            }
            TrySendError::Closed(_) => gone(),
        });
        async move {
            queued?;
            answer.await.map_err(|_| gone())?
        }
    }

    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }
}

fn gone() -> Error {
    Error::unavailable("the metadata writer ended; try again")
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the metadata writer had panicked");
        }
    }
}

struct State {
    database: Arc<Database>,
    /// The newest cursor that is on disk.
    newest: u64,
    publish: watch::Sender<u64>,
    /// Namespaces that are known to have a record.
    known: HashSet<Namespace>,
}

impl State {
    fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while let Some(first) = inbox.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            if let Err(error) = self.write(&mut batch) {
                error!(%error, "a transaction failed; none of it happened");
                for request in batch.drain(..) {
                    request.answer(Err(error.clone()));
                }
                // redb refuses all further work after a failed sync. Ending here lets the plugin
                // end, and the supervisor opens the file anew.
                return;
            }
        }
    }

    /// Writes a batch in one transaction and answers all of it.
    ///
    /// An error is one of the database: a request that fails by its own guards is answered here.
    fn write(&mut self, batch: &mut Vec<Request>) -> Result<()> {
        let transaction = self.database.begin_write().map_err(fail)?;
        let mut newest = self.newest;
        let mut answers = Vec::with_capacity(batch.len());
        let mut fresh = Vec::new();
        {
            let mut change = Change::open(&transaction, &self.known, &mut fresh, &mut newest)?;
            for request in batch.iter() {
                answers.push(change.take(&request.order)?);
            }
        }
        failpoint::at("metadata:filled");
        transaction.commit().map_err(fail)?;
        failpoint::at("metadata:committed");
        self.newest = newest;
        self.known.extend(fresh);
        // Before the answers: who has one finds its event at the head of the log.
        self.publish.send_if_modified(|head| std::mem::replace(head, newest) != newest);
        for (request, answer) in batch.drain(..).zip(answers) {
            if let (Order::Commit(commit), Ok(_)) = (&request.order, &answer) {
                forget(&mut self.known, commit);
            }
            request.answer(answer);
        }
        Ok(())
    }
}

/// A removed namespace is not known any more.
fn forget(known: &mut HashSet<Namespace>, commit: &Commit) {
    for step in &commit.steps {
        if let Step::Delete(key) = step
            && key.bucket == NAMESPACES
            && let Ok(namespace) = Namespace::parse(&key.name)
        {
            known.remove(&namespace);
        }
    }
}

/// One transaction under way.
struct Change<'t> {
    records: Table<'t, &'static [u8], &'static [u8]>,
    events: Table<'t, u64, &'static [u8]>,
    known: &'t HashSet<Namespace>,
    fresh: &'t mut Vec<Namespace>,
    newest: &'t mut u64,
}

impl<'t> Change<'t> {
    fn open(
        transaction: &'t WriteTransaction,
        known: &'t HashSet<Namespace>,
        fresh: &'t mut Vec<Namespace>,
        newest: &'t mut u64,
    ) -> Result<Self> {
        let records = transaction.open_table(RECORDS).map_err(fail)?;
        let events = transaction.open_table(EVENTS).map_err(fail)?;
        Ok(Self { records, events, known, fresh, newest })
    }

    /// The outer error fails the transaction, the inner one this request alone.
    fn take(&mut self, order: &Order) -> Result<Result<u64>> {
        match order {
            Order::Commit(commit) => {
                if let Err(error) = self.check(&commit.steps)? {
                    return Ok(Err(error));
                }
                self.apply(commit)?;
            }
            Order::Trim(up_to) => {
                // The newest stays, since the next cursor is told from it.
                let end = (*up_to).min(self.newest.saturating_sub(1));
                self.events.retain_in(..=end, |_, _| false).map_err(fail)?;
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
                        let found = self.records.get(bytes.as_slice()).map_err(fail)?;
                        let is_met = match (expect, &found) {
                            (Expect::Absent, found) => found.is_none(),
                            (Expect::Present, found) => found.is_some(),
                            (Expect::Equals(want), Some(found)) => found.value() == want.as_slice(),
                            (Expect::Equals(_), None) => false,
                        };
                        if is_met { Ok(()) } else { Err(error.clone()) }
                    }
                },
            };
            if let Err(error) = verdict {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
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
                }
            }
        }
        commit.events.iter().try_for_each(|event| self.log(event))
    }

    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        let bytes = key::encode(key)?;
        self.records.insert(bytes.as_slice(), value).map_err(fail)?;
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
        self.events.insert(*self.newest, value.as_slice()).map_err(fail)?;
        Ok(())
    }
}
