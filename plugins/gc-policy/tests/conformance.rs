//! gc-policy.age passes the suite of its kind, whatever it is told to keep.

use capstan_gc_policy::AgePolicy;
use capstan_sdk::conformance::gc_policy;
use capstan_sdk::testing::{Bench, run};

#[test]
fn conformance() {
    run(|| async {
        for section in
            ["", "keep_seconds = 60", "keep_bytes = 3000000", "keep_seconds = 1\nkeep_bytes = 1"]
        {
            let mut bench = Bench::new();
            bench.start::<AgePolicy>(section).await.unwrap();
            gc_policy::run(&bench.link("gc-policy")).await;
        }
    });
}
