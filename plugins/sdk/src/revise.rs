//! Changes of a record that several may change at once: read, decide, write; and all of that again if somebody else
//! wrote meanwhile, so that both changes happen.

use capstan_schema::{Class, Error, Result};

use crate::Link;
use crate::contract::Metadata;
use crate::contract::events::NewEvent;
use crate::contract::metadata::{Commit, Get, Key, Step};

/// What becomes of a record.
#[derive(Debug)]
pub struct Revision<T> {
    /// Its new bytes. `None`: it stays as it is, and nothing is written.
    pub value: Option<Vec<u8>>,
    /// What else belongs into the commit. A guard that fails as `Aborted` has all done again.
    pub steps: Vec<Step>,
    /// Logged with it.
    pub events: Vec<NewEvent>,
    /// What the caller gets when it is done.
    pub answer: T,
}

impl<T> Revision<T> {
    /// New bytes.
    pub fn write(value: Vec<u8>, answer: T) -> Self {
        Self { value: Some(value), steps: Vec::new(), events: Vec::new(), answer }
    }

    /// It stays as it is.
    pub fn keep(answer: T) -> Self {
        Self { value: None, steps: Vec::new(), events: Vec::new(), answer }
    }

    /// The same with one more event.
    #[must_use]
    pub fn with(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }
}

/// Changes one record, or makes it: `change` is given its bytes, `None` if it does not exist, and may be asked again.
///
/// Cancel safety: a commit that was sent is carried out.
///
/// # Errors
/// Those of `change`, and those of the metadata.
pub async fn revise<T>(
    metadata: &Link<Metadata>,
    key: &Key,
    mut change: impl FnMut(Option<&[u8]>) -> Result<Revision<T>>,
) -> Result<T> {
    until_alone(async || {
        let old = metadata.send(Get(key.clone())).await?;
        let Revision { value, steps: more, events, answer } = change(old.as_deref())?;
        let Some(value) = value else { return Ok(answer) };
        let guard = match old {
            Some(old) => Step::unchanged(key.clone(), old),
            None => Step::absent(key.clone(), Error::aborted("it was made meanwhile")),
        };
        let mut steps = vec![guard, Step::Put { key: key.clone(), value }];
        steps.extend(more);
        metadata.send(Commit { steps, events }).await?;
        Ok(answer)
    })
    .await
}

/// Does something until nobody comes between what it reads and what it writes, which `Aborted` says
/// ([`Step::unchanged`]).
///
/// # Errors
/// All others.
pub async fn until_alone<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    loop {
        match attempt().await {
            Err(error) if error.class() == Class::Aborted => {}
            outcome => return outcome,
        }
    }
}
