//! __KIND__.__NAME__ passes the suite of its kind.

use __CRATE__::__TYPE__;
use capstan_sdk::conformance::verifier;
use capstan_sdk::testing::{Bench, run};

#[test]
fn conformance() {
    run(|| async {
        for section in ["", "refused = [\"registry.example\"]"] {
            let mut bench = Bench::new();
            bench.start::<__TYPE__>(section).await.unwrap();
            verifier::run(&bench.link("verifier")).await;
        }
    });
}
