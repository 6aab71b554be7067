//! The keeper of one plugin: it alone starts and ends its instances.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use capstan_schema::{Class, Error, Result};
use capstan_sdk::{Care, Context, PluginState, Running, clock, end_of};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tracing::{error, info, warn};

use super::policy::{self, Policy, Verdict};
use crate::config::Supervision;
use crate::{Candidate, Config, Registry};

/// How long a factory may take. Recovery of a large store belongs behind the start, not into it.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked whether calls were answered, while a plugin is told to end.
const LOOK: Duration = Duration::from_micros(500);

/// How long an instance that is found ill has to end by itself: why it ends says more than that it is ill.
const LAST_MOMENT: Duration = Duration::from_millis(50);

/// What instances of a plugin are made from.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where from.
    pub(crate) candidate: Candidate,
    /// Its configuration, complete.
    pub(crate) section: toml::Table,
}

/// What a keeper is told.
pub(super) enum Order {
    /// Make an instance, if there is none.
    Start(oneshot::Sender<Result<()>>),
    /// End the instance in good order and make one of another plan, or of the same. If that does not come up, the
    /// plan is as it was.
    Renew { plan: Option<Plan>, reply: oneshot::Sender<Result<()>> },
    /// End the instance, and make no other.
    Halt(oneshot::Sender<Result<()>>),
}

impl Order {
    pub(super) fn start(reply: oneshot::Sender<Result<()>>) -> Self {
        Self::Start(reply)
    }

    pub(super) fn restart(reply: oneshot::Sender<Result<()>>) -> Self {
        Self::Renew { plan: None, reply }
    }

    pub(super) fn renew(plan: Plan) -> impl FnOnce(oneshot::Sender<Result<()>>) -> Self {
        move |reply| Self::Renew { plan: Some(plan), reply }
    }

    pub(super) fn halt(reply: oneshot::Sender<Result<()>>) -> Self {
        Self::Halt(reply)
    }
}

/// The handle of a keeper.
pub(super) struct Keeper {
    orders: mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
    plan: Rc<RefCell<Plan>>,
}

impl Keeper {
    pub(super) fn new(plan: Plan, registry: &Arc<Registry>, config: &Config) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let plan = Rc::new(RefCell::new(plan));
        let work = Work {
            plan: Rc::clone(&plan),
            registry: Arc::clone(registry),
            root: config.root.clone(),
            state: config.state.clone(),
            supervision: config.supervision,
            policy: Policy::default(),
            orders: received,
        };
        Self { orders, task: actix_rt::spawn(work.run()), plan }
    }

    pub(super) fn send(&self, order: Order) {
        // It fails only when the keeper is gone; then the reply is dropped, and that is seen.
        let _ = self.orders.send(order);
    }

    /// What it makes instances from.
    pub(super) fn plan(&self) -> Plan {
        self.plan.borrow().clone()
    }

    /// Ends the instance and the keeper.
    pub(super) async fn stop(self) -> Result<(), JoinError> {
        drop(self.orders);
        self.task.await
    }
}

/// A live instance.
struct Instance {
    actor: JoinHandle<String>,
    care: Care,
    since: Instant,
}

/// Where the plugin is.
enum Phase {
    Live(Instance),
    BackingOff(Duration),
    Down,
}

/// The keeper's own side.
struct Work {
    plan: Rc<RefCell<Plan>>,
    registry: Arc<Registry>,
    root: PathBuf,
    state: PathBuf,
    supervision: Supervision,
    policy: Policy,
    orders: mpsc::UnboundedReceiver<Order>,
}

impl Work {
    fn id(&self) -> Arc<str> {
        Arc::clone(&self.plan.borrow().candidate.manifest.id)
    }

    async fn run(mut self) {
        let mut phase = Phase::Down;
        loop {
            phase = match phase {
                Phase::Live(mut instance) => {
                    let order = tokio::select! {
                        biased;
                        order = self.orders.recv() => order,
                        ended = &mut instance.actor => {
                            let reason = ended.unwrap_or_else(end_of);
                            phase = self.ended(&reason, instance.since.elapsed());
                            continue;
                        }
                        reason = ill(&instance.care, self.supervision) => {
                            let reason = instance.end_for(reason).await;
                            phase = self.ended(&reason, instance.since.elapsed());
                            continue;
                        }
                    };
                    match order {
                        Some(order) => self.obey(order, Some(instance)).await,
                        None => {
                            self.registry.set_down(&self.id(), PluginState::Stopped, "");
                            self.drain(&instance).await;
                            instance.end().await;
                            return;
                        }
                    }
                }
                Phase::BackingOff(wait) => {
                    let order = tokio::select! {
                        biased;
                        order = self.orders.recv() => order,
                        () = tokio::time::sleep(wait) => {
                            phase = match self.make(&[]).await {
                                Ok(instance) => {
                                    info!(plugin = &*self.id(), "restarted");
                                    Phase::Live(instance)
                                }
                                Err(error) => self.not_made(&error),
                            };
                            continue;
                        }
                    };
                    match order {
                        Some(order) => self.obey(order, None).await,
                        None => {
                            return self.registry.set_down(&self.id(), PluginState::Stopped, "");
                        }
                    }
                }
                Phase::Down => match self.orders.recv().await {
                    Some(order) => self.obey(order, None).await,
                    None => return self.registry.set_down(&self.id(), PluginState::Stopped, ""),
                },
            };
        }
    }

    /// What follows an end that nobody asked for.
    fn ended(&mut self, reason: &str, lived: Duration) -> Phase {
        let id = self.id();
        match self.policy.ended(lived) {
            Verdict::GiveUp if !self.plan.borrow().candidate.factory.is_patient() => {
                error!(plugin = &*id, reason, "given up after too many restarts");
                self.registry.set_down(&id, PluginState::Failed, &format!("given up: {reason}"));
                Phase::Down
            }
            verdict => {
                let wait = match verdict {
                    Verdict::Restart(wait) => wait,
                    Verdict::GiveUp => policy::LONGEST,
                };
                error!(plugin = &*id, reason, ?wait, "ended; a new instance follows");
                self.registry.set_down(&id, PluginState::Restarting, reason);
                Phase::BackingOff(wait)
            }
        }
    }

    /// What follows when an instance could not be made.
    fn not_made(&mut self, error: &Error) -> Phase {
        if error.class() != Class::InvalidArgument {
            return self.ended(&error.to_string(), Duration::ZERO);
        }
        // It would say the same again.
        let id = self.id();
        error!(plugin = &*id, %error, "failed to start");
        self.registry.set_down(&id, PluginState::Failed, &error.to_string());
        Phase::Down
    }

    async fn obey(&mut self, order: Order, instance: Option<Instance>) -> Phase {
        match order {
            Order::Start(reply) => {
                let (phase, outcome) = match instance {
                    Some(instance) => (Phase::Live(instance), Ok(())),
                    None => self.start().await,
                };
                let _ = reply.send(outcome);
                phase
            }
            Order::Renew { plan, reply } => {
                let (phase, outcome) = self.renew(plan, instance).await;
                let _ = reply.send(outcome);
                phase
            }
            Order::Halt(reply) => {
                self.registry.set_down(&self.id(), PluginState::Disabled, "");
                if let Some(mut instance) = instance {
                    self.drain(&instance).await;
                    instance.end().await;
                }
                self.plan.borrow().candidate.factory.rest();
                let _ = reply.send(Ok(()));
                Phase::Down
            }
        }
    }

    /// The first instance.
    async fn start(&mut self) -> (Phase, Result<()>) {
        let id = self.id();
        if self.plan.borrow().candidate.is_unknown() {
            // It was asked a moment ago; nobody waits for it a second time.
            let reason = "it is not there yet";
            let phase = self.ended(reason, Duration::ZERO);
            return (phase, Err(Error::unavailable(format!("{id}: {reason}"))));
        }
        let requires = Arc::clone(&self.plan.borrow().candidate.manifest.requires);
        if let Some(reason) = self.registry.unmet(&requires) {
            warn!(plugin = &*id, reason, "skipped");
            self.registry.set_down(&id, PluginState::Skipped, &reason);
            return (Phase::Down, Err(Error::precondition(format!("{id} {reason}"))));
        }
        let begun = Instant::now();
        match self.make(&[]).await {
            Ok(instance) => {
                info!(plugin = &*id, elapsed = ?begun.elapsed(), "started");
                (Phase::Live(instance), Ok(()))
            }
            Err(error) if self.plan.borrow().candidate.is_from_process() => {
                (self.not_made(&error), Err(error))
            }
            // What it is for is not on this machine: no illness, and nothing that a restart would change.
            Err(error) if error.class() == Class::Unimplemented => {
                info!(plugin = &*id, %error, "skipped");
                self.registry.set_down(&id, PluginState::Skipped, &error.to_string());
                (Phase::Down, Err(error))
            }
            Err(error) => {
                error!(plugin = &*id, %error, "failed to start");
                self.registry.set_down(&id, PluginState::Failed, &error.to_string());
                (Phase::Down, Err(error))
            }
        }
    }

    /// A new instance in the place of one that is told to end.
    async fn renew(
        &mut self,
        plan: Option<Plan>,
        instance: Option<Instance>,
    ) -> (Phase, Result<()>) {
        let id = self.id();
        self.registry.set_down(&id, PluginState::Replacing, "");
        let mut state = Vec::new();
        if let Some(mut instance) = instance {
            state = self.drain(&instance).await;
            instance.end().await;
        }
        let before = plan.map(|plan| self.plan.replace(plan));
        if before.is_some() {
            self.registry.set_plan(&self.plan.borrow());
        }
        self.policy = Policy::default();
        let error = match self.make(&state).await {
            Ok(instance) => return (Phase::Live(instance), Ok(())),
            Err(error) => error,
        };
        let Some(before) = before else {
            // Nothing else to fall back on: it is tried again, as after any end.
            return (self.not_made(&error), Err(error));
        };
        warn!(plugin = &*id, %error, "the new one did not come up; the old one goes on");
        self.plan.replace(before);
        self.registry.set_plan(&self.plan.borrow());
        let error = error.at(format!("{id} is as it was, the new one did not come up"));
        match self.make(&state).await {
            Ok(instance) => (Phase::Live(instance), Err(error)),
            Err(again) => (self.not_made(&again), Err(error)),
        }
    }

    /// Lets a plugin answer what it has; no more calls come. Answers what it hands over.
    async fn drain(&self, instance: &Instance) -> Vec<u8> {
        let id = self.id();
        let stats = self.registry.stats(&id);
        let deadline = Duration::from_millis(self.supervision.drain_deadline_ms);
        let answered = async {
            while stats.brief.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(deadline, answered).await.is_err() {
            warn!(plugin = &*id, ?deadline, "it did not answer all of its calls in time");
        }
        let Some(drain) = &instance.care.drain else { return Vec::new() };
        match tokio::time::timeout(deadline, drain()).await {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => {
                warn!(plugin = &*id, %error, "it hands nothing over");
                Vec::new()
            }
            Err(_) => {
                warn!(plugin = &*id, ?deadline, "it hands nothing over in time");
                Vec::new()
            }
        }
    }

    /// Brings the plan up to date with what a plugin from outside says of itself.
    async fn refresh(&self) -> Result<()> {
        let Plan { candidate, section } = self.plan.borrow().clone();
        // On a task of its own, as its start: a panic in it is no end of the keeper.
        let described = actix_rt::spawn(candidate.factory.describe()).await;
        let described = described.map_err(|ended| Error::internal(end_of(ended)))??;
        let Some(manifest) = described else { return Ok(()) };
        if manifest == candidate.manifest {
            return Ok(());
        }
        if manifest.id != candidate.manifest.id {
            return Err(Error::invalid(format!("it says that it is {} now", manifest.id)));
        }
        if let Some(reason) = self.registry.unmet(&manifest.requires) {
            return Err(Error::unavailable(reason));
        }
        let section = candidate.factory.complete(section).await?;
        self.plan.replace(Plan { candidate: Candidate { manifest, ..candidate }, section });
        self.registry.set_plan(&self.plan.borrow());
        Ok(())
    }

    /// Makes an instance, and lets it go live.
    async fn make(&self, state: &[u8]) -> Result<Instance> {
        self.refresh().await?;
        let plan = self.plan.borrow().clone();
        let manifest = &plan.candidate.manifest;
        let context = Context::new(
            manifest,
            &self.root,
            &self.state,
            Arc::clone(&self.registry) as _,
            Arc::clone(&self.registry) as _,
        );
        let future = plan.candidate.factory.start(plan.section.clone(), context.with_state(state));
        // On a task of its own, so that a panic in the factory ends there.
        let mut task = actix_rt::spawn(future);
        let mut running = match tokio::time::timeout(START_DEADLINE, &mut task).await {
            Ok(Ok(made)) => made?,
            Ok(Err(ended)) => return Err(Error::internal(end_of(ended))),
            Err(_) => {
                task.abort();
                return Err(Error::unavailable(format!("did not start within {START_DEADLINE:?}")));
            }
        };
        let care = std::mem::take(&mut running.exports.care);
        let Running { mut exports, actor } = running;
        exports.care.pid = care.pid;
        self.registry.set_live(&manifest.id, exports, clock::now_unix_ns());
        Ok(Instance { actor, care, since: Instant::now() })
    }
}

impl Instance {
    /// Ends it because it is ill; if it is just ending by itself, that is the reason.
    async fn end_for(&mut self, illness: String) -> String {
        match tokio::time::timeout(LAST_MOMENT, &mut self.actor).await {
            Ok(ended) => ended.unwrap_or_else(end_of),
            Err(_) => {
                self.end().await;
                illness
            }
        }
    }

    async fn end(&mut self) {
        self.actor.abort();
        // How it ends does not matter any more.
        let _ = (&mut self.actor).await;
    }
}

/// Asks an instance from time to time whether it can do its work; answers when it cannot.
async fn ill(care: &Care, supervision: Supervision) -> String {
    let Some(health) = &care.health else { return std::future::pending().await };
    let deadline = Duration::from_millis(supervision.health_deadline_ms);
    loop {
        tokio::time::sleep(Duration::from_millis(supervision.health_interval_ms)).await;
        match tokio::time::timeout(deadline, health()).await {
            Ok(Ok(())) => {}
            // That its stream is closed is seen, with the reason, by who waits for its end.
            Ok(Err(error)) if error.class() == Class::Unavailable => {}
            Ok(Err(error)) => return format!("it says that it cannot work: {error}"),
            Err(_) => return format!("it hangs: no answer within {deadline:?}"),
        }
    }
}
