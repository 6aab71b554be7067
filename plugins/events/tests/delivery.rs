//! delivery.log: a sink gets every event, in order, at least once, whatever fails on the way.

use std::cell::RefCell;
use std::time::Duration;

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_events::{EventLog, LogDelivery};
use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::events::{NewEvent, Publish, Read};
use capstan_sdk::contract::metadata::{Get, Key};
use capstan_sdk::contract::sink::{Deliver, SinkAddr};
use capstan_sdk::contract::{Events, Metadata, Sink};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Context, Error, Exports, Info, Plugin, Result};
use tokio::sync::mpsc;

thread_local! {
    /// Where the sink under test tells what it was asked to take.
    static ASKED: RefCell<Option<mpsc::UnboundedSender<Vec<u64>>>> = const { RefCell::new(None) };
}

/// A sink that refuses the first few batches.
struct Picky {
    refusals: u32,
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct Config {
    refusals: u32,
}

impl Plugin for Picky {
    const INFO: Info =
        Info { id: "sink.picky", version: "0", about: "for a test", requires: &[], rank: 0 };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        Ok(Self { refusals: config.refusals })
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        exports.contract::<Sink>(SinkAddr::from(addr));
    }
}

impl Actor for Picky {
    type Context = Cell<Self>;
}

impl Handler<Deliver> for Picky {
    type Result = Result<()>;
    fn handle(&mut self, Deliver(events): Deliver, _: &mut Cell<Self>) -> Self::Result {
        let cursors = events.iter().map(|event| event.cursor).collect();
        ASKED.with_borrow(|asked| asked.as_ref().unwrap().send(cursors).unwrap());
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err(Error::exhausted("no space"));
        }
        Ok(())
    }
}

type Asked = mpsc::UnboundedReceiver<Vec<u64>>;

/// Metadata and log, with an event in it that is older than every sink.
async fn bench() -> (Bench, Asked) {
    let (sender, asked) = mpsc::unbounded_channel();
    ASKED.set(Some(sender));
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    bench.start::<EventLog>("").await.unwrap();
    assert_eq!(publish(&bench, 1).await, 1);
    (bench, asked)
}

/// Logs so many events; answers the cursor of the last.
async fn publish(bench: &Bench, count: usize) -> u64 {
    let event = NewEvent { namespace: None, topic: "/test".into(), fields: vec![] };
    bench.link::<Events>("events").send(Publish(vec![event; count])).await.unwrap()
}

async fn next(asked: &mut Asked) -> Vec<u64> {
    tokio::time::timeout(Duration::from_secs(30), asked.recv()).await.expect("a batch").unwrap()
}

/// Waits until the record of the sink is no longer `old`; answers what it is.
async fn record(bench: &Bench, old: &Option<Vec<u8>>) -> Option<Vec<u8>> {
    let key = Key::global("delivery", "sink.picky");
    let metadata = bench.link::<Metadata>("metadata");
    loop {
        let now = metadata.send(Get(key.clone())).await.unwrap();
        if now != *old {
            return now;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_new_sink_begins_at_the_present_and_a_restart_goes_on() {
    run(|| async {
        let (mut bench, mut asked) = bench().await;
        bench.start::<Picky>("").await.unwrap();
        bench.start::<LogDelivery>("").await.unwrap();
        let start = record(&bench, &None).await;
        publish(&bench, 3).await;
        assert_eq!(next(&mut asked).await, [2, 3, 4]);
        record(&bench, &start).await;

        // What happens while nobody delivers comes later.
        bench.stop::<LogDelivery>().await;
        publish(&bench, 2).await;
        bench.start::<LogDelivery>("").await.unwrap();
        assert_eq!(next(&mut asked).await, [5, 6]);
    });
}

#[test]
fn a_sink_that_comes_later_is_found() {
    run(|| async {
        let (mut bench, mut asked) = bench().await;
        bench.start::<LogDelivery>("").await.unwrap();
        bench.start::<Picky>("").await.unwrap();
        record(&bench, &None).await;
        publish(&bench, 1).await;
        assert_eq!(next(&mut asked).await, [2]);
    });
}

#[test]
fn what_a_sink_refused_comes_again_and_then_the_rest() {
    run(|| async {
        let (mut bench, mut asked) = bench().await;
        bench.start::<Picky>("refusals = 2").await.unwrap();
        bench.start::<LogDelivery>("").await.unwrap();
        record(&bench, &None).await;
        publish(&bench, 1).await;
        assert_eq!(next(&mut asked).await, [2]);
        publish(&bench, 600).await;
        for _ in 0..2 {
            assert_eq!(next(&mut asked).await, [2], "the same batch");
        }
        let mut cursors = Vec::new();
        while cursors.len() < 600 {
            let batch = next(&mut asked).await;
            assert!(batch.len() <= 256, "{}", batch.len());
            cursors.extend(batch);
        }
        assert_eq!(cursors, (3..=602).collect::<Vec<u64>>());
    });
}

#[test]
fn a_sink_that_is_down_gets_all_when_it_is_back() {
    run(|| async {
        let (mut bench, mut asked) = bench().await;
        bench.start::<Picky>("").await.unwrap();
        bench.start::<LogDelivery>("").await.unwrap();
        record(&bench, &None).await;
        bench.stop::<Picky>().await;
        let last = publish(&bench, 2).await;
        let read = Read { after: 1, limit: 10, filter: Default::default() };
        let log = bench.link::<Events>("events").send(read).await.unwrap();
        assert_eq!(log.cursor, last, "the log does not wait for it");
        bench.start::<Picky>("").await.unwrap();
        assert_eq!(next(&mut asked).await, [2, 3]);
    });
}
