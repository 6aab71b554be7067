//! The holds that somebody has.

use std::sync::{Arc, Mutex, PoisonError};

use capstan_sdk::clock;
use capstan_sdk::contract::leases::{Held, Hold, TakeHold};
use tokio::sync::watch;

/// All holds. Dropping it breaks them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds(Arc<Mutex<Vec<Taken>>>);

/// A hold, and our end of it.
type Taken = (Held, watch::Receiver<()>);

impl Holds {
    pub(crate) fn take(&self, take: TakeHold) -> Hold {
        let (hold, other_end) = Hold::new();
        let held = Held {
            namespace: take.namespace,
            owner: take.owner,
            since_unix_ns: clock::steady_unix_ns(),
        };
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|(_, other_end)| is_held(other_end));
        holds.push((held, other_end));
        hold
    }

    pub(crate) fn list(&self) -> Vec<Held> {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|(_, other_end)| is_held(other_end));
        holds.iter().map(|(held, _)| held.clone()).collect()
    }
}

/// Whether the sender, which is the hold, still lives.
fn is_held(other_end: &watch::Receiver<()>) -> bool {
    other_end.has_changed().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Namespace;

    #[test]
    fn a_hold_ends_with_its_last_clone() {
        let holds = Holds::default();
        let take = |owner: &str| TakeHold {
            namespace: Namespace::parse("here").unwrap(),
            owner: owner.into(),
        };
        let (first, second) = (holds.take(take("first")), holds.take(take("second")));
        let clone = first.clone();
        drop(first);
        let owners = || holds.list().into_iter().map(|held| held.owner).collect::<Vec<_>>();
        assert_eq!(owners(), ["first", "second"]);
        drop(clone);
        assert_eq!(owners(), ["second"]);
        drop(second);
        assert!(owners().is_empty());
    }
}
