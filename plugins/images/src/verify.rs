//! Whether an image may get a name: all verifiers are asked, and each may refuse.
//!
//! Invariant: what cannot be asked refuses. A verifier that did not start or gave up, one that the configuration names
//! and that is not there, one that answers with an error, and one that does not answer in time all keep an image from its
//! name.

use std::time::Duration;

use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::images::{Permit, Permitted};
use capstan_sdk::contract::verifier::{Ask, Evidence, Verdict, Verify};
use capstan_sdk::{
    Call, Carries, Context, Contract as _, Descriptor, Error, Link, Namespace, PluginState, Result,
};
use futures::future::try_join_all;

use crate::Config;

/// The most characters of a reason that an error repeats.
const MAX_REASON_CHARS: usize = 300;

/// Those who are asked. They start after us, and need not be there.
#[derive(Clone, Debug)]
pub(crate) struct Verifiers {
    context: Context,
    /// Ids of those that must be there.
    required: Vec<String>,
    /// How long an answer may take.
    deadline: Duration,
}

/// Them, by id.
type All = Vec<(String, Link<Verifier>)>;

impl Verifiers {
    pub(crate) fn new(context: Context, config: &Config) -> Self {
        let deadline = Duration::from_secs(config.verifier_timeout_seconds);
        Self { context, required: config.verifiers.clone(), deadline }
    }

    /// Asks whether what is not here yet may have a name.
    ///
    /// # Errors
    /// They do not say of which image. `PermissionDenied`: one refuses. `FailedPrecondition`: one should run and does not.
    /// Else the error of the one that could not say anything, `Unavailable` if it took too long.
    pub(crate) async fn permit(&self, permit: Permit) -> Result<Permitted> {
        let all = self.all()?;
        let Permit { namespace, name, target, document, evidence } = permit;
        let evidence = match evidence {
            Some(evidence) => evidence,
            None => {
                let wants = all.iter().map(async |(id, verifier)| {
                    let ask = Ask { namespace: namespace.clone(), name: name.clone() };
                    self.ask(verifier, ask).await.map_err(|error| silent(id, error))
                });
                if try_join_all(wants).await?.contains(&true) {
                    return Ok(Permitted::WantsEvidence);
                }
                Vec::new()
            }
        };
        let question = Verify { namespace, name, target, document, evidence };
        self.verify(&all, &question).await.map(|()| Permitted::Granted)
    }

    /// Asks whether what is here may have a name. `document` reads what `target` describes, if there is somebody to ask.
    ///
    /// # Errors
    /// As [`Verifiers::permit`], and those of `document`.
    pub(crate) async fn permit_stored(
        &self,
        (namespace, name): (&Namespace, &str),
        target: &Descriptor,
        evidence: Vec<Evidence>,
        document: impl AsyncFnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let all = self.all()?;
        if all.is_empty() {
            return Ok(());
        }
        let (namespace, name, target) = (namespace.clone(), name.to_owned(), target.clone());
        let document = document().await?;
        self.verify(&all, &Verify { namespace, name, target, document, evidence }).await
    }

    async fn verify(&self, all: &All, question: &Verify) -> Result<()> {
        let verdicts = all.iter().map(async |(id, verifier)| {
            match self.ask(verifier, question.clone()).await {
                Ok(Verdict::Accepted) => Ok(()),
                Ok(Verdict::Refused(reason)) => {
                    let reason = one_line(&reason);
                    Err(Error::denied(format!("{id} refuses it: {reason}")))
                }
                Err(error) => Err(silent(id, error)),
            }
        });
        try_join_all(verdicts).await.map(drop)
    }

    /// Sends one question; no answer in time is an error.
    async fn ask<M: Call>(&self, verifier: &Link<Verifier>, question: M) -> Result<M::Reply>
    where
        Verifier: Carries<M>,
    {
        let late = |_| {
            Err(Error::unavailable(format!(
                "no answer within {:?}; restart it, or give it longer by verifier_timeout_seconds in \
                 [plugins.\"images.local\"]",
                self.deadline
            )))
        };
        tokio::time::timeout(self.deadline, verifier.send(question)).await.unwrap_or_else(late)
    }

    /// All that there are, by id.
    fn all(&self) -> Result<All> {
        let mut all = Vec::new();
        for plugin in self.context.kernel()?.plugins() {
            let Some((kind, name)) = plugin.id.split_once('.') else { continue };
            if kind != Verifier::KIND || plugin.state == PluginState::Disabled {
                continue;
            }
            match plugin.state {
                PluginState::Running => {}
                state if state.is_coming() => {}
                state => {
                    let (id, why) = (&plugin.id, one_line(&plugin.last_error));
                    return Err(Error::precondition(format!(
                        "{id} is to be asked about images, and is {} ({why}); correct that and restart it, or turn it \
                         off in the configuration",
                        state.name()
                    )));
                }
            }
            all.push((plugin.id.clone(), self.context.link_late_named(name)));
        }
        let is_missing = |id: &&String| !all.iter().any(|(other, _)| other == *id);
        if let Some(id) = self.required.iter().find(is_missing) {
            return Err(Error::precondition(format!(
                "{id} must be asked about images, and is not there; load it, or take it out of verifiers in \
                 [plugins.\"images.local\"]"
            )));
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }
}

/// The error of a verifier that says nothing.
fn silent(id: &str, error: Error) -> Error {
    error.at(format_args!("{id} could not be asked, so it is refused"))
}

fn one_line(reason: &str) -> String {
    let is_fine = |c: char| if c.is_control() { ' ' } else { c };
    let reason: String = reason.trim().chars().map(is_fine).take(MAX_REASON_CHARS).collect();
    if reason.is_empty() { "it does not say why".into() } else { reason }
}

#[cfg(test)]
mod tests;
