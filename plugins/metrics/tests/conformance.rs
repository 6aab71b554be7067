//! metrics.process passes the suite of its kind, and what it says can be believed.

use std::collections::BTreeMap;
use std::fs::File;

use capstan_metrics::ProcessMetrics;
use capstan_sdk::conformance::metrics;
use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::Collect;
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Link, clock};

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<ProcessMetrics>("").await.unwrap();
        metrics::run(&bench.link("metrics")).await;
    });
}

async fn values(link: &Link<Metrics>) -> BTreeMap<String, f64> {
    let samples = link.send(Collect).await.unwrap();
    samples.into_iter().map(|sample| (sample.name, sample.value)).collect()
}

#[test]
fn it_measures_this_process() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<ProcessMetrics>("").await.unwrap();
        let link = bench.link("metrics");
        let before = values(&link).await;
        let files: Vec<File> = (0..5).map(|_| File::open("/dev/null").unwrap()).collect();
        let memory = vec![1u8; 64 << 20];
        let after = values(&link).await;
        drop(files);
        let grown = |name: &str| after[name] - before[name];
        assert_eq!(grown("capstan_process_open_descriptors"), 5.0);
        let resident = grown("capstan_process_resident_bytes");
        assert!(resident > 60e6, "{resident} for {} bytes", memory.len());
        assert!(grown("capstan_process_pss_bytes") > 60e6);
        assert!(after["capstan_process_threads"] >= 1.0);
        let now = clock::now_unix_ns() / 1_000_000_000;
        let started = after["capstan_process_start_time_seconds"];
        let age = std::time::Duration::from_secs(now.unsigned_abs()).as_secs_f64() - started;
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
    });
}
