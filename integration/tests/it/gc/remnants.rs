//! What operations that broke off left, or somebody put there: an audit names it, heal removes it.

use std::fs;
use std::process::Command;

use capstan_integration::{FakeRegistry, Host, digest, find};
use serde_json::Value;

use super::{assert_sound, blob_file, pull, snapshot_dirs};

fn audit(host: &Host) -> Vec<(String, String)> {
    let output = host.capstan(&["--format", "json", "system", "audit"]);
    assert_eq!(output.code, 10, "{output:?}");
    let list: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found: Vec<(String, String)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (text(&finding["what"]), text(&finding["flaw"])))
        .collect();
    found.sort();
    found
}

#[test]
fn files_that_nobody_names_are_orphans_and_go() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    let stray = digest(b"stray");
    fs::write(blob_file(&host, &stray), b"stray").unwrap();
    let dir = snapshot_dirs(&host)[0].with_file_name("4711");
    fs::create_dir_all(dir.join("fs/x")).unwrap();
    let found = audit(&host);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|(_, flaw)| flaw == "orphan"), "{found:?}");
    for what in [format!("content/{stray}"), dir.display().to_string()] {
        assert!(found.iter().any(|(found, _)| found.starts_with(&what)), "{what}: {found:?}");
    }
    let table = host.capstan(&["system", "audit"]).stdout;
    assert!(table.starts_with("NAMESPACE"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let healed = host.ok(&["system", "heal"]);
    assert_eq!(healed.lines().count(), 3, "{healed}");
    assert_sound(&host);
    assert!(!dir.exists() && !blob_file(&host, &stray).exists());
    assert_eq!(super::prints_name(&host, &a), "a");
}

/// A blob that a kill left between its file and its record needs no audit: the next collection takes it.
#[test]
fn a_blob_that_is_in_no_namespace_goes_with_a_collection() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    let files = super::blob_files(&host).len();
    let stray = digest(b"stray");
    fs::write(blob_file(&host, &stray), b"stray").unwrap();
    for is_dry in [true, false] {
        let args: &[&str] = if is_dry { &["gc", "--dry-run"] } else { &["gc"] };
        let report = host.json(args);
        let removed = report["removed"].as_array().unwrap();
        assert_eq!(removed.len(), 1, "{report:#}");
        assert_eq!(removed[0]["namespace"], "");
        assert_eq!(removed[0]["resource"], format!("content/{stray}"));
        assert_eq!(report["freedBytes"], 5, "{report:#}");
        assert_eq!(blob_file(&host, &stray).exists(), is_dry);
    }
    assert_eq!(super::blob_files(&host).len(), files);
    assert_sound(&host);
    assert_eq!(super::prints_name(&host, &a), "a");
}

/// A mount below our directories that belongs to no task.
#[test]
fn mounts_of_nobody_are_left_over_and_go() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    host.ok(&["run", "-d", "--name", "web", &a, "sleep", "10000"]);
    // Those of a task that runs are somebody's.
    assert_sound(&host);
    let names = ["root/left", "state/left over", "state/runtime.linux/tasks/default/gone/rootfs"];
    let mounted = names.map(|name| {
        let dir = host.path(name);
        fs::create_dir_all(&dir).unwrap();
        let args = ["-t", "tmpfs", "-o", "size=64k", "none"];
        assert!(Command::new(find("mount")).args(args).arg(&dir).status().unwrap().success());
        (dir.to_string_lossy().into_owned(), "leftover".to_owned())
    });
    let mut want = mounted.to_vec();
    want.sort();
    assert_eq!(audit(&host), want);
    // What somebody mounted among what must not be lost is theirs: it is told, and stays.
    let healed = host.capstan(&["system", "heal"]);
    assert_eq!(healed.code, 10, "{healed:?}");
    assert_eq!(healed.stdout.lines().count(), 4, "{healed:?}");
    assert_eq!(audit(&host), mounted[..1]);
    assert!(Command::new(find("umount")).arg(&mounted[0].0).status().unwrap().success());
    assert_sound(&host);
    assert_eq!(host.ok(&["tasks", "exec", "web", "cat", "/name"]), "a");
    host.remove("web");
    host.assert_no_container();
}

/// The daemon is killed while it unpacks, again and again: the next one has nothing left over, or says so.
#[test]
fn what_a_killed_pull_left_is_swept_or_told_and_goes() {
    let registry = FakeRegistry::start();
    let mut host = Host::new();
    let image = super::image("a");
    let reference = registry.offer("a", &image);
    let mut random = capstan_integration::Random::new();
    for round in 0..8 {
        let mut client = host.command(&["images", "pull", "--plain-http", &reference]);
        let mut client = client.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(random.below(60)));
        host.kill();
        client.wait().unwrap();
        host.start();
        // A blob has its file before its record: one that was just between the two is an orphan.
        let told = host.capstan(&["--format", "json", "system", "audit"]).stdout;
        let told: Value = serde_json::from_str(&told).expect("it is JSON");
        let flaws = told.as_array().unwrap().iter().map(|found| &found["flaw"]);
        assert!(flaws.clone().all(|flaw| flaw == "orphan"), "{told:#}");
        match round % 2 {
            0 => {
                assert_eq!(host.json(&["system", "heal"]).as_array().unwrap().len(), flaws.count())
            }
            // So does a collection, whatever else it may take.
            _ => drop(host.ok(&["gc"])),
        }
        let audit = host.capstan(&["system", "audit"]);
        assert_eq!(audit.code, 0, "{audit:#?}");
        if !host.ids(&["images", "ls"]).is_empty() {
            host.ok(&["images", "rm", &reference]);
            host.ok(&["gc"]);
        }
        for ingest in host.ids(&["content", "active"]) {
            host.ok(&["content", "abort", &ingest]);
        }
        host.until("all of it goes", || {
            host.ok(&["gc"]);
            super::blob_files(&host).is_empty() && snapshot_dirs(&host).is_empty()
        });
        assert_sound(&host);
    }
}

/// A container whose root filesystem was removed under it.
#[test]
fn a_container_without_its_snapshot_is_told_with_what_to_do() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    host.ok(&["containers", "create", "web", &a]);
    assert_sound(&host);
    host.ok(&["snapshots", "rm", "web"]);
    assert_eq!(audit(&host), [("container/web".to_owned(), "missing".to_owned())]);
    let told = host.capstan(&["system", "heal"]);
    assert_eq!(told.code, 10, "{told:?}");
    assert!(told.stdout.contains("remove the container"), "{told:?}");
    host.ok(&["containers", "rm", "web"]);
    assert_sound(&host);
}

/// A start is not held up by the audit that follows it, which tells in the log what it found.
#[test]
fn a_start_is_followed_by_an_audit_that_logs() {
    let registry = FakeRegistry::start();
    let mut host = Host::new();
    pull(&host, &registry, "a");
    fs::write(blob_file(&host, &digest(b"stray")), b"stray").unwrap();
    host.stop();
    host.start();
    host.until("the audit's warning", || host.log().contains("capstan system heal"));
    let log = host.log();
    let lines = log.lines().filter(|line| line.contains("capstan system heal"));
    assert!(
        lines.clone().all(|line| line.contains("WARN") && line.contains("findings=1")),
        "{log}"
    );
    assert_eq!(lines.count(), 1);
}
