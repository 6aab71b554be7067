//! Changes to which plugins there are.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use capstan_schema::{Error, Result};
use capstan_sdk::{Control, PluginState};

use super::keeper::{Order, Plan};
use super::{Shared, nodes, preferred};
use crate::{Candidate, Load, Source, graph};

impl Shared {
    pub(super) async fn control(self: &Rc<Self>, change: Control) -> Result<Vec<String>> {
        match change {
            Control::Restart(id) => self.restart(&id).await.map(|()| vec![id]),
            Control::Load { path, is_isolated } => {
                self.load(&path, is_isolated).await.map(|id| vec![id.to_string()])
            }
            Control::Replace { id, path } => self.replace(&id, &path).await.map(|()| vec![id]),
            Control::Unload(id) => self.unload(&id).await.map(|()| vec![id]),
            Control::Reload => self.reload().await,
        }
    }

    async fn restart(&self, id: &str) -> Result<()> {
        if self.registry.state(id) == Some(PluginState::Disabled) {
            return Err(Error::precondition(format!(
                "{id} is disabled by the configuration ([select]); change that and reload"
            )));
        }
        self.order(id, Order::restart).await
    }

    /// The candidates in effect, with one more or another one of its id.
    fn candidates_with(&self, candidate: &Candidate) -> Vec<Candidate> {
        let others = self.plans().into_iter().map(|plan| plan.candidate);
        let id = &candidate.manifest.id;
        let mut all: Vec<Candidate> = others.filter(|other| other.manifest.id != *id).collect();
        all.push(candidate.clone());
        all
    }

    /// Adds a plugin that passed all checks, and starts it. If it does not come up it is taken out again.
    pub(super) async fn add(&self, plan: Plan) -> Result<()> {
        let id = Arc::clone(&plan.candidate.manifest.id);
        let all = self.candidates_with(&plan.candidate);
        graph::order(&nodes(&all))?;
        let preferred = preferred(&all, &self.config.borrow())?;
        if let Some(reason) = self.registry.unmet(&plan.candidate.manifest.requires) {
            return Err(Error::precondition(format!("{id} {reason}")));
        }
        self.registry.register(&plan, PluginState::Starting);
        self.keep(plan);
        if let Err(error) = self.order(&id, Order::start).await {
            self.remove(&id).await;
            return Err(error);
        }
        self.registry.prefer(preferred);
        Ok(())
    }

    /// Takes a plugin out.
    pub(super) async fn take_out(&self, id: &str) -> Result<()> {
        self.remove(id).await;
        let rest: Vec<Candidate> = self.plans().into_iter().map(|plan| plan.candidate).collect();
        let preferred = preferred(&rest, &self.config.borrow())?;
        self.registry.prefer(preferred);
        Ok(())
    }

    async fn load(&self, path: &Path, is_isolated: bool) -> Result<Arc<str>> {
        let _structure = self.structure.lock().await;
        let load = Load { isolated: is_isolated, ..Load::default() };
        let candidate = self.loader.library(path, &load).await?;
        let id = Arc::clone(&candidate.manifest.id);
        // A library says its id itself.
        graph::order(&nodes(std::slice::from_ref(&candidate)))?;
        if self.registry.state(&id).is_some() {
            return Err(Error::already_exists(format!(
                "{} is plugin {id}, and there is one of that id; replace it (capstan plugins replace {id} {0})",
                path.display()
            )));
        }
        if !self.config.borrow().select.admits(&id) {
            return Err(Error::precondition(format!(
                "the configuration does not admit {id} ([select])"
            )));
        }
        let section = candidate.factory.complete(toml::Table::new()).await?;
        self.add(Plan { candidate: candidate.clone(), section }).await?;
        if let Err(error) = self.store.keep(&candidate) {
            self.take_out(&id).await?;
            return Err(error);
        }
        Ok(id)
    }

    async fn replace(&self, id: &str, path: &Path) -> Result<()> {
        let _structure = self.structure.lock().await;
        let current = self.keepers.borrow().get(id).map(super::Keeper::plan);
        let current = current.ok_or_else(|| {
            Error::not_found(format!("there is no plugin {id}; see `capstan plugins ls`"))
        })?;
        let is_isolated = matches!(current.candidate.source, Source::Remote(_));
        let load = Load { isolated: is_isolated, ..Load::default() };
        let candidate = self.loader.library(path, &load).await?;
        if *candidate.manifest.id != *id {
            return Err(Error::invalid(format!(
                "{} is plugin {}, and is to replace {id}",
                path.display(),
                candidate.manifest.id
            )));
        }
        let all = self.candidates_with(&candidate);
        graph::order(&nodes(&all))?;
        let preferred = preferred(&all, &self.config.borrow())?;
        let said = self.said.borrow().section(id);
        let section = candidate.factory.complete(said).await?;
        let plan = Plan { candidate: candidate.clone(), section: section.clone() };
        self.order(id, Order::renew(plan)).await?;
        if let Err(error) = self.store.keep(&candidate) {
            self.order(id, Order::renew(current)).await?;
            return Err(error);
        }
        self.config.borrow_mut().plugins.insert(id.into(), section);
        self.registry.prefer(preferred);
        Ok(())
    }

    async fn unload(&self, id: &str) -> Result<()> {
        let _structure = self.structure.lock().await;
        if self.registry.state(id).is_none() {
            return Err(Error::not_found(format!(
                "there is no plugin {id}; see `capstan plugins ls`"
            )));
        }
        if !self.store.has(id) {
            return Err(Error::precondition(format!(
                "{id} was not loaded by hand: it is built in, or named in the configuration; deny it there \
                 ([select]) and reload"
            )));
        }
        let builtin = self.builtins.iter().find(|builtin| *builtin.manifest.id == *id).cloned();
        match builtin {
            Some(candidate) => {
                let said = self.said.borrow().section(id);
                let section = candidate.factory.complete(said).await?;
                self.order(id, Order::renew(Plan { candidate, section })).await?;
            }
            None => self.take_out(id).await?,
        }
        self.store.forget(id)
    }
}
