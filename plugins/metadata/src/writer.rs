//! The writer: a thread that folds what waits into one durable transaction, and keeps the second copy.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use capstan_sdk::contract::metadata::{Commit, Step};
use capstan_sdk::{Class, Error, Namespace, Result, failpoint};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::change::{self, Change};
use crate::entry::{Draft, Kind};
use crate::journal::{self, Journal};
use crate::key::NAMESPACES;
use crate::reserve::Reserve;
use crate::shared::Shared;
use crate::store::{self, fail};
use crate::{read, report};

/// Commits in one transaction at most: it bounds how long the first of them waits for the sync.
const BATCH: usize = 1024;

/// Commits that may wait for the writer: a tenth of a second of work at full speed. More are refused.
const QUEUE: usize = 4096;

/// How often the thread looks after the journal and the reserve, where there is something to look after.
const TICK: Duration = Duration::from_secs(1);

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

/// What is written, in its order, with its answers.
pub(crate) type Written = Vec<(oneshot::Sender<Result<u64>>, Result<u64>)>;

/// Answers at a time. Each makes work for the thread that all plugins and connections share: with as many as were
/// written at once, whoever only reads would wait for all of it, several times over.
const FEW: usize = 16;

/// How often all others have their turn before the next few: what an answer makes of work is done in several steps.
const TURNS: usize = 3;

/// Answers what is written, on the callers' thread, and lets all others have their turn in between.
pub(crate) async fn answer(mut written: mpsc::UnboundedReceiver<Written>) {
    while let Some(batch) = written.recv().await {
        for (index, (reply, answer)) in batch.into_iter().enumerate() {
            if index > 0 && index % FEW == 0 {
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
            }
            // Nobody may wait any more: that is the caller's choice.
            let _ = reply.send(answer);
        }
    }
}

/// The thread. Dropping this ends it, after it has written what was sent.
///
/// Only this holds the sending half, so that its end closes the queue at once; the wait then is for what is
/// queued, at most.
pub(crate) struct Writer {
    requests: Option<std::sync::mpsc::Sender<Request>>,
    /// How many were sent and not taken yet.
    waiting: Arc<AtomicUsize>,
    head: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. The receiver resolves when the thread has ended, for whatever reason.
    pub(crate) fn start(
        shared: Arc<Shared>,
        reserve: Reserve,
        written: mpsc::UnboundedSender<Written>,
    ) -> Result<(Self, oneshot::Receiver<Infallible>)> {
        let (newest, sequence) =
            shared.with(|database| Ok((read::head(database)?, store::sequence(database)?)))?;
        let (requests, inbox) = std::sync::mpsc::channel();
        let (publish, head) = watch::channel(newest);
        let (alive, ended) = oneshot::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let state = State {
            shared,
            reserve,
            journal: None,
            newest,
            sequence,
            publish,
            written,
            waiting: Arc::clone(&waiting),
            known: HashSet::new(),
            looked_after: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("metadata".into())
            .spawn(move || {
                let _alive = alive;
                state.run(&inbox);
            })
            .map_err(|error| Error::io("start the metadata writer", error))?;
        Ok((Self { requests: Some(requests), waiting, head, thread: Some(thread) }, ended))
    }

    /// Queues an order; the future waits for its answer.
    pub(crate) fn send(&self, order: Order) -> impl Future<Output = Result<u64>> + 'static {
        let (reply, answer) = oneshot::channel();
        let queued = self.queue(Request { order, reply });
        async move {
            queued?;
            answer.await.map_err(|_| gone())?
        }
    }

    fn queue(&self, request: Request) -> Result<()> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::exhausted(format!(
                "{QUEUE} changes wait to be written; try again later"
            )));
        }
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(request).map_err(|_| gone())
    }

    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }
}

fn gone() -> Error {
    Error::unavailable("the metadata writer ended; try again")
}

impl Writer {
    /// Ends the thread and waits for that. It writes what was sent.
    pub(crate) fn end(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the metadata writer had panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

struct State {
    shared: Arc<Shared>,
    reserve: Reserve,
    /// `None`: there is none yet, or it could not be opened.
    journal: Option<Journal>,
    /// The newest cursor that is on disk.
    newest: u64,
    /// The number of the newest transaction on disk.
    sequence: u64,
    publish: watch::Sender<u64>,
    written: mpsc::UnboundedSender<Written>,
    waiting: Arc<AtomicUsize>,
    /// Namespaces that are known to have a record.
    known: HashSet<Namespace>,
    looked_after: Instant,
}

/// A transaction, carried out but for its commit.
struct Prepared {
    newest: u64,
    answers: Vec<Result<u64>>,
    fresh: Vec<Namespace>,
    draft: Draft,
}

impl State {
    fn run(mut self, inbox: &std::sync::mpsc::Receiver<Request>) {
        self.begin_journal();
        self.shared.note_journal();
        self.serve(inbox);
        if let Some(journal) = self.journal.as_mut().filter(|journal| journal.is_unsynced()) {
            journal.sync();
        }
        // An end in order says that a journal without a flaw has everything (`rebuild::recover`).
        if self.journal.as_ref().is_none_or(Journal::is_behind) && !self.shared.is_read_only() {
            journal::tear(self.shared.dir());
        }
    }

    /// Until nobody can send any more, or after what ends the plugin.
    fn serve(&mut self, inbox: &std::sync::mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        loop {
            let first = match self.has_chores() {
                true => inbox.recv_timeout(TICK),
                false => inbox.recv().map_err(RecvTimeoutError::from),
            };
            match first {
                Ok(first) => {
                    batch.push(first);
                    while batch.len() < BATCH
                        && let Ok(next) = inbox.try_recv()
                    {
                        batch.push(next);
                    }
                    self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
                    if let Err(error) = self.write(&mut batch) {
                        error!(%error, "a transaction failed; none of it happened");
                        for request in batch.drain(..) {
                            request.answer(Err(error.clone()));
                        }
                        // Ending here lets the plugin end, and the supervisor opens the file anew.
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.looked_after.elapsed() >= TICK {
                self.do_chores();
            }
        }
    }

    fn has_chores(&self) -> bool {
        let is_waiting = |journal: &Journal| journal.is_unsynced() || journal.is_behind();
        self.reserve.is_wanted()
            || self.shared.is_read_only()
            || self.journal.as_ref().is_none_or(is_waiting)
    }

    /// What need not be done on the way of a commit.
    fn do_chores(&mut self) {
        self.looked_after = Instant::now();
        if self.shared.is_read_only() {
            let _ = self.reopen();
        }
        if self.shared.is_read_only() {
            return;
        }
        self.reserve.make();
        match &mut self.journal {
            Some(journal) if journal.is_behind() || journal.is_long() => self.renew_journal(),
            Some(journal) if journal.is_unsynced() => journal.sync(),
            Some(_) => {}
            None => self.renew_journal(),
        }
    }

    /// Goes on with the journal that is there if it has all that the database has; else makes a new one.
    fn begin_journal(&mut self) {
        if self.shared.is_read_only() {
            return;
        }
        let dir = self.shared.dir();
        let path = journal::path_in(dir);
        match journal::walk(&path, |_| {}) {
            Ok(walk) if walk.flaws.is_empty() && walk.sequence == self.sequence => {
                match Journal::resume(dir, &walk) {
                    Ok(journal) => {
                        self.journal = Some(journal);
                        return;
                    }
                    Err(error) => warn!(%error, "the journal is made anew"),
                }
            }
            Ok(walk) if !walk.flaws.is_empty() => {
                let mut lines: Vec<String> =
                    walk.flaws.iter().map(|flaw| format!("damaged: {flaw}")).collect();
                lines.push("made anew from the database, which is sound: nothing is lost".into());
                if let Err(error) = report::set_aside(dir, &path, &lines) {
                    warn!(%error, "the damaged journal cannot be kept");
                }
            }
            Ok(walk) => {
                let (has, is) = (walk.sequence, self.sequence);
                info!(has, is, "the journal is behind the database; it is made anew");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "the journal cannot be read; it is made anew"),
        }
        self.renew_journal();
    }

    fn renew_journal(&mut self) {
        let dir = self.shared.dir();
        match self.shared.with(|database| Journal::create(dir, database)) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => {
                warn!(%error, "the second copy of the metadata cannot be made; it follows");
                if let Some(journal) = &mut self.journal {
                    journal.put_off();
                }
            }
        }
    }

    /// Opens the database anew after an error of the system.
    fn reopen(&mut self) -> Result<()> {
        self.shared.reopen(&mut self.reserve)?;
        let (newest, sequence) =
            self.shared.with(|database| Ok((read::head(database)?, store::sequence(database)?)))?;
        self.known.clear();
        if sequence != self.sequence {
            // A commit whose error came late, or a rebuild.
            self.sequence = sequence;
            self.journal = None;
        }
        self.newest = self.newest.max(newest);
        self.publish.send_if_modified(|head| std::mem::replace(head, self.newest) != self.newest);
        Ok(())
    }

    /// Writes a batch in one transaction and answers all of it, also where the system has no space.
    ///
    /// An error is one after which the plugin has to end.
    fn write(&mut self, batch: &mut Vec<Request>) -> Result<()> {
        if let Some(error) = self.shared.read_only() {
            answer_all(batch, &error);
            return Ok(());
        }
        let scarcity = self.reserve.scarcity();
        let Err(error) = self.attempt(batch, scarcity.as_ref()) else { return Ok(()) };
        if error.class() == Class::Corrupt {
            return Err(self.shared.damaged(&error));
        }
        warn!(%error, "a transaction failed; the database is opened anew");
        self.reopen()?;
        if let Some(error) = self.shared.read_only() {
            answer_all(batch, &error);
            return Ok(());
        }
        if error.class() == Class::ResourceExhausted && self.reserve.give_up() {
            // What adds something is refused now, the rest has room.
            let scarcity = self.reserve.scarcity().unwrap_or_else(|| error.clone());
            match self.attempt(batch, Some(&scarcity)) {
                Ok(()) => return Ok(()),
                Err(error) if error.class() == Class::Corrupt => {
                    return Err(self.shared.damaged(&error));
                }
                Err(error) => {
                    self.reopen()?;
                    answer_all(batch, &error);
                    return Ok(());
                }
            }
        }
        answer_all(batch, &error);
        Ok(())
    }

    /// One transaction. On an error nothing is answered, unless it turns out that all of it is on disk: the file was
    /// opened anew and can be written, which after a failed sync takes that it was written once more (`file::settle`).
    fn attempt(&mut self, batch: &mut Vec<Request>, scarcity: Option<&Error>) -> Result<()> {
        let sequence = self.sequence + 1;
        let mut prepared = None;
        let committed = self.shared.with_raw(|database| {
            let transaction = database.begin_write().map_err(fail)?;
            let mut newest = self.newest;
            let mut answers = Vec::with_capacity(batch.len());
            let mut fresh = Vec::new();
            let mut change =
                Change::open(&transaction, &self.known, &mut fresh, &mut newest, scarcity)?;
            for request in batch.iter() {
                answers.push(change.take(&request.order)?);
            }
            let draft = change.finish();
            let is_empty = draft.is_empty();
            prepared = Some(Prepared { newest, answers, fresh, draft });
            if is_empty {
                return transaction.abort().map_err(fail);
            }
            change::number(&transaction, sequence)?;
            failpoint::at("metadata:filled");
            let committed = transaction.commit().map_err(fail);
            failpoint::at("metadata:committed");
            committed
        });
        if let Err(error) = committed {
            let is_there = prepared.is_some()
                && error.class() != Class::Corrupt
                && self.shared.reopen(&mut self.reserve).is_ok()
                && !self.shared.is_read_only()
                && self.shared.with(store::sequence).is_ok_and(|found| found == sequence);
            if !is_there {
                return Err(error);
            }
        }
        let Prepared { newest, answers, fresh, draft } =
            prepared.expect("it is there once there was a commit");
        if !draft.is_empty() {
            self.sequence = sequence;
            self.newest = newest;
            self.known.extend(fresh);
            if let Some(journal) = &mut self.journal {
                journal.append(&draft.finish(Kind::Change, sequence, newest, 0));
            }
        }
        // Before the answers: who has one finds its event at the head of the log.
        self.publish.send_if_modified(|head| std::mem::replace(head, newest) != newest);
        let mut answered = Vec::with_capacity(batch.len());
        for (request, answer) in batch.drain(..).zip(answers) {
            if let (Order::Commit(commit), Ok(_)) = (&request.order, &answer) {
                forget(&mut self.known, commit);
            }
            answered.push((request.reply, answer));
        }
        // Who answers is there until the last of these is dropped.
        let _ = self.written.send(answered);
        Ok(())
    }
}

fn answer_all(batch: &mut Vec<Request>, error: &Error) {
    for request in batch.drain(..) {
        request.answer(Err(error.clone()));
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A commit of many at once is answered so that whoever else has something to do has a turn after a few of them.
    #[test]
    fn others_have_their_turn_between_answers() {
        const MANY: usize = 100;
        actix::System::new().block_on(async {
            let (written, answers) = mpsc::unbounded_channel();
            actix::spawn(answer(answers));
            let answered = Rc::new(Cell::new(0));
            let mut batch = Vec::new();
            for number in 0..MANY {
                let (reply, answer) = oneshot::channel::<Result<u64>>();
                batch.push((reply, Ok(number as u64)));
                let answered = Rc::clone(&answered);
                actix::spawn(async move {
                    assert_eq!(answer.await.unwrap().unwrap(), answered.get() as u64);
                    answered.set(answered.get() + 1);
                });
            }
            written.send(batch).unwrap();
            let (mut last, mut most) = (0, 0);
            while answered.get() < MANY {
                tokio::task::yield_now().await;
                most = most.max(answered.get() - last);
                last = answered.get();
            }
            assert!(most <= 2 * FEW, "{most} answers without a turn for others");
        });
    }
}
