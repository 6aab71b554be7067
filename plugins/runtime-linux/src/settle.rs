//! Names that are taken while nobody can say yet what of: a create that goes on, or the end of what an
//! earlier daemon left. Whoever wants such a name waits, which never takes longer than a create may.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use capstan_sdk::contract::runtime::TaskKey;
use capstan_sdk::{Error, Result};
use tokio::sync::Notify;

use crate::shim::PATIENT;
use crate::task::Task;

/// Longer than any create: what holds a name has a deadline of its own.
const LONGEST: Duration = PATIENT.saturating_add(Duration::from_secs(60));

/// All tasks by name.
#[derive(Default)]
pub(crate) struct Table {
    /// `None` while it is not settled.
    tasks: RefCell<HashMap<TaskKey, Option<Rc<Task>>>>,
    changed: Notify,
}

/// What a name stands for.
pub(crate) enum Name {
    Free,
    Unsettled,
    Task(Rc<Task>),
}

impl Table {
    pub(crate) fn get(&self, key: &TaskKey) -> Name {
        match self.tasks.borrow().get(key) {
            None => Name::Free,
            Some(None) => Name::Unsettled,
            Some(Some(task)) => Name::Task(Rc::clone(task)),
        }
    }

    /// All that are settled.
    pub(crate) fn all(&self) -> Vec<Rc<Task>> {
        self.tasks.borrow().values().flatten().cloned().collect()
    }

    /// Takes a name; what it stood for is forgotten.
    pub(crate) fn reserve(&self, key: &TaskKey) {
        self.tasks.borrow_mut().insert(key.clone(), None);
    }

    pub(crate) fn insert(&self, task: Rc<Task>) {
        self.tasks.borrow_mut().insert(task.key.clone(), Some(task));
        self.changed.notify_waiters();
    }

    pub(crate) fn remove(&self, key: &TaskKey) {
        self.tasks.borrow_mut().remove(key);
        self.changed.notify_waiters();
    }

    /// Waits until a name is free or a task's.
    ///
    /// # Errors
    /// `Unavailable`: it takes too long.
    pub(crate) async fn settle(&self, key: &TaskKey) -> Result<()> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let changed = self.changed.notified();
            if !matches!(self.get(key), Name::Unsettled) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed).await.is_err() {
                return Err(unsettled(key));
            }
        }
    }
}

/// The answer to whoever does not wait.
pub(crate) fn unsettled(key: &TaskKey) -> Error {
    Error::unavailable(format!(
        "the task of container {} is just being created or removed; try again",
        key.id
    ))
}
