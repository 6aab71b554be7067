//! The suite of kind `gc-policy`.

use std::collections::BTreeSet;

use crate::contract::GcPolicy;
use crate::contract::gc_policy::{Candidate, Judge, Verdict};
use crate::{Labels, Link};

const NOW: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// Runs all cases.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<GcPolicy>) {
    nothing_is_fine(link).await;
    the_same_question_has_the_same_answer(link).await;
    the_order_does_not_change_who_is_removed(link).await;
    no_number_is_too_large(link).await;
}

/// Candidates of all ages and sizes, some of the same age, one from the future.
fn candidates() -> Vec<Candidate> {
    let ages = [0, 0, 1, 1, 60, 60, 3600, 86_400, 30 * 86_400, -5];
    let candidate = |(number, age): (u64, i64)| Candidate {
        resource: format!("content/sha256:{number:064x}"),
        size: (number % 4) * 1_000_000,
        last_used_unix_ns: NOW - age * SECOND,
        labels: Labels::from([("number".to_owned(), number.to_string())]),
    };
    (0..).zip(ages).map(candidate).collect()
}

async fn judge(link: &Link<GcPolicy>, candidates: Vec<Candidate>) -> Vec<Verdict> {
    let asked = candidates.len();
    let total = candidates.iter().fold(0u64, |sum, it| sum.saturating_add(it.size));
    let verdicts = link.send(Judge { candidates, now_unix_ns: NOW, total }).await.expect("judge");
    assert_eq!(verdicts.len(), asked, "one verdict for each");
    verdicts
}

/// The names of those that are to go.
async fn removed(link: &Link<GcPolicy>, candidates: &[Candidate]) -> BTreeSet<String> {
    let verdicts = judge(link, candidates.to_vec()).await;
    let pairs = candidates.iter().zip(verdicts);
    let gone = pairs.filter(|(_, verdict)| *verdict == Verdict::Remove);
    gone.map(|(candidate, _)| candidate.resource.clone()).collect()
}

async fn nothing_is_fine(link: &Link<GcPolicy>) {
    assert_eq!(judge(link, vec![]).await, []);
}

async fn the_same_question_has_the_same_answer(link: &Link<GcPolicy>) {
    let first = judge(link, candidates()).await;
    assert_eq!(judge(link, candidates()).await, first);
}

async fn the_order_does_not_change_who_is_removed(link: &Link<GcPolicy>) {
    let mut candidates = candidates();
    let first = removed(link, &candidates).await;
    candidates.reverse();
    assert_eq!(removed(link, &candidates).await, first, "reversed");
    for _ in 1..candidates.len() {
        candidates.rotate_left(1);
        assert_eq!(removed(link, &candidates).await, first, "rotated");
    }
}

async fn no_number_is_too_large(link: &Link<GcPolicy>) {
    let candidate = |name: &str, last_used_unix_ns| Candidate {
        resource: format!("snapshot/overlay/{name}"),
        size: u64::MAX,
        last_used_unix_ns,
        labels: Labels::new(),
    };
    judge(link, vec![candidate("a", i64::MIN), candidate("b", i64::MAX)]).await;
}
