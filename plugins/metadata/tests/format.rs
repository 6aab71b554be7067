//! Files of earlier builds are read; those of later ones are left alone.

use capstan_metadata::RedbMetadata;
use capstan_sdk::contract::Metadata;
use capstan_sdk::contract::metadata::{Audit, Get, Key, ReadLog};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Link, Namespace};
use redb::{Database, TableDefinition};

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// `Event`, as schema/capnp/event.capnp has it: topic "/t", all else empty.
const EVENT: [u8; 64] = {
    let mut bytes = [0; 64];
    bytes[4] = 7;
    bytes[12] = 2;
    bytes[14] = 3;
    // The pointer to the topic: a word behind itself, three bytes with the NUL.
    bytes[40] = 5;
    bytes[44] = 0x1a;
    bytes[56] = b'/';
    bytes[57] = b't';
    bytes
};

/// A database as a build with this format left it.
fn lay(bench: &Bench, version: u64) {
    let dir = bench.root().join("metadata.redb");
    std::fs::create_dir_all(&dir).unwrap();
    let database = Database::create(dir.join("metadata.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut records = write.open_table(RECORDS).unwrap();
        for number in 0..500_u32 {
            let key = format!("things\0a\0{number}");
            let value = format!("value {number}");
            records.insert(key.as_bytes(), value.as_bytes()).unwrap();
        }
        write.open_table(EVENTS).unwrap().insert(41, &EVENT[..]).unwrap();
        write.open_table(FORMAT).unwrap().insert("version", version).unwrap();
    }
    write.commit().unwrap();
}

#[test]
fn values_of_format_1_get_their_checksums() {
    run(|| async {
        let mut bench = Bench::new();
        lay(&bench, 1);
        for _ in 0..2 {
            bench.start::<RedbMetadata>("").await.unwrap();
            let link: Link<Metadata> = bench.link("metadata");
            for number in [0, 7, 499] {
                let key = Key::new("things", &Namespace::parse("a").unwrap(), number.to_string());
                let value = link.send(Get(key)).await.unwrap();
                assert_eq!(value, Some(format!("value {number}").into_bytes()));
            }
            let log = link.send(ReadLog { after: 0, limit: 10 }).await.unwrap();
            assert_eq!(log.events.len(), 1);
            assert_eq!((log.events[0].cursor, &*log.events[0].event.topic), (41, "/t"));
            assert_eq!(link.send(Audit { is_full: true }).await.unwrap(), []);
            bench.stop::<RedbMetadata>().await;
        }
    });
}

#[test]
fn a_later_format_is_refused_and_nothing_is_changed() {
    run(|| async {
        let mut bench = Bench::new();
        lay(&bench, 99);
        let error = bench.start::<RedbMetadata>("").await.unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.message().contains("format 99"), "{error}");
        let names = std::fs::read_dir(bench.root().join("metadata.redb")).unwrap();
        assert_eq!(names.count(), 1);
    });
}
