//! When a plugin that ended gets a new instance, and when it is given up.

use std::time::Duration;

/// The first wait. Long enough to not spin, short enough that a user does not notice.
const FIRST: Duration = Duration::from_millis(10);
/// The longest wait between two tries.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// An instance that lived so long counts as healthy: what ended it is a new story. A plugin that ends once a second
/// costs its callers a moment each time; giving it up would cost them everything.
const HEALTHY: Duration = Duration::from_secs(1);
/// So many ends in a row, none of them after a healthy life, and the plugin is given up. With
/// doubling waits that is after about 10 s.
const GIVE_UP: u32 = 10;

/// What to do about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Restart(Duration),
    GiveUp,
}

/// The history of one plugin.
#[derive(Debug, Default)]
pub(super) struct Policy {
    in_a_row: u32,
}

impl Policy {
    /// An instance ended after having lived for `lived` (zero if it did not come up).
    pub(super) fn ended(&mut self, lived: Duration) -> Verdict {
        if lived >= HEALTHY {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        if self.in_a_row > GIVE_UP {
            return Verdict::GiveUp;
        }
        Verdict::Restart((FIRST * 2_u32.pow(self.in_a_row - 1)).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_then_it_is_given_up() {
        let mut policy = Policy::default();
        let waits: Vec<Verdict> = (0..11).map(|_| policy.ended(Duration::ZERO)).collect();
        assert_eq!(waits[0], Verdict::Restart(Duration::from_millis(10)));
        assert_eq!(waits[3], Verdict::Restart(Duration::from_millis(80)));
        assert_eq!(waits[9], Verdict::Restart(Duration::from_secs(5)));
        assert_eq!(waits[10], Verdict::GiveUp);
    }

    #[test]
    fn a_healthy_life_starts_the_count_anew() {
        let mut policy = Policy::default();
        for _ in 0..10 {
            policy.ended(Duration::from_millis(900));
        }
        assert_eq!(policy.ended(HEALTHY), Verdict::Restart(FIRST));
    }
}
