//! sink.file passes the suite of its kind, and writes nothing unless it is told to.

use capstan_sdk::conformance::sink;
use capstan_sdk::contract::Sink;
use capstan_sdk::contract::events::{Event, NewEvent};
use capstan_sdk::contract::sink::Deliver;
use capstan_sdk::testing::{Bench, run};
use capstan_sink_file::FileSink;

#[test]
fn conformance() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<FileSink>("enabled = true").await.unwrap();
        let path = bench.root().join("sink.file/events.jsonl");
        let read = || {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            lines.map(|line: serde_json::Value| line["cursor"].as_u64().unwrap()).collect()
        };
        sink::run(&bench.link("sink"), read).await;
    });
}

#[test]
fn it_is_off_by_default() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<FileSink>("").await.unwrap();
        let event = NewEvent { namespace: None, topic: "/x".into(), fields: vec![] };
        let event = Event { cursor: 1, time_unix_ns: 1, event };
        bench.link::<Sink>("sink").send(Deliver(vec![event])).await.unwrap();
        assert_eq!(std::fs::read_dir(bench.root()).unwrap().count(), 0);
    });
}
