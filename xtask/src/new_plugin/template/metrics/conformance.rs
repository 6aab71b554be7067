//! __KIND__.__NAME__ passes the suite of its kind.

use capstan_sdk::conformance::metrics;
use capstan_sdk::testing::{Bench, run};
use __CRATE__::__TYPE__;

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<__TYPE__>("").await.unwrap();
        metrics::run(&bench.link("metrics")).await;
    });
}
