//! What of the metadata a plugin from outside reaches: what is its own, and the names of namespaces.

use std::sync::Arc;

use capstan_schema::{Error, Result};

use crate::context::kind_of;
use crate::contract::events::NewEvent;
use crate::contract::metadata::{Key, Step};
use crate::outside::adapter;

/// The bucket of the namespaces, which everybody may read.
const NAMESPACES: &str = "namespaces";

/// Topics of a kind that are not called like it.
const TOPICS: [(&str, &str); 2] = [("runtime", "/tasks/"), ("snapshotter", "/snapshot/")];

/// The reach of one plugin.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    id: Arc<str>,
}

impl Reach {
    pub(super) fn new(id: Arc<str>) -> Self {
        Self { id }
    }

    /// A kind's own bucket is shared by its plugins; kinds that do not cross the boundary share nothing with
    /// whoever calls itself one of them.
    fn owns(&self, bucket: &str) -> bool {
        let below = bucket.strip_prefix(&*self.id).is_some_and(|rest| rest.starts_with('/'));
        let kind = kind_of(&self.id);
        below || bucket == &*self.id || (bucket == kind && adapter(kind).is_some())
    }

    /// Whether records of a bucket may be changed.
    ///
    /// # Errors
    /// `PermissionDenied`.
    fn check_write(&self, bucket: &str) -> Result<()> {
        if self.owns(bucket) {
            return Ok(());
        }
        let (id, kind) = (&self.id, kind_of(&self.id));
        Err(Error::denied(format!(
            "{id} may not change bucket {bucket:?}: its own are {kind}, {id} and {id}/..."
        )))
    }

    /// Whether records of a bucket may be read.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(super) fn check_read(&self, bucket: &str) -> Result<()> {
        if bucket == NAMESPACES || self.owns(bucket) {
            return Ok(());
        }
        let (id, kind) = (&self.id, kind_of(&self.id));
        Err(Error::denied(format!(
            "{id} may not read bucket {bucket:?}: it reaches {kind}, {id}, {id}/... and {NAMESPACES}"
        )))
    }

    /// Whether a step may be taken. A guard reads.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(super) fn check_step(&self, step: &Step) -> Result<()> {
        match step {
            Step::Guard { key: Key { bucket, .. }, .. } => self.check_read(bucket),
            Step::GuardEmpty(_) => self.check_read(NAMESPACES),
            Step::Put { key: Key { bucket, .. }, .. } | Step::Delete(Key { bucket, .. }) => {
                self.check_write(bucket)
            }
        }
    }

    /// Whether an event may be logged with a commit.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(super) fn check_event(&self, event: &NewEvent) -> Result<()> {
        let kind = kind_of(&self.id);
        let mut topics = vec![format!("/{kind}/"), format!("/{kind}s/")];
        let more = TOPICS.iter().filter(|(of, _)| *of == kind);
        topics.extend(more.map(|(_, topic)| (*topic).to_owned()));
        if topics.iter().any(|topic| event.topic.starts_with(topic)) {
            return Ok(());
        }
        Err(Error::denied(format!(
            "{} may not log topic {:?}: its own begin with {}",
            self.id,
            event.topic,
            topics.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(id: &str) -> Reach {
        Reach::new(id.into())
    }

    #[test]
    fn buckets_are_ones_own_or_the_namespaces() {
        let check = |id: &str, bucket: &str, may_read: bool, may_write: bool| {
            let reach = reach(id);
            assert_eq!(reach.check_read(bucket).is_ok(), may_read, "{id} reads {bucket}");
            assert_eq!(reach.check_write(bucket).is_ok(), may_write, "{id} writes {bucket}");
        };
        check("content.local", "content", true, true);
        check("snapshotter.native", "snapshotter.native", true, true);
        check("snapshotter.native", "snapshotter.native/quota", true, true);
        check("snapshotter.native", "snapshotter.nativer", false, false);
        check("snapshotter.native", "snapshotter.overlay", false, false);
        check("snapshotter.native", "content", false, false);
        check("snapshotter.native", "", false, false);
        check("snapshotter.native", "namespaces", true, false);
        check("namespaces.mine", "namespaces", true, false);
        check("containers.mine", "containers", false, false);
    }

    #[test]
    fn topics_are_of_the_kind() {
        let check = |id: &str, topic: &str, may: bool| {
            let event = NewEvent { namespace: None, topic: topic.into(), fields: Vec::new() };
            assert_eq!(reach(id).check_event(&event).is_ok(), may, "{id} logs {topic}");
        };
        check("content.local", "/content/create", true);
        check("content.local", "/contents/create", true);
        check("content.local", "/content", false);
        check("content.local", "/snapshot/prepare", false);
        check("snapshotter.native", "/snapshot/prepare", true);
        check("snapshotter.native", "/snapshotter/x", true);
        check("runtime.linux", "/tasks/exit", true);
        check("snapshotter.native", "/tasks/exit", false);
    }
}
