//! When things were last used, so that garbage collection does not take what somebody just found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_schema::Namespace;

use crate::clock;

/// The times of one owner, in memory. Cheap to clone; clones share them.
///
/// Whoever notes a use and whoever decides by [`LastUse::is_unused_since`] must exclude each other (an owner has a
/// lock for that): else a thing could go after its use was answered.
#[derive(Clone, Debug)]
pub struct LastUse {
    began_at_unix_ns: i64,
    times: Arc<Mutex<HashMap<Namespace, HashMap<String, i64>>>>,
}

impl Default for LastUse {
    fn default() -> Self {
        Self { began_at_unix_ns: clock::now_unix_ns(), times: Arc::default() }
    }
}

impl LastUse {
    /// It is used now.
    pub fn note(&self, namespace: &Namespace, name: &str) {
        let now = clock::now_unix_ns();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        match times.get_mut(namespace) {
            Some(names) => {
                names.insert(name.to_owned(), now);
            }
            None => {
                times.insert(namespace.clone(), HashMap::from([(name.to_owned(), now)]));
            }
        }
    }

    /// When it was last used, as far as this instance knows.
    pub fn of(&self, namespace: &Namespace, name: &str) -> Option<i64> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(namespace)?.get(name).copied()
    }

    /// Whether it was certainly not used since then. What an instance before this one noted is not known any more, so all
    /// counts as used when this one began.
    pub fn is_unused_since(&self, namespace: &Namespace, name: &str, since_unix_ns: i64) -> bool {
        self.of(namespace, name).unwrap_or(self.began_at_unix_ns).max(self.began_at_unix_ns)
            < since_unix_ns
    }

    /// It is gone.
    pub fn forget(&self, namespace: &Namespace, name: &str) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = times.get_mut(namespace) {
            names.remove(name);
            if names.is_empty() {
                times.remove(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_since_then_is_not_unused() {
        let uses = LastUse::default();
        let here = Namespace::parse("here").unwrap();
        let before = clock::now_unix_ns() - 1;
        assert!(!uses.is_unused_since(&here, "a", before));
        let since = clock::now_unix_ns() + 1_000_000;
        assert!(uses.is_unused_since(&here, "a", since));
        while clock::now_unix_ns() < since {}
        uses.note(&here, "a");
        assert!(!uses.is_unused_since(&here, "a", since));
        assert!(uses.is_unused_since(&Namespace::parse("there").unwrap(), "a", since));
        uses.forget(&here, "a");
        assert!(uses.is_unused_since(&here, "a", since));
        assert!(uses.times.lock().unwrap().is_empty());
    }
}
