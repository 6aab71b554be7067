//! What metadata.redb makes of damaged files: it starts, and has what either of its two copies still has.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{Audit, Commit, Key, ReadLog, ScanAll, Step};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Link, Namespace};

const PAGE: usize = 4096;

type Records = BTreeMap<Key, Vec<u8>>;

fn key(number: usize) -> Key {
    let namespace = Namespace::parse(&format!("ns{}", number % 5)).unwrap();
    Key::new("things", &namespace, format!("name-{number}"))
}

fn put(number: usize, value: String) -> Step {
    Step::Put { key: key(number), value: value.into_bytes() }
}

async fn commit(link: &Link<Metadata>, steps: Vec<Step>) -> u64 {
    let event = NewEvent { namespace: None, topic: "/t".into(), fields: vec![] };
    link.send(Commit { steps, events: vec![event] }).await.unwrap()
}

async fn records(link: &Link<Metadata>) -> Records {
    link.send(ScanAll("things".into())).await.unwrap().into_iter().collect()
}

/// A store that was stopped in order, what it has, and its files.
struct Sample {
    bench: Bench,
    records: Records,
    cursor: u64,
    database: Vec<u8>,
    journal: Vec<u8>,
}

impl Sample {
    async fn new(count: usize) -> Self {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        let link = bench.link("metadata");
        let mut cursor = 0;
        for first in (0..count).step_by(50) {
            let value = |number| format!("value of {number} {}", "x".repeat(number % 300));
            let steps = (first..first + 50).map(|number| put(number, value(number))).collect();
            cursor = commit(&link, steps).await;
        }
        for number in (0..count).step_by(7) {
            let steps = vec![Step::Delete(key(number)), put(number + 1, format!("new {number}"))];
            cursor = commit(&link, steps).await;
        }
        let records = records(&link).await;
        bench.stop::<RedbMetadata>().await;
        let mut sample = Self { bench, records, cursor, database: vec![], journal: vec![] };
        sample.database = fs::read(sample.path("metadata.redb")).unwrap();
        sample.journal = fs::read(sample.path("metadata.journal")).unwrap();
        sample
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.root().join("metadata.redb").join(name)
    }

    /// The files as they were, but for `database` and `journal`.
    fn lay(&self, database: &[u8], journal: &[u8]) {
        let dir = self.path("");
        for entry in fs::read_dir(&dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::write(self.path("metadata.redb"), database).unwrap();
        fs::write(self.path("metadata.journal"), journal).unwrap();
    }

    /// Starts with these files. What there is then, and the text of all findings.
    async fn start(&mut self, database: &[u8], journal: &[u8]) -> (Records, String) {
        self.lay(database, journal);
        self.bench.start::<RedbMetadata>("").await.expect("it starts, whatever is damaged");
        let link: Link<Metadata> = self.bench.link("metadata");
        let found = records(&link).await;
        // It can be written, and cursors do not go back.
        let cursor = commit(&link, vec![put(1_000_000, "after".into())]).await;
        assert!(cursor > self.cursor, "{cursor} after {}", self.cursor);
        let log = link.send(ReadLog { after: cursor - 1, limit: 10 }).await.unwrap();
        assert_eq!(log.events.len(), 1);
        let findings = link.send(Audit { is_full: true }).await.unwrap();
        let text = findings.iter().map(|found| format!("{found:?}\n")).collect();
        self.bench.stop::<RedbMetadata>().await;
        (found, text)
    }
}

fn flip(bytes: &[u8], page: usize) -> Vec<u8> {
    let mut bad = bytes.to_vec();
    bad.iter_mut().skip(page * PAGE).take(PAGE).for_each(|byte| *byte ^= 0xFF);
    bad
}

#[test]
fn any_page_of_the_database_may_be_damaged() {
    run(|| async {
        let mut sample = Sample::new(2000).await;
        let (database, journal) = (sample.database.clone(), sample.journal.clone());
        let mut rebuilt = 0;
        for page in 0..database.len().div_ceil(PAGE) {
            let (found, text) = sample.start(&flip(&database, page), &journal).await;
            assert!(found == sample.records, "page {page}: {} records", found.len());
            rebuilt += usize::from(text.contains("rebuilt with"));
        }
        assert!(rebuilt > 50, "{rebuilt} of {} pages", database.len() / PAGE);
    });
}

#[test]
fn any_page_of_the_journal_may_be_damaged() {
    run(|| async {
        let mut sample = Sample::new(2000).await;
        let (database, journal) = (sample.database.clone(), sample.journal.clone());
        for page in 0..journal.len().div_ceil(PAGE) {
            let (found, text) = sample.start(&database, &flip(&journal, page)).await;
            assert!(found == sample.records, "page {page}");
            // The end alone may also be cut off by a power cut: that is no damage.
            let is_end = (page + 2) * PAGE > journal.len();
            assert!(is_end || text.contains("nothing is lost"), "page {page}: {text}");
            // It was made anew: with it alone everything is back.
            let made = fs::read(sample.path("metadata.journal")).unwrap();
            let (mut found, _) = sample.start(&[], &made).await;
            found.remove(&key(1_000_000));
            assert!(found == sample.records, "page {page}, from the new journal");
        }
    });
}

#[test]
fn a_database_may_be_cut_off_empty_or_gone() {
    run(|| async {
        let mut sample = Sample::new(500).await;
        let (database, journal) = (sample.database.clone(), sample.journal.clone());
        let mut check = async |database: &[u8]| {
            let (found, text) = sample.start(database, &journal).await;
            assert!(found == sample.records, "{} bytes: {text}", database.len());
        };
        for part in 0..24 {
            check(&database[..database.len() * part / 24 + part * 7]).await;
        }
        check(&vec![0; database.len()]).await;
        check(&[0; 100]).await;
        check(b"not a database").await;

        // A cut-off journal is caught up.
        for part in 0..24 {
            let (found, _) = sample.start(&database, &journal[..journal.len() * part / 24]).await;
            assert!(found == sample.records);
        }
    });
}

#[test]
fn of_two_damaged_files_everything_readable_is_kept_and_the_rest_is_told() {
    run(|| async {
        let mut sample = Sample::new(500).await;
        let (database, journal) = (sample.database.clone(), sample.journal.clone());
        let pages = database.len() / PAGE;
        let mut best = 0;
        for step in 0..40 {
            let bad_database = flip(&database, step * pages / 40);
            let bad_journal = flip(&journal, step * (journal.len() / PAGE) / 40);
            let (found, text) = sample.start(&bad_database, &bad_journal).await;
            for (key, value) in &found {
                // An old value is possible where the newest is lost; a wrong one is not.
                let text = String::from_utf8_lossy(value);
                let is_ours = text.starts_with("value of") || text.starts_with("new ");
                assert!(is_ours, "{key:?}: {text}");
            }
            if text.contains("the journal is damaged") {
                assert!(text.contains("may be back"), "{text}");
            }
            best = best.max(found.len());
        }
        assert!(best >= sample.records.len(), "{best}");
        let (found, text) = sample.start(&[7; 9000], &[7; 9000]).await;
        assert!(found.is_empty());
        assert!(text.contains("rebuilt with 0 records"), "{text}");
    });
}

/// The journal is synced once a second, so after a power cut it may be behind. What the database alone has is not given
/// up then for the sake of a journal that is without a flaw, whichever page is damaged.
#[test]
fn a_journal_that_is_behind_does_not_take_the_place_of_what_the_database_has() {
    run(|| async {
        const LATE: usize = 60;
        let mut sample = Sample::new(500).await;
        let behind = sample.journal.clone();
        sample.bench.start::<RedbMetadata>("").await.unwrap();
        let link: Link<Metadata> = sample.bench.link("metadata");
        for number in 0..LATE {
            let steps = vec![
                put(10_000 + number * 100, format!("new {number}")),
                Step::Delete(key(number * 7 + 1)),
            ];
            sample.cursor = commit(&link, steps).await;
        }
        sample.records = records(&link).await;
        sample.bench.stop::<RedbMetadata>().await;
        let closed = fs::read(sample.path("metadata.redb")).unwrap();
        // As an end that was not orderly leaves the one, and an orderly one a journal that could not be written.
        let mut open = closed.clone();
        open[9] |= 2;
        let torn = [&behind[..], &[0]].concat();
        for (database, behind) in [(closed, torn), (open, behind)] {
            let (mut rebuilt, mut complete) = (0, 0);
            for page in 1..database.len().div_ceil(PAGE) {
                let (found, text) = sample.start(&flip(&database, page), &behind).await;
                let is_late = |number: &usize| found.contains_key(&key(10_000 + number * 100));
                let late = (0..LATE).filter(is_late).count();
                if text.contains("rebuilt with") {
                    rebuilt += 1;
                    complete += usize::from(late == LATE);
                } else {
                    assert!(found == sample.records, "page {page}");
                }
            }
            // Those in which the newest records lie themselves, and those without which nothing is found.
            assert!(rebuilt > 40 && rebuilt - complete <= 10, "{complete} of {rebuilt}");
        }
    });
}

/// What a journal lacks at an orderly end, it does not hide: that end would make it count as complete.
#[test]
fn a_journal_that_is_behind_at_the_end_looks_cut_off() {
    run(|| async {
        let mut sample = Sample::new(50).await;
        let behind = sample.journal.clone();
        let (found, _) = sample.start(&sample.database.clone(), &behind).await;
        assert!(found == sample.records);
        // It cannot be made anew.
        let database = fs::read(sample.path("metadata.redb")).unwrap();
        sample.lay(&database, &behind);
        fs::create_dir(sample.path("metadata.journal.new")).unwrap();
        sample.bench.start::<RedbMetadata>("").await.unwrap();
        commit(&sample.bench.link("metadata"), vec![put(1_000_001, "later".into())]).await;
        sample.bench.stop::<RedbMetadata>().await;
        let left = fs::read(sample.path("metadata.journal")).unwrap();
        assert!(left == [&behind[..], &[0]].concat(), "{} and {} bytes", behind.len(), left.len());
    });
}

#[test]
fn damage_met_while_it_runs_ends_the_plugin_and_the_next_one_rebuilds() {
    use std::os::unix::fs::FileExt as _;
    run(|| async {
        let mut sample = Sample::new(2000).await;
        let (database, journal) = (sample.database.clone(), sample.journal.clone());
        sample.lay(&database, &journal);
        // A small cache, so that records are read from the file.
        sample.bench.start::<RedbMetadata>("cache_mib = 0").await.unwrap();
        let file = fs::OpenOptions::new().write(true).open(sample.path("metadata.redb")).unwrap();
        let garbage = vec![0xAA; database.len() - 4 * PAGE];
        file.write_all_at(&garbage, 4 * PAGE as u64).unwrap();
        let link: Link<Metadata> = sample.bench.link("metadata");
        let error = link.send(ScanAll("things".into())).await.unwrap_err();
        assert_eq!(error.class(), capstan_sdk::Class::Unavailable, "{error}");
        assert!(sample.path("metadata.suspect").exists());
        sample.bench.stop::<RedbMetadata>().await;
        sample.bench.start::<RedbMetadata>("").await.unwrap();
        assert!(records(&link).await == sample.records);
        assert!(!sample.path("metadata.suspect").exists());
    });
}
