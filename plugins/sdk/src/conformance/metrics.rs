//! The suite of kind `metrics`.

use std::collections::BTreeMap;

use crate::Link;
use crate::contract::Metrics;
use crate::contract::metrics::{Collect, Kind, Sample};

/// Runs all cases.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<Metrics>) {
    let before = collect(link).await;
    let after = collect(link).await;
    counters_do_not_fall(&before, &after);
    a_name_has_one_kind_and_one_help(&after);
    collecting_at_the_same_time_is_fine(link).await;
}

type Samples = BTreeMap<(String, Vec<(String, String)>), Sample>;

/// All samples by name and labels; each is sound and there once.
async fn collect(link: &Link<Metrics>) -> Samples {
    let mut samples = Samples::new();
    for sample in link.send(Collect).await.expect("collect") {
        sample.check().expect("a sound sample");
        let mut labels = sample.labels.clone();
        labels.sort();
        if let Some(other) = samples.insert((sample.name.clone(), labels), sample) {
            panic!("{} is there twice with the labels {:?}", other.name, other.labels);
        }
    }
    samples
}

fn counters_do_not_fall(before: &Samples, after: &Samples) {
    for (key, old) in before.iter().filter(|(_, sample)| sample.kind == Kind::Counter) {
        let new = after.get(key).unwrap_or_else(|| panic!("counter {} is gone", old.name));
        assert!(new.value >= old.value, "{} fell: {} -> {}", old.name, old.value, new.value);
    }
}

fn a_name_has_one_kind_and_one_help(samples: &Samples) {
    let mut about = BTreeMap::new();
    for sample in samples.values() {
        let this = (sample.kind, sample.help.as_str());
        let first = *about.entry(sample.name.as_str()).or_insert(this);
        assert_eq!(this, first, "{} is described in two ways", sample.name);
    }
}

async fn collecting_at_the_same_time_is_fine(link: &Link<Metrics>) {
    let both = futures::future::join(collect(link), collect(link)).await;
    counters_do_not_fall(&both.0, &collect(link).await);
}
