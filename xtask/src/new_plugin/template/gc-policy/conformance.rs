//! __KIND__.__NAME__ passes the suite of its kind.

use capstan_sdk::conformance::gc_policy;
use capstan_sdk::testing::{Bench, run};
use __CRATE__::__TYPE__;

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<__TYPE__>("").await.unwrap();
        gc_policy::run(&bench.link("gc-policy")).await;
    });
}
