//! Collections that nobody asks for: by the clock, after removals, when space is short.

use std::time::Duration;

use capstan_integration::{FakeRegistry, Host};

use super::{assert_sound, blob_files, image, pull};

fn host(section: &str) -> Host {
    Host::with_config(&format!("[plugins.\"gc.local\"]\n{section}\n"))
}

fn is_empty(host: &Host) -> bool {
    blob_files(host).is_empty()
}

#[test]
fn by_default_nothing_is_collected_unasked() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    host.ok(&["images", "rm", &a]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(blob_files(&host).len(), 4);
}

#[test]
fn a_collection_comes_by_the_clock() {
    let registry = FakeRegistry::start();
    let host = host("interval_seconds = 1");
    let a = pull(&host, &registry, "a");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(blob_files(&host).len(), 4, "it takes nothing that is kept");
    host.ok(&["images", "rm", &a]);
    host.until("a collection", || is_empty(&host));
    assert_sound(&host);
}

#[test]
fn a_collection_comes_after_so_many_removals() {
    let registry = FakeRegistry::start();
    let host = host("after_removals = 3");
    let (a, b) = (pull(&host, &registry, "a"), pull(&host, &registry, "b"));
    host.ok(&["run", "--rm", &a, "true"]);
    host.ok(&["images", "rm", &a]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(blob_files(&host).len(), 7, "two are too few");
    host.ok(&["images", "rm", &b]);
    host.until("a collection", || is_empty(&host));
    assert_sound(&host);
    // The count begins anew, and a restart of the plugin does not end it.
    host.ok(&["plugins", "restart", "gc.local"]);
    let a = pull(&host, &registry, "a");
    host.ok(&["images", "rm", &a]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(blob_files(&host).len(), image("a").blobs.len());
    for id in ["one", "two"] {
        host.ok(&["leases", "create", "--id", id]);
        host.ok(&["leases", "rm", id]);
    }
    host.until("a collection", || is_empty(&host));
}

#[test]
fn a_collection_comes_when_space_is_short() {
    let registry = FakeRegistry::start();
    // Of a disk that has files on it less than all is free.
    let host = host("below_free_percent = 100\naudit_at_start = false");
    let a = pull(&host, &registry, "a");
    host.ok(&["images", "rm", &a]);
    host.until("a collection", || is_empty(&host));
    assert_sound(&host);
}

#[test]
fn a_setting_that_cannot_be_is_refused() {
    let mut host = Host::without_daemon(64);
    for (wrong, said) in [
        ("interval_seconds = -1", "-1"),
        ("below_free_percent = 101", "below_free_percent"),
        ("every = 5", "every"),
    ] {
        host.configure(&format!("[plugins.\"gc.local\"]\n{wrong}\n"));
        let log = host.try_start().expect_err("it must not start");
        assert!(log.contains(said), "{wrong}: {log}");

    }
}
