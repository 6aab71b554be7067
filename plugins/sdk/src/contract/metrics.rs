//! metrics: what a plugin counts and measures.
//!
//! It is collected only when somebody asks: a provider has no timer, and costs nothing in between.

use std::collections::BTreeSet;

use capstan_schema::{Error, Result};

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives that counts it.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One value, at the time of the question.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// `capstan_<plugin>_<noun>_<unit>`, and `_total` behind it if it is a counter.
    pub name: String,
    /// What it is, in one line.
    pub help: String,
    /// How it moves.
    pub kind: Kind,
    /// Which one of several with the same name, in the order in which they are printed.
    pub labels: Vec<(String, String)>,
    /// In the unit that the name says.
    pub value: f64,
}

impl Sample {
    /// A counter without labels.
    pub fn counter(name: &str, help: &str, value: f64) -> Self {
        Self::new(Kind::Counter, name, help, value)
    }

    /// A gauge without labels.
    pub fn gauge(name: &str, help: &str, value: f64) -> Self {
        Self::new(Kind::Gauge, name, help, value)
    }

    fn new(kind: Kind, name: &str, help: &str, value: f64) -> Self {
        Self { name: name.into(), help: help.into(), kind, labels: Vec::new(), value }
    }

    /// Adds a label.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.labels.push((name.into(), value.to_string()));
        self
    }

    /// Checks what every reader of metrics relies on.
    ///
    /// # Errors
    /// `Internal`, for it is the provider's mistake: a name or a label's name that is not
    /// `[a-z_][a-z0-9_]*`, a label that is there twice, a counter that is negative or whose name does
    /// not end in `_total`, a value that is no finite number, help of more than one line.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::internal(format!("metric {:?}: {what}", self.name)));
        let mut seen = BTreeSet::new();
        if !is_name(&self.name) {
            return bad("a name is made of a-z, 0-9 and _, and starts with no digit");
        }
        if self.help.is_empty() || self.help.contains('\n') {
            return bad("say in one line what it is");
        }
        for (name, _) in &self.labels {
            if !is_name(name) {
                return bad(&format!("label {name:?} is no name"));
            }
            if !seen.insert(name) {
                return bad(&format!("label {name:?} is there twice"));
            }
        }
        if !self.value.is_finite() {
            return bad("its value is no finite number");
        }
        match self.kind {
            Kind::Counter if !self.name.ends_with("_total") => bad("a counter ends in _total"),
            Kind::Counter if self.value < 0.0 => bad("a counter is never negative"),
            _ => Ok(()),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_lowercase() || b == b'_';
    text.bytes().next().is_some_and(is_letter)
        && text.bytes().all(|b| is_letter(b) || b.is_ascii_digit())
}

/// Measures now. No two samples have the same name and labels, and each passes [`Sample::check`].
///
/// It may be sent as often as one likes, and changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Collect;

crate::contract! {
    /// The contract of kind `metrics`.
    Metrics ("metrics") as MetricsAddr {
        collect: Collect => Vec<Sample> [again],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_reader_takes_passes() {
        let check = |sample: Sample, want: Option<&str>| match (sample.check(), want) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.message().contains(part), "{error}"),
            (got, _) => panic!("{sample:?}: {got:?}"),
        };
        let gauge = |name: &str, value| Sample::gauge(name, "Help.", value);
        check(gauge("capstan_process_resident_bytes", 1.0), None);
        check(gauge("_a1", -1.5), None);
        check(gauge("", 1.0), Some("a name"));
        check(gauge("1a", 1.0), Some("a name"));
        check(gauge("Bytes", 1.0), Some("a name"));
        check(gauge("a-b", 1.0), Some("a name"));
        check(gauge("a", f64::NAN), Some("finite"));
        check(gauge("a", f64::INFINITY), Some("finite"));
        check(gauge("a", 1.0).with("x", "\"\n").with("y", ""), None);
        check(gauge("a", 1.0).with("x", 1).with("x", 2), Some("twice"));
        check(gauge("a", 1.0).with("a b", 1), Some("label"));
        check(Sample::gauge("a", "Two\nlines.", 1.0), Some("one line"));
        check(Sample::counter("a_total", "Help.", 0.0), None);
        check(Sample::counter("a", "Help.", 0.0), Some("_total"));
        check(Sample::counter("a_total", "Help.", -1.0), Some("negative"));
    }
}
