//! __KIND__.__NAME__ passes the suite of its kind. It mounts, so root has to run it.

use capstan_sdk::conformance::snapshotter;
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::testing_metadata::MemoryMetadata;
use __CRATE__::__TYPE__;

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<MemoryMetadata>("").await.unwrap();
        bench.start::<__TYPE__>("").await.unwrap();
        let place = bench.path("mnt");
        std::fs::create_dir(&place).unwrap();
        snapshotter::run(&bench.link("snapshotter"), &place).await;
    });
}
