//! Flights: work that several callers want is done once, for as long as one of them wants it.
//!
//! A flight is a task of its own. Those who want its outcome hold it; when the last of them is gone
//! the task is told, and cleans up by itself. So a cancelled pull takes nothing from another one, and
//! leaves nothing behind.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::rc::{Rc, Weak};

use capstan_sdk::{Error, Result};
use tokio::sync::{oneshot, watch};

/// Resolves when nobody wants the flight any more.
pub(crate) type Abandoned = oneshot::Receiver<Infallible>;

/// One piece of work under way, or done.
pub(crate) struct Flight<S> {
    /// What the work shows of itself meanwhile.
    pub(crate) state: Rc<S>,
    outcome: watch::Receiver<Option<Result<()>>>,
    /// `None`: it is only watched.
    _wanted: Option<oneshot::Sender<Infallible>>,
}

impl<S> fmt::Debug for Flight<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flight(done: {})", self.outcome.borrow().is_some())
    }
}

impl<S> Flight<S> {
    /// Waits for the outcome.
    pub(crate) async fn wait(&self) -> Result<()> {
        landed(self.outcome.clone()).await
    }

    /// The same for who works with what comes, and does not keep it on its way.
    pub(crate) fn watched(&self) -> Rc<Self> {
        let (state, outcome) = (Rc::clone(&self.state), self.outcome.clone());
        Rc::new(Self { state, outcome, _wanted: None })
    }

    /// Lets go of it. If nobody else wants it, this waits until it has cleaned up.
    pub(crate) async fn leave(self: Rc<Self>) {
        if let Some(last) = Rc::into_inner(self) {
            let Self { outcome, _wanted, .. } = last;
            drop(_wanted);
            let _ = landed(outcome).await;
        }
    }
}

async fn landed(mut outcome: watch::Receiver<Option<Result<()>>>) -> Result<()> {
    match outcome.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().expect("it was waited for"),
        Err(_) => Err(Error::internal("the work panicked; the daemon's log has the place")),
    }
}

/// The flights of one kind, by what they are for.
pub(crate) struct Flights<K, S> {
    table: Rc<RefCell<HashMap<K, Weak<Flight<S>>>>>,
}

impl<K, S> Clone for Flights<K, S> {
    fn clone(&self) -> Self {
        Self { table: Rc::clone(&self.table) }
    }
}

impl<K, S> Default for Flights<K, S> {
    fn default() -> Self {
        Self { table: Rc::default() }
    }
}

impl<K, S> Flights<K, S> {
    /// Whether nothing is under way, and nothing cleans up.
    pub(crate) fn is_idle(&self) -> bool {
        self.table.borrow().is_empty()
    }
}

impl<K: Hash + Eq + Clone + 'static, S: Default + 'static> Flights<K, S> {
    /// Joins the flight for `key`, or starts it.
    pub(crate) fn join<F>(
        &self,
        key: &K,
        start: impl FnOnce(Rc<S>, Abandoned) -> F,
    ) -> Rc<Flight<S>>
    where
        F: Future<Output = Result<()>> + 'static,
    {
        if let Some(flight) = self.table.borrow().get(key).and_then(Weak::upgrade) {
            return flight;
        }
        let state = Rc::new(S::default());
        let (land, outcome) = watch::channel(None);
        let (wanted, abandoned) = oneshot::channel();
        let flight = Rc::new(Flight { state: Rc::clone(&state), outcome, _wanted: Some(wanted) });
        self.table.borrow_mut().insert(key.clone(), Rc::downgrade(&flight));
        let work = start(state, abandoned);
        let (table, key) = (Rc::clone(&self.table), key.clone());
        actix::spawn(async move {
            let outcome = work.await;
            // Who comes from now on must look at the world, not at this flight. A newer flight of
            // the same key, begun while this one cleaned up, stays.
            let mut table = table.borrow_mut();
            let is_ours = |entry: &Weak<Flight<S>>| {
                entry.upgrade().is_none_or(|entry| entry.outcome.same_channel(&land.subscribe()))
            };
            if table.get(&key).is_some_and(is_ours) {
                table.remove(&key);
            }
            let _ = land.send(Some(outcome));
        });
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn run(test: impl Future<Output = ()>) {
        actix::System::new().block_on(test);
    }

    #[test]
    fn one_flight_serves_all_who_want_it() {
        run(async {
            let flights: Flights<u32, ()> = Flights::default();
            let starts = Rc::new(Cell::new(0));
            let join = || {
                flights.join(&1, |_, _| {
                    starts.set(starts.get() + 1);
                    async {
                        tokio::task::yield_now().await;
                        Err(Error::not_found("x"))
                    }
                })
            };
            let (one, two) = (join(), join());
            assert_eq!(one.wait().await, two.wait().await);
            assert_eq!(starts.get(), 1);
            // It has landed: the next one who comes starts anew.
            assert!(join().wait().await.is_err());
            assert_eq!(starts.get(), 2);
        });
    }

    #[test]
    fn it_ends_when_the_last_one_leaves() {
        run(async {
            let flights: Flights<u32, Cell<bool>> = Flights::default();
            let join = || {
                flights.join(&1, |cleaned: Rc<Cell<bool>>, abandoned| async move {
                    let _ = abandoned.await;
                    tokio::task::yield_now().await;
                    cleaned.set(true);
                    Ok(())
                })
            };
            let (one, two) = (join(), join());
            let state = Rc::clone(&one.state);
            one.leave().await;
            assert!(!state.get());
            two.leave().await;
            assert!(state.get(), "leaving waits for the cleaning");
        });
    }

    #[test]
    fn who_only_watches_does_not_keep_it_on_its_way() {
        run(async {
            let flights: Flights<u32, ()> = Flights::default();
            let flight = flights.join(&1, |_, abandoned| async move {
                let _ = abandoned.await;
                Err(Error::aborted("x"))
            });
            let watched = flight.watched();
            drop(flight);
            assert_eq!(watched.wait().await, Err(Error::aborted("x")));
        });
    }
}
