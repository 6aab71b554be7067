//! Commits of layers: those that wait at the same time share one sync.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::snapshotter::{Commit, CommitChain};
use capstan_sdk::{Class, Error, Link, Namespace, Result};
use tokio::sync::oneshot;

use crate::unpack::Target;

/// A commit, and where to answer.
struct Waiting {
    commit: Commit,
    answer: oneshot::Sender<Result<()>>,
}

/// The commits of one snapshotter in one namespace wait in a line. The line is there for as long as somebody works on it.
type Lines = HashMap<(Namespace, String), Vec<Waiting>>;

/// What is to be committed, in order.
#[derive(Clone, Default)]
pub(crate) struct Commits(Rc<RefCell<Lines>>);

impl Commits {
    /// Queues a commit for a snapshotter that can chain; what it stands on must have been queued before. The future waits for
    /// its answer.
    ///
    /// Cancel safety: what was queued is carried out.
    pub(crate) fn queue(
        &self,
        target: &Target,
        commit: Commit,
    ) -> impl Future<Output = Result<()>> + use<> {
        let (answer, outcome) = oneshot::channel();
        let key = (target.namespace.clone(), target.id.clone());
        let waiting = Waiting { commit, answer };
        let is_worked_on = {
            let mut lines = self.0.borrow_mut();
            let is_worked_on = lines.contains_key(&key);
            lines.entry(key.clone()).or_default().push(waiting);
            is_worked_on
        };
        if !is_worked_on {
            let (commits, snapshotter) = (self.clone(), target.snapshotter.clone());
            actix::spawn(async move { commits.work(&key, &snapshotter).await });
        }
        async move { outcome.await.map_err(|_| Error::aborted("the daemon is stopping"))? }
    }

    /// Commits what waits, and what comes meanwhile.
    async fn work(&self, key: &(Namespace, String), snapshotter: &Link<Snapshotter>) {
        loop {
            let line = {
                let mut lines = self.0.borrow_mut();
                let line = lines.get_mut(key).map(std::mem::take).unwrap_or_default();
                if line.is_empty() {
                    lines.remove(key);
                    return;
                }
                line
            };
            let commits = line.iter().map(|waiting| waiting.commit.clone()).collect();
            match snapshotter.send(CommitChain(commits)).await {
                // All or none: now each has its own answer.
                Err(error) if error.class() != Class::Unavailable && line.len() > 1 => {
                    for Waiting { commit, answer } in line {
                        // Nobody may wait any more: that is the caller's choice.
                        let _ = answer.send(snapshotter.send(commit).await);
                    }
                }
                outcome => {
                    for Waiting { answer, .. } in line {
                        let _ = answer.send(outcome.clone());
                    }
                }
            }
        }
    }
}
