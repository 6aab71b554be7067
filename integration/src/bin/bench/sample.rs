//! Samples, and what is said of them.

use crate::report::Cell;

/// Values of one thing, or the first failure: then there is no figure.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    values: Vec<f64>,
    failure: Option<String>,
}

impl Samples {
    pub(crate) fn push(&mut self, result: Result<f64, String>) {
        match result {
            Ok(value) => self.values.push(value),
            Err(why) => self.failure = self.failure.take().or(Some(why)),
        }
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failure.is_some()
    }

    fn cell(&self, figure: impl Fn(&[f64]) -> f64) -> Cell {
        if let Some(why) = &self.failure {
            return Cell::Failed(why.clone());
        }
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() { Cell::Absent } else { Cell::Value(figure(&sorted)) }
    }

    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) fn median(&self) -> Cell {
        self.cell(|sorted| {
            let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
            f64::midpoint(low, high)
        })
    }

    /// The one that 95 of 100 do not exceed; of fewer than 20 the greatest.
    pub(crate) fn p95(&self) -> Cell {
        self.cell(|sorted| sorted[sorted.len() * 95 / 100])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), Cell::Absent);
        for value in (1_u8..=30).rev() {
            samples.push(Ok(f64::from(value)));
        }
        assert_eq!(samples.median(), Cell::Value(15.5));
        assert_eq!(samples.p95(), Cell::Value(29.0));
        samples.push(Err("first".into()));
        samples.push(Err("second".into()));
        assert_eq!(samples.median(), Cell::Failed("first".into()));
    }
}
