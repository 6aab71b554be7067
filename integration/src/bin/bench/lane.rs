//! Taking turns.

use crate::sample::Samples;

/// One of those who are compared: an attempt gives one value.
pub(crate) struct Lane<'a> {
    attempt: Box<dyn FnMut() -> Result<f64, String> + 'a>,
    pub(crate) samples: Samples,
}

impl<'a> Lane<'a> {
    pub(crate) fn new(attempt: impl FnMut() -> Result<f64, String> + 'a) -> Self {
        Self { attempt: Box::new(attempt), samples: Samples::default() }
    }

    /// The same, if what it needs is there: else it has failed before it begins.
    pub(crate) fn after(
        ready: &Result<(), String>,
        attempt: impl FnMut() -> Result<f64, String> + 'a,
    ) -> Self {
        let mut lane = Self::new(attempt);
        if let Err(why) = ready {
            lane.samples.push(Err(why.clone()));
        }
        lane
    }
}

/// Each lane makes an attempt per round, so that noise hits all alike. The first rounds warm up: their
/// values are dropped, but a failure is a failure. One that failed is out.
pub(crate) fn take_turns(what: &str, lanes: &mut [Lane<'_>], warmups: usize, rounds: usize) {
    eprintln!("{what}: {warmups} + {rounds} rounds of {}", lanes.len());
    for round in 0..warmups + rounds {
        for lane in lanes.iter_mut().filter(|lane| !lane.samples.is_failed()) {
            let result = (lane.attempt)();
            if round >= warmups || result.is_err() {
                lane.samples.push(result);
            }
        }
    }
}
