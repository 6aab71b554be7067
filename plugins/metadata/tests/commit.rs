//! The contract of kind `metadata`, as metadata.redb keeps it.

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{
    Commit, Get, Key, ReadLog, Scan, ScanAll, Step, TrimLog, WatchLog,
};
use capstan_sdk::contract::{Metadata, Page};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Error, Link, Namespace};

async fn bench() -> (Bench, Link<Metadata>) {
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    let link = bench.link("metadata");
    (bench, link)
}

fn ns(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

fn key(namespace: &str, name: &str) -> Key {
    Key::new("things", &ns(namespace), name)
}

fn put(key: &Key, value: &str) -> Step {
    Step::Put { key: key.clone(), value: value.as_bytes().to_vec() }
}

fn steps(steps: Vec<Step>) -> Commit {
    Commit { steps, events: vec![] }
}

async fn names(link: &Link<Metadata>, namespace: &str, page: Page) -> String {
    let scan = Scan { bucket: "things".into(), namespace: Some(ns(namespace)), page };
    let found = link.send(scan).await.unwrap();
    found.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_was_put_is_there_in_order_and_per_namespace() {
    run(|| async {
        let (_bench, link) = bench().await;
        for (namespace, name) in [("a", "y"), ("a", "x"), ("b", "z"), ("a", "x/1"), ("aa", "q")] {
            link.send(steps(vec![put(&key(namespace, name), name)])).await.unwrap();
        }
        assert_eq!(names(&link, "a", Page::all()).await, "x x/1 y");
        assert_eq!(names(&link, "a", Page::new("x", 1)).await, "x/1");
        assert_eq!(names(&link, "b", Page::all()).await, "z");
        assert_eq!(names(&link, "c", Page::all()).await, "");
        let all = link.send(ScanAll("things".into())).await.unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(link.send(Get(key("a", "y"))).await.unwrap(), Some(b"y".to_vec()));
        link.send(steps(vec![Step::Delete(key("a", "y"))])).await.unwrap();
        assert_eq!(link.send(Get(key("a", "y"))).await.unwrap(), None);
    });
}

#[test]
fn a_failed_guard_undoes_everything() {
    run(|| async {
        let (_bench, link) = bench().await;
        let (one, two) = (key("a", "1"), key("a", "2"));
        link.send(steps(vec![put(&one, "v")])).await.unwrap();
        let check = async |guard: Step, class: Class| {
            let commit = Commit {
                steps: vec![put(&two, "new"), guard],
                events: vec![NewEvent::new(&ns("a"), "/never")],
            };
            assert_eq!(link.send(commit).await.unwrap_err().class(), class);
            assert_eq!(link.send(Get(two.clone())).await.unwrap(), None);
        };
        check(Step::absent(one.clone(), Error::already_exists("x")), Class::AlreadyExists).await;
        check(Step::present(two.clone(), Error::not_found("x")), Class::NotFound).await;
        check(Step::unchanged(one.clone(), b"other".to_vec()), Class::Aborted).await;
        check(Step::unchanged(two.clone(), b"v".to_vec()), Class::Aborted).await;
        check(Step::GuardEmpty(ns("a")), Class::FailedPrecondition).await;
        check(put(&key("a", ""), ""), Class::InvalidArgument).await;
        check(put(&key("a", "x\0y"), ""), Class::InvalidArgument).await;
        let log = link.send(ReadLog { after: 0, limit: 100 }).await.unwrap();
        assert!(log.events.iter().all(|event| event.event.topic != "/never"));
        link.send(steps(vec![Step::unchanged(one, b"v".to_vec()), put(&two, "w")])).await.unwrap();
        assert_eq!(link.send(Get(two)).await.unwrap(), Some(b"w".to_vec()));
    });
}

#[test]
fn a_namespace_is_made_by_the_first_thing_in_it() {
    run(|| async {
        let (_bench, link) = bench().await;
        let record = Key::global("namespaces", "a");
        assert_eq!(link.send(Get(record.clone())).await.unwrap(), None);
        for _ in 0..2 {
            link.send(steps(vec![put(&key("a", "1"), "v")])).await.unwrap();
            assert!(link.send(Get(record.clone())).await.unwrap().is_some());
            // Emptied and removed, it comes back with the next thing.
            let remove = vec![Step::Delete(key("a", "1"))];
            link.send(steps(remove)).await.unwrap();
            let remove = vec![Step::GuardEmpty(ns("a")), Step::Delete(record.clone())];
            link.send(steps(remove)).await.unwrap();
            assert_eq!(link.send(Get(record.clone())).await.unwrap(), None);
        }
        let log = link.send(ReadLog { after: 0, limit: 100 }).await.unwrap();
        let topics: Vec<&str> = log.events.iter().map(|e| e.event.topic.as_str()).collect();
        assert_eq!(topics, ["/namespaces/create", "/namespaces/create"]);
    });
}

#[test]
fn the_log_has_one_order_and_says_what_was_trimmed() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let head = link.send(WatchLog).await.unwrap();
        assert_eq!(*head.borrow(), 0);
        for number in 0..10 {
            let event = NewEvent { namespace: None, topic: "/t".into(), fields: vec![] }
                .with("number", number);
            link.send(Commit { steps: vec![], events: vec![event] }).await.unwrap();
        }
        assert_eq!(*head.borrow(), 10);
        let log = link.send(ReadLog { after: 3, limit: 2 }).await.unwrap();
        assert_eq!(log.events.iter().map(|e| e.cursor).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(log.events[0].event.fields, [("number".to_owned(), "3".to_owned())]);
        assert_eq!(log.missed, 0);

        link.send(TrimLog(6)).await.unwrap();
        let log = link.send(ReadLog { after: 3, limit: 2 }).await.unwrap();
        assert_eq!((log.missed, log.events[0].cursor), (3, 7));
        link.send(TrimLog(u64::MAX)).await.unwrap();
        let log = link.send(ReadLog { after: 0, limit: 100 }).await.unwrap();
        assert_eq!((log.missed, log.events.len()), (9, 1));

        // Cursors go on after a restart, even when almost everything was trimmed.
        bench.stop::<RedbMetadata>().await;
        bench.start::<RedbMetadata>("").await.unwrap();
        let event = NewEvent { namespace: None, topic: "/t".into(), fields: vec![] };
        let cursor = link.send(Commit { steps: vec![], events: vec![event] }).await.unwrap();
        assert_eq!(cursor, 11);
    });
}

#[test]
fn many_writers_are_all_answered_and_all_kept() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let write =
            |number: usize| link.send(steps(vec![put(&key("a", &number.to_string()), "v")]));
        let answers = futures::future::join_all((0..1000).map(write)).await;
        assert!(answers.iter().all(Result::is_ok));
        bench.stop::<RedbMetadata>().await;
        bench.start::<RedbMetadata>("").await.unwrap();
        assert_eq!(link.send(ScanAll("things".into())).await.unwrap().len(), 1000);
    });
}

#[test]
fn two_writers_of_one_name_have_one_winner() {
    run(|| async {
        let (_bench, link) = bench().await;
        let claim = |number: usize| {
            let error = Error::already_exists("taken");
            let guard = Step::absent(key("a", "name"), error);
            link.send(steps(vec![guard, put(&key("a", "name"), &number.to_string())]))
        };
        let answers = futures::future::join_all((0..100).map(claim)).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    });
}

/// A peer may name any cursor: the last number that there is overflowed once.
#[test]
fn a_cursor_behind_all_others_reads_nothing() {
    run(|| async {
        let (_bench, link) = bench().await;
        let events = vec![NewEvent::new(&ns("a"), "/x")];
        link.send(Commit { steps: vec![], events }).await.unwrap();
        let log = link.send(ReadLog { after: u64::MAX, limit: 100 }).await.unwrap();
        assert!(log.events.is_empty(), "{log:?}");
    });
}
