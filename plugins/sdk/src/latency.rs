//! How long answers take: a histogram that costs one addition for each.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Steps within each power of two.
const STEPS: u32 = 4;
/// 2^40 ns is 18 minutes.
const POWERS: u32 = 40;

/// Counts by nanoseconds, to a quarter of a power of two.
pub struct Latency([AtomicU32; (STEPS * POWERS) as usize]);

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latency(p50: {:?}, p99: {:?})", self.percentile(50), self.percentile(99))
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; (STEPS * POWERS) as usize])
    }
}

impl Latency {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(STEPS.into());
        let power = ns.ilog2();
        let within = (ns >> (power - STEPS.ilog2())) % u64::from(STEPS);
        let within = u32::try_from(within).expect("fewer than the steps");
        let index = (power * STEPS + within).min(STEPS * POWERS - 1);
        self.0[index as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many of a hundred took at most this long; zero if there was none.
    pub fn percentile(&self, percent: u64) -> Duration {
        let counts: Vec<u64> = self.0.iter().map(|n| n.load(Ordering::Relaxed).into()).collect();
        let wanted = (counts.iter().sum::<u64>() * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in (0_u32..).zip(counts) {
            seen += count;
            if seen >= wanted && seen > 0 {
                let (power, within) = (index / STEPS, index % STEPS);
                let end = u64::from(STEPS + within + 1) << (power - STEPS.ilog2());
                return Duration::from_nanos(end);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_end_of_their_step() {
        let latency = Latency::default();
        assert_eq!(latency.percentile(50), Duration::ZERO);
        for us in 1..=100 {
            latency.note(Duration::from_micros(us));
        }
        let between = |percent: u64, low: u64, high: u64| {
            let us = latency.percentile(percent).as_micros();
            assert!((u128::from(low)..=u128::from(high)).contains(&us), "p{percent}: {us} us");
        };
        between(50, 50, 63);
        between(99, 99, 124);
        latency.note(Duration::ZERO);
        latency.note(Duration::MAX);
        assert!(latency.percentile(100) > Duration::from_secs(60));
    }
}
