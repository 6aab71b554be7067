//! A new configuration for a running daemon: a transaction on the plugins.

use std::rc::Rc;
use std::sync::Arc;

use capstan_schema::{Error, Result};
use tracing::{info, warn};

use super::keeper::{Order, Plan};
use super::{Shared, gather, nodes, preferred};
use crate::{Candidate, Config, graph};

/// What is done to one plugin, and how that is undone.
enum Change {
    /// Another section, or another source.
    Renew { new: Plan, old: Plan },
    /// It is admitted now.
    Admit(Plan),
    /// It is denied now.
    Deny(Plan),
    /// It was not there.
    Add(Plan),
    /// It is not there any more.
    Remove(Plan),
}

impl Change {
    fn id(&self) -> &Arc<str> {
        match self {
            Self::Renew { new: plan, .. }
            | Self::Admit(plan)
            | Self::Deny(plan)
            | Self::Add(plan)
            | Self::Remove(plan) => &plan.candidate.manifest.id,
        }
    }

    fn undone(self) -> Self {
        match self {
            Self::Renew { new, old } => Self::Renew { new: old, old: new },
            Self::Admit(plan) => Self::Deny(plan),
            Self::Deny(plan) => Self::Admit(plan),
            Self::Add(plan) => Self::Remove(plan),
            Self::Remove(plan) => Self::Add(plan),
        }
    }
}

impl Shared {
    /// Reads the configuration and does what has changed in it, all or nothing. Answers to which plugins.
    pub(super) async fn reload(self: &Rc<Self>) -> Result<Vec<String>> {
        let _structure = self.structure.lock().await;
        let (said, config, candidates) = self
            .read_anew()
            .await
            .map_err(|error| error.at("the configuration was not taken, all is as before"))?;
        let preferred = preferred(&candidates, &config)?;
        let changes = self.changes(&config, &candidates);
        let ids: Vec<String> = changes.iter().map(|change| change.id().to_string()).collect();
        let before = self.config.replace(config);
        let mut done = Vec::new();
        for change in changes {
            match self.apply(&change).await {
                Ok(()) => done.push(change),
                Err(error) => {
                    let id = Arc::clone(change.id());
                    self.config.replace(before);
                    self.undo(done).await;
                    return Err(error.at(format!(
                        "the configuration was not taken, all is as before, because of {id}"
                    )));
                }
            }
        }
        self.said.replace(said);
        self.registry.prefer(preferred);
        info!(plugins = ids.join(" "), "the configuration was taken");
        Ok(ids)
    }

    /// The configuration as it is said now, complete, and its plugins: all that can be wrong before anything changes.
    async fn read_anew(&self) -> Result<(Config, Config, Vec<Candidate>)> {
        let said = (self.reread)()?;
        self.check_constant(&said)?;
        let candidates = self.candidates_of(&said).await?;
        graph::order(&nodes(&candidates))?;
        let config = said.clone().complete(&candidates).await?;
        preferred(&candidates, &config)?;
        Ok((said, config, candidates))
    }

    /// What a running daemon cannot change.
    fn check_constant(&self, new: &Config) -> Result<()> {
        let old = self.said.borrow();
        let fixed = [
            ("root", old.root != new.root),
            ("state", old.state != new.state),
            ("address", old.address != new.address),
            ("log_level", old.log_level != new.log_level),
            ("supervision", old.supervision != new.supervision),
        ];
        for (key, _) in fixed.iter().filter(|(_, is_changed)| *is_changed) {
            if matches!(*key, "root" | "state" | "address") {
                return Err(Error::precondition(format!(
                    "{key} cannot change while the daemon runs; restart it"
                )));
            }
            warn!(key, "takes effect when the daemon is restarted");
        }
        Ok(())
    }

    /// Candidates of a configuration: those in effect where nothing was changed about where they are from.
    async fn candidates_of(&self, new: &Config) -> Result<Vec<Candidate>> {
        let in_effect: Vec<Candidate> =
            self.plans().into_iter().map(|plan| plan.candidate).collect();
        let is_same = {
            let old = self.said.borrow();
            old.load == new.load && old.plugin_dirs == new.plugin_dirs
        };
        if is_same {
            return Ok(in_effect);
        }
        let mut all = gather(new, &self.builtins, &self.loader).await?;
        for old in in_effect {
            let id = &old.manifest.id;
            let is_loaded_by_hand = self.store.has(id) && !new.load.contains_key(&**id);
            let is_said_alike = self.said.borrow().load.get(&**id) == new.load.get(&**id);
            let is_there = all.iter().any(|other| other.manifest.id == *id);
            if is_loaded_by_hand || (is_there && is_said_alike) {
                all.retain(|other| other.manifest.id != *id);
                all.push(old);
            }
        }
        Ok(all)
    }

    fn changes(&self, new: &Config, candidates: &[Candidate]) -> Vec<Change> {
        let old = self.config.borrow();
        let plans = self.plans();
        let mut changes = Vec::new();
        for plan in &plans {
            let id = &plan.candidate.manifest.id;
            let Some(candidate) = candidates.iter().find(|other| other.manifest.id == *id) else {
                changes.push(Change::Remove(plan.clone()));
                continue;
            };
            let section = new.section(id);
            let is_other = !Rc::ptr_eq(&candidate.factory, &plan.candidate.factory);
            match (old.select.admits(id), new.select.admits(id)) {
                (true, false) => changes.push(Change::Deny(plan.clone())),
                (false, true) => {
                    changes.push(Change::Admit(Plan { candidate: candidate.clone(), section }));
                }
                (true, true) if is_other || section != plan.section => {
                    changes.push(Change::Renew {
                        new: Plan { candidate: candidate.clone(), section },
                        old: plan.clone(),
                    })
                }
                _ => {}
            }
        }
        for candidate in candidates {
            let id = &candidate.manifest.id;
            let is_new = !plans.iter().any(|plan| plan.candidate.manifest.id == *id);
            if is_new && new.select.admits(id) {
                let section = new.section(id);
                changes.push(Change::Add(Plan { candidate: candidate.clone(), section }));
            }
        }
        changes
    }

    async fn apply(&self, change: &Change) -> Result<()> {
        match change {
            Change::Renew { new, .. } => {
                let id = Arc::clone(&new.candidate.manifest.id);
                self.order(&id, Order::renew(new.clone())).await
            }
            Change::Admit(plan) => {
                let id = Arc::clone(&plan.candidate.manifest.id);
                self.order(&id, Order::renew(plan.clone())).await
            }
            Change::Deny(plan) => self.order(&plan.candidate.manifest.id, Order::halt).await,
            Change::Add(plan) => self.add(plan.clone()).await,
            Change::Remove(plan) => self.take_out(&plan.candidate.manifest.id).await,
        }
    }

    async fn undo(&self, done: Vec<Change>) {
        for change in done.into_iter().rev() {
            let change = change.undone();
            if let Err(error) = self.apply(&change).await {
                warn!(plugin = &**change.id(), %error, "it is not as it was before");
            }
        }
    }
}
