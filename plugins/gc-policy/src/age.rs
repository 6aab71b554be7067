//! The rule.

use std::cmp::Reverse;

use capstan_sdk::contract::gc_policy::{Candidate, Judge, Verdict};

use crate::Config;

/// A verdict for each candidate.
pub(crate) fn judge(config: Config, question: &Judge) -> Vec<Verdict> {
    let Judge { candidates, now_unix_ns, .. } = question;
    let mut verdicts = vec![Verdict::Keep; candidates.len()];
    let is_old =
        |&index: &usize| age_seconds(&candidates[index], *now_unix_ns) >= config.keep_seconds;
    let mut old: Vec<usize> = (0..candidates.len()).filter(is_old).collect();
    // By name as well, so that the order of the question decides nothing.
    old.sort_by_key(|&index| {
        let candidate = &candidates[index];
        (Reverse(candidate.last_used_unix_ns), candidate.resource.as_str())
    });
    let mut room = config.keep_bytes;
    // From the first that finds no room on all go: an older one is not kept in its place.
    let fits = |&index: &usize| match room.checked_sub(candidates[index].size) {
        Some(rest) if config.keep_bytes > 0 => {
            room = rest;
            true
        }
        _ => false,
    };
    for index in old.into_iter().skip_while(fits) {
        verdicts[index] = Verdict::Remove;
    }
    verdicts
}

/// How long ago it was of use; 0 for what comes from the future.
fn age_seconds(candidate: &Candidate, now_unix_ns: i64) -> u64 {
    let age = now_unix_ns.saturating_sub(candidate.last_used_unix_ns);
    u64::try_from(age / 1_000_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Labels;

    /// Candidates are (age in seconds, size), named by their index; wants the indices of those that go.
    fn check(keep_seconds: u64, keep_bytes: u64, candidates: &[(i64, u64)], want: &[usize]) {
        const NOW: i64 = 1_700_000_000_000_000_000;
        let candidate = |(index, &(age, size)): (usize, &(i64, u64))| Candidate {
            resource: format!("content/{index}"),
            size,
            last_used_unix_ns: NOW - age * 1_000_000_000,
            labels: Labels::new(),
        };
        let question = Judge {
            candidates: candidates.iter().enumerate().map(candidate).collect(),
            now_unix_ns: NOW,
            total: 0,
        };
        let verdicts = judge(Config { keep_seconds, keep_bytes }, &question);
        let gone: Vec<usize> =
            (0..verdicts.len()).filter(|&index| verdicts[index] == Verdict::Remove).collect();
        assert_eq!(gone, want, "{keep_seconds} s, {keep_bytes} bytes, {candidates:?}");
    }

    #[test]
    fn young_ones_stay_and_then_the_most_recent_while_there_is_room() {
        check(0, 0, &[], &[]);
        check(0, 0, &[(0, 5), (100, 0), (-100, 5)], &[0, 1, 2]);
        check(10, 0, &[(9, 5), (10, 5), (11, 0), (-100, 5)], &[1, 2]);
        check(0, 10, &[(30, 5), (10, 5), (20, 5)], &[0]);
        // The young take none of the room.
        check(10, 10, &[(5, 100), (20, 10), (30, 1)], &[2]);
        // The second finds no room, so the third, which is older, goes too.
        check(0, 10, &[(1, 5), (2, 6), (3, 5)], &[1, 2]);
        check(0, 10, &[(1, 11)], &[0]);
        // Of the same age: by name.
        check(0, 5, &[(1, 5), (1, 5)], &[1]);
        check(0, u64::MAX, &[(1, u64::MAX), (2, 0), (3, 1)], &[2]);
        check(u64::MAX, 0, &[(1, 1)], &[]);
    }
}
