//! metadata: the one place where names become durable.
//!
//! Records live in buckets: `(bucket, namespace, key) -> bytes`, the namespace empty for what has
//! none. All changes go through [`Commit`], which is atomic, durable when it is answered, and in one
//! total order with the events that it logs. Many commits that wait at the same time share one sync.
//!
//! A commit of a namespaced record makes the namespace, if it is new.

use capstan_schema::{Error, Namespace};

use crate::contract::Page;
use crate::contract::events::{Event, NewEvent};
use crate::contract::graph::Finding;

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// A word of the plugin's own, such as `images`.
    pub bucket: String,
    /// `None` for what has no namespace.
    pub namespace: Option<Namespace>,
    /// Not empty; any text without NUL.
    pub name: String,
}

impl Key {
    /// A key inside a namespace.
    pub fn new(bucket: &str, namespace: &Namespace, name: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), namespace: Some(namespace.clone()), name: name.into() }
    }

    /// A key outside of all namespaces.
    pub fn global(bucket: &str, name: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), namespace: None, name: name.into() }
    }
}

/// What a record must be like for a commit to go through.
#[derive(Clone, Debug)]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// It exists.
    Present,
    /// It holds just these bytes: nobody changed it since they were read.
    Equals(Vec<u8>),
}

/// A step of a commit. All guards are looked at before anything is written, and the first that fails ends it; then the
/// rest is done in order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Fails the commit with `error` unless the record is as expected.
    Guard {
        /// Which record.
        key: Key,
        /// What it must be like.
        expect: Expect,
        /// What the caller is told if it is not.
        error: Error,
    },
    /// Fails the commit with `FailedPrecondition` if the namespace holds any record.
    GuardEmpty(Namespace),
    /// Writes a record, over an old one if there is one.
    Put {
        /// Which record.
        key: Key,
        /// The new bytes.
        value: Vec<u8>,
    },
    /// Removes a record; that it does not exist is fine.
    Delete(Key),
}

impl Step {
    /// A guard against what exists already.
    pub fn absent(key: Key, error: Error) -> Self {
        Self::Guard { key, expect: Expect::Absent, error }
    }

    /// A guard that wants the record there.
    pub fn present(key: Key, error: Error) -> Self {
        Self::Guard { key, expect: Expect::Present, error }
    }

    /// A guard against a change by somebody else since `value` was read.
    ///
    /// It fails as `Aborted`: the caller reads again and decides anew.
    pub fn unchanged(key: Key, value: Vec<u8>) -> Self {
        let error = Error::aborted(format!("{} {:?} was changed meanwhile", key.bucket, key.name));
        Self::Guard { key, expect: Expect::Equals(value), error }
    }
}

/// Takes steps and logs events, all or nothing. Answers the cursor of the newest event in the log.
///
/// What was answered survives a power cut. Not answered means not known: the commit may have
/// happened if the plugin broke off.
///
/// Errors: those of the guards; `ResourceExhausted`: no space; `Unavailable`: the writer is down.
///
/// Cancel safety: a commit that was sent is carried out.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// In order.
    pub steps: Vec<Step>,
    /// Logged in order, after the steps.
    pub events: Vec<NewEvent>,
}

/// Reads one record.
#[derive(Clone, Debug)]
pub struct Get(pub Key);

/// Reads the records of a bucket in one namespace, in byte order of their names.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Which bucket.
    pub bucket: String,
    /// `None` for records outside of all namespaces.
    pub namespace: Option<Namespace>,
    /// Which slice.
    pub page: Page,
}

/// Reads all records of a bucket in all namespaces.
#[derive(Clone, Debug)]
pub struct ScanAll(pub String);

/// Reads the event log behind a cursor, oldest first.
#[derive(Clone, Debug)]
pub struct ReadLog {
    /// 0 = from the oldest kept.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
}

/// A stretch of the event log.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    /// In order.
    pub events: Vec<Event>,
    /// How many events between the cursor and the first one here were trimmed away.
    pub missed: u64,
}

/// Removes events up to and including a cursor. A reader that was not there yet is told how many it missed.
#[derive(Clone, Debug)]
pub struct TrimLog(pub u64);

/// A view of the newest cursor that changes when it does.
#[derive(Clone, Debug)]
pub struct WatchLog;

/// What is or was wrong with the store: files that were damaged, when and from what they were rebuilt, what was lost.
/// That stays until the damaged file, which is kept, is removed. `is_full` reads every record, which takes as long
/// as that takes; others do not wait meanwhile.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Whether all records are read.
    pub is_full: bool,
}

crate::contract! {
    /// The contract of kind `metadata`.
    Metadata ("metadata") as MetadataAddr {
        commit: Commit => u64,
        get: Get => Option<Vec<u8>> [again],
        scan: Scan => Vec<(String, Vec<u8>)> [again],
        scan_all: ScanAll => Vec<(Key, Vec<u8>)> [again],
        read_log: ReadLog => LogPage [again],
        trim_log: TrimLog => () [again],
        watch_log: WatchLog => tokio::sync::watch::Receiver<u64> [again],
        audit: Audit => Vec<Finding> [again],
    }
}
