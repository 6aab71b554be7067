//! Asking the runtimes.

use std::time::Duration;

use capstan_sdk::contract::Runtime;
use capstan_sdk::contract::metrics::{Sample, keep_first};
use capstan_sdk::contract::runtime::{List, Measure, TaskKey};
use capstan_sdk::{Class, Error, Link, Result};
use futures::{StreamExt as _, future, stream};
use tracing::warn;

/// How long a runtime may take, for the list and for each task. It takes below a millisecond; whoever scrapes
/// gives up after ten seconds.
const DEADLINE: Duration = Duration::from_secs(4);

/// Tasks of a runtime that are measured at the same time.
const AT_ONCE: usize = 32;

/// What all tasks of all runtimes take. Who does not answer is left out.
pub(crate) async fn collect(runtimes: &[Link<Runtime>]) -> Vec<Sample> {
    let found = future::join_all(runtimes.iter().map(of_runtime)).await;
    let mut samples: Vec<Sample> = found.into_iter().flatten().collect();
    // Two runtimes may have a task of the same name.
    keep_first(&mut samples);
    samples
}

async fn of_runtime(link: &Link<Runtime>) -> Vec<Sample> {
    let tasks = match within(link.send(List(None))).await {
        Ok(tasks) => tasks,
        Err(error) => {
            warn!(?link, %error, "its tasks have no metrics");
            return Vec::new();
        }
    };
    let measured = stream::iter(tasks)
        .map(|task| async move { of_task(link, task.key).await })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>();
    measured.await.into_iter().flatten().collect()
}

async fn of_task(link: &Link<Runtime>, key: TaskKey) -> Vec<Sample> {
    match within(link.send(Measure(key.clone()))).await.and_then(|found| sound(&key, found)) {
        Ok(samples) => samples,
        // It was deleted meanwhile.
        Err(error) if error.class() == Class::NotFound => Vec::new(),
        Err(error) => {
            warn!(task = %key, %error, "it has no metrics");
            Vec::new()
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::unavailable(format!("no answer within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(|_| Err(late()))
}

/// Samples that everybody can read, with the labels that say which task it is: it is not the runtime that
/// says that.
fn sound(key: &TaskKey, mut samples: Vec<Sample>) -> Result<Vec<Sample>> {
    for sample in &mut samples {
        sample.labels.retain(|(name, _)| !matches!(name.as_str(), "id" | "namespace"));
        let whose = [("id", key.id.to_string()), ("namespace", key.namespace.to_string())];
        sample.labels.splice(0..0, whose.map(|(name, value)| (name.into(), value)));
        sample.check()?;
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::{ContainerId, Namespace};

    #[test]
    fn labels_say_whose_it_is() {
        let (namespace, id) = (Namespace::parse("default"), ContainerId::parse("web"));
        let key = TaskKey { namespace: namespace.unwrap(), id: id.unwrap() };
        let sample = Sample::gauge("a", "Help.", 1.0).with("id", "other").with("cpu", 3);
        let sound_one = sound(&key, vec![sample]).unwrap();
        let labels = [("id", "web"), ("namespace", "default"), ("cpu", "3")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(sound_one[0].labels, labels);
        assert!(sound(&key, vec![Sample::gauge("A", "Help.", 1.0)]).is_err());
    }
}
