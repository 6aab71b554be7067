//! `capstan metrics`: Prometheus' text exposition format, version 0.0.4.

use std::io::Write as _;

use capstan_client::Error;
use capstan_client::schema::introspection_capnp::{PluginState, introspection, plugin};
use capstan_client::schema::metrics_capnp::{metrics, sample as wire};
use capstan_client::schema::sample::{self, Sample};
use serde_json::{Map, Value, json};

use crate::exit::{Failure, Outcome};
use crate::print::{self, Table};
use crate::session::{Session, call};

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
    let samples = sample::by_name(found);
    if session.is_json() {
        print::json_value(&samples.iter().map(as_json).collect())?;
    } else {
        write!(std::io::stdout(), "{}", sample::exposition(&samples))?;
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
    samples: capnp::struct_list::Reader<'_, wire::Owned>,
) -> Outcome {
    let samples: Vec<Sample> = samples.iter().map(Sample::read).collect::<Result<_, Error>>()?;
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
    let (calls, failures) = (plugin.get_calls(), plugin.get_failures());
    Ok(sample::plugin_counts(id, calls, failures, plugin.get_restarts()))
}

async fn collect(session: &Session, id: &str) -> Outcome<Vec<Sample>> {
    let service: metrics::Client = session.open_global(id);
    let response = call!(session, service.collect_request());
    let samples = response.get()?.get_samples()?;
    Ok(samples.iter().map(Sample::read).collect::<Result<_, Error>>()?)
}

fn as_json(sample: &Sample) -> Value {
    let labels = sample.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
    json!({
        "name": sample.name,
        "help": sample.help,
        "kind": sample.kind.name(),
        "labels": Value::Object(labels.collect::<Map<_, _>>()),
        "value": sample.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_schemas_names() {
        let value = as_json(&Sample::gauge("a", "Help.", 2.0).with("id", "web"));
        assert_eq!(value["labels"]["id"], "web");
        assert_eq!(value["kind"], "gauge");
        assert_eq!(value["value"], 2.0);
    }
}
