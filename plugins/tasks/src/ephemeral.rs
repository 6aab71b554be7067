//! Containers that go when their task ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use capstan_sdk::contract::containers;
use capstan_sdk::contract::runtime::{Delete, Exit, Inspect, Status, TaskKey, Wait};
use capstan_sdk::{Class, Error, Result};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::router::Router;

type Outcome = watch::Receiver<Option<Result<Exit>>>;

/// The ephemeral containers of this daemon, each with a task of ours that removes it at its end.
#[derive(Clone)]
pub(crate) struct Ephemerals {
    router: Router,
    keepers: Rc<RefCell<HashMap<TaskKey, Outcome>>>,
}

impl Ephemerals {
    pub(crate) fn new(router: Router) -> Self {
        Self { router, keepers: Rc::default() }
    }

    /// Removes a container when its task ends.
    pub(crate) fn keep(&self, key: &TaskKey) {
        let (tell, outcome) = watch::channel(None);
        if self.keepers.borrow_mut().insert(key.clone(), outcome).is_some() {
            warn!(task = %key, "two tasks of one ephemeral container");
        }
        let (this, key) = (self.clone(), key.clone());
        actix::spawn(async move {
            let outcome = this.to_the_end(&key).await;
            if let Err(error) = &outcome {
                warn!(task = %key, %error, "an ephemeral container was not removed; the next start tries again");
            }
            this.keepers.borrow_mut().remove(&key);
            let _ = tell.send(Some(outcome));
        });
    }

    async fn to_the_end(&self, key: &TaskKey) -> Result<Exit> {
        let runtime = self.router.runtime_of(key).await?;
        let wait = Wait { key: key.clone(), exec_id: String::new() };
        let exit = runtime.send(wait).await?;
        // Not forced: clients that still read the last of its output are waited for.
        self.remove_with(key, false).await?;
        Ok(exit)
    }

    /// The end of an ephemeral container, told when it has been removed; `None` if it is none.
    pub(crate) fn outcome(
        &self,
        key: &TaskKey,
    ) -> Option<impl Future<Output = Result<Exit>> + use<>> {
        let mut outcome = self.keepers.borrow().get(key)?.clone();
        Some(async move {
            match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().expect("it was waited for"),
                Err(_) => Err(Error::unavailable("the tasks plugin ended; ask again")),
            }
        })
    }

    /// Removes a task, whatever it does, and its container. That they are gone is fine.
    pub(crate) async fn remove(&self, key: &TaskKey) -> Result<()> {
        self.remove_with(key, true).await
    }

    async fn remove_with(&self, key: &TaskKey, is_forced: bool) -> Result<()> {
        let gone = |outcome: Result<()>| match outcome {
            Err(error) if error.class() == Class::NotFound => Ok(()),
            outcome => outcome,
        };
        let task = async {
            let runtime = self.router.runtime_of(key).await?;
            let delete = Delete { key: key.clone(), is_forced, is_log_kept: false };
            runtime.send(delete).await.map(drop)
        };
        gone(task.await)?;
        let delete = containers::Delete { namespace: key.namespace.clone(), id: key.id.clone() };
        gone(self.router.containers.send(delete).await)
    }

    /// Takes over what an earlier daemon left: what runs is kept to its end, the rest goes.
    pub(crate) async fn recover(self) {
        let all = match self.router.containers.send(containers::ListAll).await {
            Ok(all) => all,
            Err(error) => {
                warn!(%error, "ephemeral containers were not looked for");
                return;
            }
        };
        for (namespace, container) in all {
            if !container.is_ephemeral {
                continue;
            }
            let key = TaskKey { namespace, id: container.id };
            let task = match self.router.runtime(&container.runtime) {
                Ok(runtime) => runtime.send(Inspect(key.clone())).await,
                Err(error) => Err(error),
            };
            match task {
                Ok(task) if task.status != Status::Stopped && task.started_at_unix_ns > 0 => {
                    self.keep(&key);
                }
                Err(error) if error.class() != Class::NotFound => {
                    warn!(task = %key, %error, "an ephemeral container is left as it is");
                }
                // Ended, or never started: whoever wanted it was a client of the earlier daemon.
                _ => {
                    info!(task = %key, "an ephemeral container of an earlier daemon is removed");
                    if let Err(error) = self.remove(&key).await {
                        warn!(task = %key, %error, "it could not be removed");
                    }
                }
            }
        }
    }
}
