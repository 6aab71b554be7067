//! Damaged metadata: the daemon starts, and has what it had.

use std::fs;
use std::path::PathBuf;

use capstan_integration::{FakeRegistry, Host, Image, Layer, Random};

const PAGE: usize = 4096;

fn rounds() -> u64 {
    std::env::var("CAPSTAN_ROUNDS")
        .map_or(15, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"))
}

fn file(host: &Host, name: &str) -> PathBuf {
    host.root().join("metadata.redb").join(name)
}

/// What a user sees.
fn view(host: &Host) -> String {
    let mut text = String::new();
    for args in [
        &["images", "ls"][..],
        &["snapshots", "ls"],
        &["containers", "ls"],
        &["namespaces", "ls"],
        &["content", "ls", "-q"],
        &["-n", "other", "containers", "ls"],
    ] {
        text.push_str(&host.ok(args));
    }
    text
}

/// A host with some of everything, stopped, and what a user saw.
fn stopped() -> (Host, FakeRegistry, String) {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![Layer::new().busybox(), Layer::new().file("f", 0o644, b"x")]);
    let reference = registry.offer("app", &image);
    let mut host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    host.ok(&["-n", "other", "images", "pull", "--plain-http", &reference]);
    for number in 0..20 {
        let id = format!("c{number}");
        let label = format!("number={number}");
        let namespace = if number % 4 == 0 { "other" } else { "default" };
        host.ok(&[
            "-n",
            namespace,
            "containers",
            "create",
            "--label",
            &label,
            &id,
            &reference,
            "true",
        ]);
        host.ok(&["images", "tag", &reference, &format!("localhost/tag:{number}")]);
    }
    host.ok(&["namespaces", "create", "empty", "a=b"]);
    let seen = view(&host);
    host.stop();
    (host, registry, seen)
}

/// Starts on files as they are laid, looks, and stops.
fn check(host: &mut Host, seen: &str, what: &str) {
    host.clear_log();
    host.start();
    assert_eq!(view(host), seen, "{what}");
    host.ok(&["namespaces", "label", "empty", "a=b"]);
    host.stop();
    let log = host.log();
    assert!(!log.contains("panicked"), "{what}: {log}");
}

#[test]
fn any_page_of_the_metadata_may_be_flipped() {
    let (mut host, _registry, seen) = stopped();
    let mut random = Random::new();
    let mut rebuilt = 0;
    for _ in 0..rounds() {
        let path = file(&host, "metadata.redb");
        let mut bytes = fs::read(&path).unwrap();
        let page = usize::try_from(random.below((bytes.len() / PAGE) as u64)).unwrap();
        bytes[page * PAGE..][..PAGE].iter_mut().for_each(|byte| *byte ^= 0xFF);
        fs::write(&path, bytes).unwrap();
        check(&mut host, &seen, &format!("page {page}"));
        rebuilt += usize::from(host.log().contains("rebuilt with"));
    }
    eprintln!("rebuilt {rebuilt} times in {} rounds", rounds());
    assert!(rebuilt > 0, "no page in {} was of any use", rounds());
    // The damaged files are kept, with a report each.
    let names = fs::read_dir(file(&host, "")).unwrap();
    let names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let reports = names.iter().filter(|name| name.ends_with(".report")).count();
    assert_eq!(reports, rebuilt, "{names:?}");
}

#[test]
fn a_metadata_file_may_be_cut_off_empty_or_gone() {
    let (mut host, _registry, seen) = stopped();
    let path = file(&host, "metadata.redb");
    let len = fs::metadata(&path).unwrap().len();
    for cut in [0, 1, 4096, len / 2, len - 1] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        check(&mut host, &seen, &format!("{cut} bytes"));
    }
    fs::write(&path, vec![0; 100_000]).unwrap();
    check(&mut host, &seen, "zeros");
    fs::remove_file(&path).unwrap();
    check(&mut host, &seen, "gone");
    fs::write(file(&host, "metadata.journal"), b"not a journal at all").unwrap();
    check(&mut host, &seen, "the journal");
    fs::remove_file(file(&host, "metadata.journal")).unwrap();
    check(&mut host, &seen, "no journal");
    // It was made anew each time.
    fs::remove_file(&path).unwrap();
    check(&mut host, &seen, "gone once more");
}

/// With both damaged something may be lost; the daemon starts, and says so.
#[test]
fn both_copies_may_be_damaged() {
    let (mut host, _registry, _) = stopped();
    for name in ["metadata.redb", "metadata.journal"] {
        fs::write(file(&host, name), vec![0x5A; 50_000]).unwrap();
    }
    host.start();
    assert!(host.ids(&["containers", "ls"]).is_empty());
    host.ok(&["namespaces", "create", "again"]);
    assert!(host.log().contains("rebuilt with 0 records"), "{}", host.log());
    // Who listens to events is told too, in whichever namespace.
    for namespace in ["default", "other"] {
        let told = host.ok(&["-n", namespace, "events", "--since", "0", "/metadata/"]);
        assert_eq!(told.matches("/metadata/rebuild").count(), 1, "{told}");
        assert!(told.contains("records=0") && told.contains("why="), "{told}");
    }
    // A cursor of the log that is lost is not waited for.
    for follow in [&[][..], &["--follow"]] {
        let args = [&["events", "--since", "100000"], follow].concat();
        host.fails(&args, 6, "FailedPrecondition", &["100000", "begin at 0"]);
    }
    host.stop();
}
