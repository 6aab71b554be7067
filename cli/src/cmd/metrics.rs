//! `capstan metrics`: Prometheus' text exposition format, version 0.0.4.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use capstan_client::Error;
use capstan_client::schema::introspection_capnp::{PluginState, introspection, plugin};
use capstan_client::schema::metrics_capnp::{SampleKind, metrics, sample};
use serde_json::{Map, Value, json};

use crate::exit::{Failure, Outcome};
use crate::print::{self, Table};
use crate::session::{Session, call};

/// One value.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    help: String,
    kind: &'static str,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Prints what all plugins of kind `metrics` say, and what the kernel counts of every plugin. Those
/// that do not answer are told on stderr; the rest is printed all the same.
pub(crate) async fn run(session: &Session) -> Outcome {
    let service: introspection::Client = session.open_global("introspection");
    let response = call!(session, service.plugins_request());
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for plugin in response.get()?.get_plugins()? {
        found.extend(of_plugin(plugin)?);
        let id = plugin.get_id()?.to_str()?;
        if !id.starts_with("metrics.") || plugin.get_state()? != PluginState::Running {
            continue;
        }
        match collect(session, id).await {
            Ok(samples) => found.extend(samples),
            Err(Failure::Error(error)) => {
                eprintln!("capstan: {id}: {error}");
                failed.push(id);
            }
            Err(other) => return Err(other),
        }
    }
    let samples = distinct(found);
    if session.is_json() {
        print::json_value(&samples.iter().map(as_json).collect())?;
    } else {
        write!(std::io::stdout(), "{}", exposition(&samples))?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let text = format!("no metrics from {}; the rest is printed", failed.join(", "));
    Err(Error::unavailable(text).into())
}

/// Prints samples of one task, for people: a row for each, in their order.
pub(crate) fn print(
    session: &Session,
    samples: capnp::struct_list::Reader<'_, sample::Owned>,
) -> Outcome {
    let samples: Vec<Sample> = samples.iter().map(read).collect::<Outcome<_>>()?;
    if session.is_json() {
        return print::json_value(&samples.iter().map(as_json).collect());
    }
    let mut table = Table::new(&["METRIC", "LABELS", "VALUE"]);
    for Sample { name, labels, value, .. } in samples {
        // Those that say which task are the same in each row.
        let labels = labels.iter().filter(|(key, _)| !matches!(key.as_str(), "id" | "namespace"));
        let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
        let labels = if labels.is_empty() { "-".into() } else { labels.join(",") };
        table.row([name, labels, value.to_string()]);
    }
    table.print()
}

/// What the kernel counts of a plugin.
fn of_plugin(plugin: plugin::Reader<'_>) -> Outcome<[Sample; 3]> {
    let id = plugin.get_id()?.to_str()?;
    let counter = |name: &str, help: &str, value: u64| Sample {
        name: name.into(),
        help: help.into(),
        kind: "counter",
        labels: vec![("plugin".into(), id.into())],
        value: float(value),
    };
    Ok([
        counter(
            "capstan_plugin_calls_total",
            "Messages that the plugin answered.",
            plugin.get_calls(),
        ),
        counter(
            "capstan_plugin_failures_total",
            "Messages that were lost in a panic or in an instance that ended.",
            plugin.get_failures(),
        ),
        counter(
            "capstan_plugin_restarts_total",
            "Instances of the plugin since the daemon started, without the first.",
            plugin.get_restarts().into(),
        ),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "the format has floats; exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

async fn collect(session: &Session, id: &str) -> Outcome<Vec<Sample>> {
    let service: metrics::Client = session.open_global(id);
    let response = call!(session, service.collect_request());
    response.get()?.get_samples()?.iter().map(read).collect()
}

fn read(reader: sample::Reader<'_>) -> Outcome<Sample> {
    let mut labels = Vec::new();
    for label in reader.get_labels()? {
        labels.push((label.get_key()?.to_string()?, label.get_value()?.to_string()?));
    }
    Ok(Sample {
        name: reader.get_name()?.to_string()?,
        help: reader.get_help()?.to_string()?,
        kind: match reader.get_kind()? {
            SampleKind::Counter => "counter",
            SampleKind::Gauge => "gauge",
        },
        labels,
        value: reader.get_value(),
    })
}

/// One sample for each name and labels, by name: who reads the format refuses all of it for one that
/// is there twice. Of those that two plugins have the first counts.
fn distinct(mut samples: Vec<Sample>) -> Vec<Sample> {
    let mut seen = BTreeSet::new();
    samples.retain(|sample| {
        let mut labels = sample.labels.clone();
        labels.sort();
        seen.insert((sample.name.clone(), labels))
    });
    // It keeps the order of those with the same name.
    samples.sort_by(|one, other| one.name.cmp(&other.name));
    samples
}

fn as_json(sample: &Sample) -> Value {
    let labels = sample.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
    json!({
        "name": sample.name,
        "help": sample.help,
        "kind": sample.kind,
        "labels": Value::Object(labels.collect::<Map<_, _>>()),
        "value": sample.value,
    })
}

/// Samples that are in the order of their names, as text.
fn exposition(samples: &[Sample]) -> String {
    let mut out = String::new();
    let mut last = "";
    for Sample { name, help, kind, labels, value } in samples {
        if name != last {
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

    fn sample(name: &str, label: Option<&str>, value: f64) -> Sample {
        let labels = label.map(|label| ("id".to_owned(), label.to_owned())).into_iter().collect();
        Sample { name: name.into(), help: "A \\ and\n\"b\".".into(), kind: "gauge", labels, value }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
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
        assert_eq!(exposition(&distinct(samples)), want);
        assert_eq!(exposition(&[]), "");
    }

    #[test]
    fn json_has_the_schemas_names() {
        let value = as_json(&sample("a", Some("web"), 2.0));
        assert_eq!(value["labels"]["id"], "web");
        assert_eq!(value["kind"], "gauge");
        assert_eq!(value["value"], 2.0);
    }
}
