//! events: what happened, in one order, without holes.
//!
//! An event is a row in the same commit as the change that it tells of, so nothing that happened is
//! missing and nothing that did not happen is told. Readers keep a cursor; a slow one holds no
//! buffer, and after a restart of either side it goes on where it was.

use capstan_schema::{Error, Namespace, Result};

/// An event before it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Whose it is; `None` for what concerns all.
    pub namespace: Option<Namespace>,
    /// `/tasks/exit`.
    pub topic: String,
    /// What happened, in the order that people read it.
    pub fields: Vec<(String, String)>,
}

impl NewEvent {
    /// An event in a namespace.
    pub fn new(namespace: &Namespace, topic: &str) -> Self {
        Self { namespace: Some(namespace.clone()), topic: topic.into(), fields: Vec::new() }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.fields.push((key.into(), value.to_string()));
        self
    }
}

/// An event as it is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the total order; starts at 1, never used twice.
    pub cursor: u64,
    /// When it was logged.
    pub time_unix_ns: i64,
    /// What happened.
    pub event: NewEvent,
}

/// Which events a reader wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this namespace, and those that concern all; `None` = of every namespace.
    pub namespace: Option<Namespace>,
    /// Alternatives: the start of the topic. None = everything.
    pub topics: Vec<String>,
}

impl Filter {
    /// Checks what a peer asked for.
    ///
    /// # Errors
    /// `InvalidArgument`: a topic that does not start with a slash.
    pub fn new(namespace: Option<Namespace>, topics: Vec<String>) -> Result<Self> {
        if let Some(bad) = topics.iter().find(|topic| !topic.starts_with('/')) {
            return Err(Error::invalid(format!(
                "event filter {bad:?}: write the start of a topic, such as /tasks/"
            )));
        }
        Ok(Self { namespace, topics })
    }

    /// Whether the reader wants this one.
    pub fn matches(&self, event: &NewEvent) -> bool {
        let is_ours = match (&self.namespace, &event.namespace) {
            (Some(want), Some(have)) => want == have,
            _ => true,
        };
        is_ours
            && (self.topics.is_empty()
                || self.topics.iter().any(|topic| event.topic.starts_with(topic.as_str())))
    }
}

/// Logs events that go with no other change, in order and at once. Answers the cursor of the last.
#[derive(Clone, Debug)]
pub struct Publish(pub Vec<NewEvent>);

/// Reads matching events behind a cursor. Does not wait.
#[derive(Clone, Debug)]
pub struct Read {
    /// 0 = from the oldest kept.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
    /// Which.
    pub filter: Filter,
}

/// What a reader gets.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order.
    pub events: Vec<Event>,
    /// Where to go on: everything up to here was looked at, also what did not match.
    pub cursor: u64,
    /// How many were trimmed before this reader got to them.
    pub missed: u64,
}

/// A view of the newest cursor that changes when it does.
#[derive(Clone, Debug)]
pub struct Watch;

crate::contract! {
    /// The contract of kind `events`.
    Events ("events") as EventsAddr {
        publish: Publish => u64,
        read: Read => Batch [again],
        watch: Watch => tokio::sync::watch::Receiver<u64> [again],
    }
}
