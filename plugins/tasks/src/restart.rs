//! Restart policies: containers that are started again when their task has ended by itself.
//!
//! Each has a keeper, and a record that says whether it is to run. The record is written before what it
//! tells of is done: a start is asked for before it happens, a stop before anything is removed. So
//! whatever breaks off, the next daemon neither forgets a container that is to run nor brings one back
//! that a user stopped or deleted.

mod record;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::containers::Container;
use capstan_sdk::contract::metadata::{Commit, ScanAll, Step};
use capstan_sdk::contract::restart::RestartPolicy;
use capstan_sdk::contract::runtime::{
    Delete, Exit, Inspect, Kill, Start, Status, Stdio, TaskInfo, TaskKey, Wait,
};
use capstan_sdk::{Class, Error, Link, Result, clock};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tracing::{info, warn};

use crate::router::Router;
use record::Wish;

/// How long to wait before the first new start; it doubles with each that follows.
const FIRST_DELAY: Duration = Duration::from_millis(100);

const LONGEST_DELAY: Duration = Duration::from_mins(1);

/// A task that ran so long was no failure to start: the delay begins anew.
const PROVEN: Duration = Duration::from_secs(10);

/// How long a process may take to end itself after a signal that asks for it. What ends later than
/// that ended for another reason.
const FAREWELL: Duration = Duration::from_mins(1);

/// How long to wait for a runtime that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Signals that ask a container to end: INT, QUIT, KILL, TERM.
const ENDING: [u32; 4] = [2, 3, 9, 15];

/// The keepers of this daemon.
#[derive(Clone)]
pub(crate) struct Restarts {
    router: Router,
    metadata: Link<Metadata>,
    keepers: Rc<RefCell<HashMap<TaskKey, Rc<Keeper>>>>,
}

/// What is known of one container's restarts.
pub(crate) struct Keeper {
    wish: RefCell<Wish>,
    /// Held by whoever makes, starts, stops or removes the task.
    step: std::sync::Arc<Mutex<()>>,
    /// The policy is done with: by a user, or by itself.
    is_over: Cell<bool>,
    over: Notify,
    /// The task as it was, while it is made anew.
    last: RefCell<Option<TaskInfo>>,
}

/// A keeper whose container nobody else starts or stops meanwhile.
pub(crate) struct Held {
    keeper: Rc<Keeper>,
    _step: OwnedMutexGuard<()>,
}

impl Keeper {
    fn new(wish: Wish) -> Rc<Self> {
        Rc::new(Self {
            wish: RefCell::new(wish),
            step: std::sync::Arc::default(),
            is_over: Cell::new(false),
            over: Notify::new(),
            last: RefCell::default(),
        })
    }

    async fn hold(self: &Rc<Self>) -> Held {
        let step = std::sync::Arc::clone(&self.step).lock_owned().await;
        Held { keeper: Rc::clone(self), _step: step }
    }

    /// The policy is done with.
    fn retire(&self) {
        self.is_over.set(true);
        self.over.notify_waiters();
    }

    /// Sleeps; `false` if the policy ended meanwhile.
    async fn sleep(&self, time: Duration) -> bool {
        let over = self.over.notified();
        if self.is_over.get() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(time) => !self.is_over.get(),
            () = over => false,
        }
    }
}

impl Wish {
    /// Whether a user's signal made the task end so.
    fn is_users(&self, exit: &Exit) -> bool {
        let since = Duration::from_nanos(
            u64::try_from(exit.at_unix_ns.saturating_sub(self.signaled_at_unix_ns)).unwrap_or(0),
        );
        let is_asked = ENDING.contains(&self.signal) && since < FAREWELL;
        self.signal > 0 && (is_asked || exit.status == 128 + self.signal)
    }
}

/// Checks that a container with a policy can be started again with such streams.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_stdio(container: &Container, stdio: &Stdio) -> Result<()> {
    match stdio {
        Stdio::Null | Stdio::Kept { has_stdin: false, log: Some(_) } => Ok(()),
        _ if container.restart == RestartPolicy::No => Ok(()),
        _ => Err(Error::invalid(format!(
            "container {} has the restart policy {}: start it detached, with a log or none (-d)",
            container.id, container.restart
        ))),
    }
}

impl Restarts {
    /// Reads what an earlier daemon knew.
    pub(crate) async fn open(router: Router, metadata: Link<Metadata>) -> Result<Self> {
        let rows = metadata.send(ScanAll(record::BUCKET.into())).await?;
        let keepers = Rc::new(RefCell::new(HashMap::new()));
        for (key, bytes) in rows {
            match record::read(key, &bytes) {
                Ok((key, wish)) => drop(keepers.borrow_mut().insert(key, Keeper::new(wish))),
                Err(error) => warn!(%error, "a container is not restarted"),
            }
        }
        Ok(Self { router, metadata, keepers })
    }

    /// Takes over what an earlier daemon kept.
    pub(crate) fn recover(&self) {
        for (key, keeper) in self.keepers.borrow().iter() {
            let (this, key, keeper) = (self.clone(), key.clone(), Rc::clone(keeper));
            actix::spawn(async move {
                let is_wanted = keeper.wish.borrow().is_wanted;
                match is_wanted {
                    true => this.follow(key, keeper).await,
                    false => this.forget_unmade(&key, &keeper).await,
                }
            });
        }
    }

    /// Removes the record of a task that is not there any more.
    async fn forget_unmade(&self, key: &TaskKey, keeper: &Rc<Keeper>) {
        let held = keeper.hold().await;
        let is_gone = |error: &Error| error.class() == Class::NotFound;
        if !keeper.wish.borrow().is_wanted
            && self.inspect(key).await.as_ref().is_err_and(is_gone)
            && let Err(error) = self.forget(key, held).await
        {
            warn!(task = %key, %error, "its restart record is left; the next start removes it");
        }
    }

    async fn inspect(&self, key: &TaskKey) -> Result<TaskInfo> {
        self.router.runtime_of(key).await?.send(Inspect(key.clone())).await
    }

    async fn write(&self, key: &TaskKey, wish: &Wish) -> Result<()> {
        let step = Step::Put { key: record::key(key), value: record::write(wish) };
        self.metadata.send(Commit { steps: vec![step], events: Vec::new() }).await.map(drop)
    }

    /// Changes a wish, on disk first.
    async fn change(
        &self,
        key: &TaskKey,
        keeper: &Keeper,
        change: impl FnOnce(&mut Wish),
    ) -> Result<()> {
        let mut wish = keeper.wish.borrow().clone();
        change(&mut wish);
        self.write(key, &wish).await?;
        keeper.wish.replace(wish);
        Ok(())
    }

    /// A task was made for a container.
    pub(crate) async fn made(
        &self,
        key: &TaskKey,
        policy: RestartPolicy,
        stdio: Stdio,
    ) -> Result<()> {
        if policy == RestartPolicy::No {
            return Ok(());
        }
        let wish = Wish::new(stdio);
        self.write(key, &wish).await?;
        if let Some(old) = self.keepers.borrow_mut().insert(key.clone(), Keeper::new(wish)) {
            old.retire();
        }
        Ok(())
    }

    /// The keeper of a container, once nothing is done to its task; `None` if it has no policy.
    pub(crate) async fn hold(&self, key: &TaskKey) -> Option<Held> {
        let keeper = self.keepers.borrow().get(key).cloned()?;
        Some(keeper.hold().await)
    }

    /// Starts a task, and keeps it running from then on.
    pub(crate) async fn start(&self, key: &TaskKey, held: Held) -> Result<u32> {
        let keeper = Rc::clone(&held.keeper);
        let runtime = self.router.runtime_of(key).await?;
        let is_first = !keeper.wish.borrow().is_wanted && !keeper.is_over.get();
        if is_first {
            self.change(key, &keeper, |wish| wish.is_wanted = true).await?;
        }
        let started = runtime.send(Start(key.clone())).await;
        if is_first {
            match &started {
                Ok(_) => drop(actix::spawn(self.clone().follow(key.clone(), keeper))),
                Err(_) => self.change(key, &keeper, |wish| wish.is_wanted = false).await?,
            }
        }
        started
    }

    /// Before a user ends or removes a task: from here on it is not brought back, whatever happens.
    pub(crate) async fn stop(&self, key: &TaskKey, held: &Held) -> Result<()> {
        if held.keeper.wish.borrow().is_wanted {
            self.change(key, &held.keeper, |wish| wish.is_wanted = false).await?;
        }
        held.keeper.retire();
        Ok(())
    }

    /// After a task was removed.
    pub(crate) async fn forget(&self, key: &TaskKey, held: Held) -> Result<()> {
        let step = Step::Delete(record::key(key));
        self.metadata.send(Commit { steps: vec![step], events: Vec::new() }).await?;
        held.keeper.retire();
        self.keepers.borrow_mut().remove(key);
        Ok(())
    }

    /// Sends a user's signal to init. One that asks it to end does so too while it waits for a new
    /// start: there will be none.
    pub(crate) async fn kill(&self, kill: Kill, held: &Held) -> Result<()> {
        let (key, signal) = (kill.key.clone(), kill.signal);
        if held.keeper.wish.borrow().is_wanted && !held.keeper.is_over.get() {
            let is_running = match self.inspect(&key).await {
                Ok(info) => info.status != Status::Stopped,
                Err(error) if error.class() == Class::NotFound => false,
                Err(error) => return Err(error),
            };
            if !is_running && ENDING.contains(&signal) {
                return self.stop(&key, held).await;
            }
            if is_running && signal > 0 {
                let noted = |wish: &mut Wish| {
                    wish.signal = signal;
                    wish.signaled_at_unix_ns = clock::now_unix_ns();
                };
                self.change(&key, &held.keeper, noted).await?;
            }
        }
        self.router.runtime_of(&key).await?.send(kill).await
    }

    /// Adds what only we know of a task.
    pub(crate) fn complete(&self, info: &mut TaskInfo) {
        if let Some(keeper) = self.keepers.borrow().get(&info.key) {
            info.restarts = keeper.wish.borrow().restarts;
        }
    }

    /// What a task was like that is just being made anew.
    pub(crate) fn last(&self, key: &TaskKey) -> Option<TaskInfo> {
        let keepers = self.keepers.borrow();
        let last = keepers.get(key)?.last.borrow();
        last.clone()
    }

    /// All that are just being made anew.
    pub(crate) fn all_last(&self) -> Vec<TaskInfo> {
        self.keepers.borrow().values().filter_map(|keeper| keeper.last.borrow().clone()).collect()
    }

    /// Starts a container again and again, until its policy or a user wants no more.
    async fn follow(self, key: TaskKey, keeper: Rc<Keeper>) {
        let mut delay = FIRST_DELAY;
        loop {
            let Some((exit, ran)) = self.end(&key, &keeper).await else { return };
            if ran >= PROVEN {
                delay = FIRST_DELAY;
            }
            let container = match self.container(&key, &keeper).await {
                Ok(container) => container,
                Err(_) => return,
            };
            let wish = keeper.wish.borrow().clone();
            if wish.is_users(&exit) || !container.restart.wants(exit.status, wish.restarts) {
                return self.give_up(&key, &keeper, &exit).await;
            }
            if !keeper.sleep(delay).await {
                return;
            }
            delay = (delay * 2).min(LONGEST_DELAY);
            let _held = keeper.hold().await;
            if keeper.is_over.get() {
                return;
            }
            info!(task = %key, status = exit.status, restarts = wish.restarts + 1, "started again");
            if let Err(error) = self.again(&key, &keeper, &container).await {
                warn!(task = %key, %error, "it could not be started again");
            }
            keeper.last.take();
        }
    }

    /// Waits for the end of a task; answers how it ended, and after how long. One that is not there, or
    /// was never started, has ended too. `None`: the policy is over.
    async fn end(&self, key: &TaskKey, keeper: &Keeper) -> Option<(Exit, Duration)> {
        let unmade =
            || (Exit::lost("it was not made, or the machine was started anew"), Duration::ZERO);
        loop {
            let waited = async {
                let runtime = self.router.runtime_of(key).await?;
                if runtime.send(Inspect(key.clone())).await?.status == Status::Created {
                    return Ok(unmade());
                }
                let wait = Wait { key: key.clone(), exec_id: String::new() };
                let exit = runtime.send(wait).await?;
                let started = runtime.send(Inspect(key.clone())).await?.started_at_unix_ns;
                let ran = u64::try_from(exit.at_unix_ns.saturating_sub(started)).unwrap_or(0);
                Ok::<_, Error>((exit, Duration::from_nanos(ran)))
            };
            let ended = waited.await;
            if keeper.is_over.get() {
                return None;
            }
            match ended {
                Ok(ended) => return Some(ended),
                Err(error) if error.class() == Class::NotFound => return Some(unmade()),
                Err(error) => {
                    warn!(task = %key, %error, "it cannot be waited for; trying again");
                    if !keeper.sleep(RETRY).await {
                        return None;
                    }
                }
            }
        }
    }

    /// The container; an error ends the policy.
    async fn container(&self, key: &TaskKey, keeper: &Keeper) -> Result<Container> {
        loop {
            match self.router.container(key).await {
                Err(error) if error.class() == Class::NotFound => {
                    self.give_up(key, keeper, &Exit::lost("its container is gone")).await;
                    return Err(error);
                }
                Err(error) => {
                    warn!(task = %key, %error, "its container cannot be looked up; trying again");
                    if !keeper.sleep(RETRY).await {
                        return Err(error);
                    }
                }
                found => return found,
            }
        }
    }

    /// Ends the policy: what the task was stays to be seen until it is deleted.
    async fn give_up(&self, key: &TaskKey, keeper: &Keeper, exit: &Exit) {
        info!(task = %key, status = exit.status, "not started again");
        keeper.retire();
        if let Err(error) = self.change(key, keeper, |wish| wish.is_wanted = false).await {
            warn!(task = %key, %error, "a later daemon may start it again");
        }
    }

    /// Makes and starts the task anew.
    async fn again(&self, key: &TaskKey, keeper: &Keeper, container: &Container) -> Result<()> {
        let runtime = self.router.runtime(&container.runtime)?;
        match runtime.send(Inspect(key.clone())).await {
            Ok(mut info) => {
                let is_unstarted = info.status == Status::Created;
                if info.status != Status::Stopped && !is_unstarted {
                    return Ok(());
                }
                info.restarts = keeper.wish.borrow().restarts;
                keeper.last.replace(Some(info));
                let delete =
                    Delete { key: key.clone(), is_forced: is_unstarted, is_log_kept: true };
                runtime.send(delete).await?;
            }
            Err(error) if error.class() == Class::NotFound => {}
            Err(error) => return Err(error),
        }
        let counted = |wish: &mut Wish| {
            wish.restarts = wish.restarts.saturating_add(1);
            wish.signal = 0;
        };
        self.change(key, keeper, counted).await?;
        let stdio = keeper.wish.borrow().stdio.clone();
        self.router.make_task(key, container, stdio).await?;
        let started = runtime.send(Start(key.clone())).await;
        if started.is_err() {
            let delete = Delete { key: key.clone(), is_forced: true, is_log_kept: true };
            if let Err(error) = runtime.send(delete).await {
                warn!(task = %key, %error, "a task that could not be started is left");
            }
        }
        started.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_users_if_it_follows_the_users_signal() {
        let second = 1_000_000_000;
        let check = |signal: u32, after_seconds: i64, status: u32, want: bool| {
            let wish = Wish { signal, signaled_at_unix_ns: second, ..Wish::new(Stdio::Null) };
            let exit = Exit::new(status, second + after_seconds * second);
            assert_eq!(wish.is_users(&exit), want, "{signal} {after_seconds} {status}");
        };
        check(0, 0, 1, false);
        check(0, 0, 128, false);
        check(15, 1, 0, true);
        check(15, 1, 143, true);
        check(15, 3600, 1, false);
        check(9, 1, 137, true);
        // A reload that the process took is no stop; one that it died of is.
        check(1, 1, 0, false);
        check(1, 1, 129, true);
    }
}
