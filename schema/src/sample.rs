//! What a plugin counts and measures (metrics.capnp), and Prometheus' text exposition format, version
//! 0.0.4.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::metrics_capnp as wire;
use crate::{Error, Result};

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives that counts it.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// The word of the text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
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

    /// Reads one.
    ///
    /// # Errors
    /// It is damaged, or of a kind that is newer than this program.
    pub fn read(reader: wire::sample::Reader<'_>) -> Result<Self> {
        let mut labels = Vec::new();
        for label in reader.get_labels()? {
            labels.push((label.get_key()?.to_string()?, label.get_value()?.to_string()?));
        }
        Ok(Self {
            name: reader.get_name()?.to_string()?,
            help: reader.get_help()?.to_string()?,
            kind: match reader.get_kind().map_err(capnp::Error::from)? {
                wire::SampleKind::Counter => Kind::Counter,
                wire::SampleKind::Gauge => Kind::Gauge,
            },
            labels,
            value: reader.get_value(),
        })
    }

    /// Writes it.
    pub fn write(&self, mut out: wire::sample::Builder<'_>) {
        out.set_name(&self.name);
        out.set_help(&self.help);
        out.set_kind(match self.kind {
            Kind::Counter => wire::SampleKind::Counter,
            Kind::Gauge => wire::SampleKind::Gauge,
        });
        out.set_value(self.value);
        let count = u32::try_from(self.labels.len()).expect("labels are few");
        let mut list = out.init_labels(count);
        for (index, (key, value)) in (0..).zip(&self.labels) {
            let mut label = list.reborrow().get(index);
            label.set_key(key);
            label.set_value(value);
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_lowercase() || b == b'_';
    text.bytes().next().is_some_and(is_letter)
        && text.bytes().all(|b| is_letter(b) || b.is_ascii_digit())
}

/// What the kernel counts of a plugin.
#[expect(clippy::cast_precision_loss, reason = "samples are floats; exact up to 2^53")]
pub fn plugin_counts(id: &str, calls: u64, failures: u64, restarts: u32) -> [Sample; 3] {
    let counter = |name: &str, help: &str, value: u64| {
        Sample::counter(name, help, value as f64).with("plugin", id)
    };
    [
        counter("capstan_plugin_calls_total", "Messages that the plugin answered.", calls),
        counter(
            "capstan_plugin_failures_total",
            "Messages that were lost in a panic or in an instance that ended.",
            failures,
        ),
        counter(
            "capstan_plugin_restarts_total",
            "Instances of the plugin since the daemon started, without the first.",
            restarts.into(),
        ),
    ]
}

/// Leaves one sample for each name and labels: who reads the text format refuses all of it for one that
/// is there twice. Of those that two have the first counts.
pub fn keep_first(samples: &mut Vec<Sample>) {
    let mut seen = BTreeSet::new();
    samples.retain(|sample| {
        let mut labels = sample.labels.clone();
        labels.sort();
        seen.insert((sample.name.clone(), labels))
    });
}

/// The same, by name; those with the same name keep their order.
pub fn by_name(mut samples: Vec<Sample>) -> Vec<Sample> {
    keep_first(&mut samples);
    samples.sort_by(|one, other| one.name.cmp(&other.name));
    samples
}

/// Samples that are in the order of their names ([`by_name`]), as text.
pub fn exposition(samples: &[Sample]) -> String {
    let mut out = String::new();
    let mut last = "";
    for Sample { name, help, kind, labels, value } in samples {
        if name != last {
            let _ = writeln!(out, "# HELP {name} {}", escaped(help, false));
            let _ = writeln!(out, "# TYPE {name} {}", kind.name());
            last = name;
        }
        let labels =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value, true)));
        let labels = labels.collect::<Vec<_>>().join(",");
        let _ = match labels.is_empty() {
            true => writeln!(out, "{name} {value}"),
            false => writeln!(out, "{name}{{{labels}}} {value}"),
        };
    }
    out
}

/// Backslashes and ends of lines; quotes too, where they would end the text.
fn escaped(text: &str, is_quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if is_quoted { text.replace('"', "\\\"") } else { text }
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

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let gauge = |name: &str, value| Sample::gauge(name, "A \\ b.", value);
        let samples = vec![
            gauge("b", 1.5).with("id", "web"),
            Sample::counter("a_total", "Help.", 12_345_678_901.0),
            gauge("b", -3.0).with("id", "\"x\\\n").with("cpu", 1),
            gauge("b", 9.0).with("id", "web"),
        ];
        let want = concat!(
            "# HELP a_total Help.\n",
            "# TYPE a_total counter\n",
            "a_total 12345678901\n",
            "# HELP b A \\\\ b.\n",
            "# TYPE b gauge\n",
            "b{id=\"web\"} 1.5\n",
            "b{id=\"\\\"x\\\\\\n\",cpu=\"1\"} -3\n",
        );
        assert_eq!(exposition(&by_name(samples)), want);
        assert_eq!(exposition(&[]), "");
    }

    fn sample(name: &str, label: Option<&str>, value: f64) -> Sample {
        let labels = label.map(|label| ("id".to_owned(), label.to_owned())).into_iter().collect();
        Sample {
            name: name.into(),
            help: "A \\ and\n\"b\".".into(),
            kind: Kind::Gauge,
            labels,
            value,
        }
    }

    #[test]
    fn help_is_escaped_too() {
        let samples = vec![
            sample("b", Some("web"), 1.5),
            sample("a", None, 12_345_678_901.0),
            sample("b", Some("\"x\\\n"), -3.0),
            sample("b", Some("web"), 9.0),
        ];
        let want = concat!(
            "# HELP a A \\\\ and\\n\"b\".\n",
            "# TYPE a gauge\n",
            "a 12345678901\n",
            "# HELP b A \\\\ and\\n\"b\".\n",
            "# TYPE b gauge\n",
            "b{id=\"web\"} 1.5\n",
            "b{id=\"\\\"x\\\\\\n\"} -3\n",
        );
        assert_eq!(exposition(&by_name(samples)), want);
        assert_eq!(exposition(&[]), "");
    }
}
