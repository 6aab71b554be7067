//! __KIND__.__NAME__ passes the suite of its kind.

use capstan_sdk::conformance::sink;
use capstan_sdk::testing::{Bench, run};
use __CRATE__::{__TYPE__, cursors};

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<__TYPE__>("").await.unwrap();
        sink::run(&bench.link("sink"), cursors).await;
    });
}
