//! The suite of kind `sink`.

use crate::contract::Sink;
use crate::contract::events::{Event, NewEvent};
use crate::contract::sink::Deliver;
use crate::{Link, Namespace};

/// One sink under test.
struct Suite<'a> {
    link: &'a Link<Sink>,
    read: &'a dyn Fn() -> Vec<u64>,
}

/// Runs all cases on a sink that has nothing yet. `read` gives the cursors of the events that the sink
/// has, in the order in which it has them.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<Sink>, read: impl Fn() -> Vec<u64>) {
    let suite = Suite { link, read: &read };
    suite.nothing_is_fine().await;
    suite.an_answer_means_that_it_has_them().await;
    suite.a_repeat_loses_nothing().await;
    suite.cursors_may_have_gaps().await;
    suite.any_text_goes_in().await;
}

impl Suite<'_> {
    async fn deliver(&self, cursors: &[u64]) {
        let namespace = Namespace::parse("conformance").expect("a name");
        let event = |&cursor| Event {
            cursor,
            time_unix_ns: 1_700_000_000_000_000_000,
            event: NewEvent::new(&namespace, "/conformance/case").with("cursor", cursor),
        };
        let events = cursors.iter().map(event).collect();
        self.link.send(Deliver(events)).await.expect("deliver");
    }

    /// Checks what the sink has. At least once: a repeat may show, but order must not suffer by it.
    fn check(&self, want: &[u64]) {
        let mut first_seen = Vec::new();
        for cursor in (self.read)() {
            if !first_seen.contains(&cursor) {
                first_seen.push(cursor);
            }
        }
        assert_eq!(first_seen, want);
    }

    async fn nothing_is_fine(&self) {
        self.deliver(&[]).await;
        self.check(&[]);
    }

    async fn an_answer_means_that_it_has_them(&self) {
        self.deliver(&[1, 2]).await;
        self.check(&[1, 2]);
    }

    /// The answer to a batch was lost, and the caller goes on with what it has by then.
    async fn a_repeat_loses_nothing(&self) {
        self.deliver(&[1, 2]).await;
        self.check(&[1, 2]);
        self.deliver(&[2, 3]).await;
        self.check(&[1, 2, 3]);
        self.deliver(&[]).await;
        self.check(&[1, 2, 3]);
    }

    /// Events that were trimmed before they were delivered.
    async fn cursors_may_have_gaps(&self) {
        self.deliver(&[10, 20]).await;
        self.check(&[1, 2, 3, 10, 20]);
    }

    async fn any_text_goes_in(&self) {
        let event = NewEvent { namespace: None, topic: "/\"\n\u{0}\u{e9}".into(), fields: vec![] }
            .with("", "\\\r\n\t\u{1f6a2}")
            .with("long", "x".repeat(100_000));
        let event = Event { cursor: 21, time_unix_ns: i64::MIN, event };
        self.link.send(Deliver(vec![event])).await.expect("deliver any text");
        self.check(&[1, 2, 3, 10, 20, 21]);
    }
}
