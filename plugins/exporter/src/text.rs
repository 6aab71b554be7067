//! Prometheus' text exposition format, version 0.0.4.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use capstan_sdk::contract::metrics::{Kind, Sample};

/// The samples by name, each name and labels once: who reads the format refuses all of it for one that is
/// there twice. Of those that two plugins have the first counts.
pub(crate) fn exposition(mut samples: Vec<Sample>) -> String {
    let mut seen = BTreeSet::new();
    samples.retain(|sample| {
        let mut labels = sample.labels.clone();
        labels.sort();
        seen.insert((sample.name.clone(), labels))
    });
    // It keeps the order of those with the same name.
    samples.sort_by(|one, other| one.name.cmp(&other.name));
    let mut out = String::new();
    let mut last = "";
    for Sample { name, help, kind, labels, value } in &samples {
        if name != last {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(out, "# HELP {name} {}", escaped(help, false));
            let _ = writeln!(out, "# TYPE {name} {kind}");
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
        assert_eq!(exposition(samples), want);
        assert_eq!(exposition(Vec::new()), "");
    }
}
