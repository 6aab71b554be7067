//! `cargo xtask new-plugin`: the crate that it makes builds, passes its suite, and loads.

use std::path::{Path, PathBuf};
use std::process::Command;

use capstan_integration::{DockerRegistry, Host};

use super::Status;
use super::third_party::{cargo, place, root, succeed, target};

/// `cargo xtask new-plugin ..`, as it is typed in the checkout.
pub(super) fn new_plugin(kind: &str, name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--package", "xtask", "--", "new-plugin", kind, name]);
    command.arg(dir).current_dir(root());
    command
}

/// A place for a crate, where nothing is. It is the same each time: elsewhere cargo would keep what it built for each.
fn fresh(name: &str) -> PathBuf {
    let dir = target().join("crates").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

#[test]
fn a_new_snapshotter_builds_passes_its_suite_and_loads() {
    let dir = fresh("mine");
    let said = succeed(&mut new_plugin("snapshotter", "mine", &dir));
    for line in ["cargo build --release", "cargo test", "capstan plugins load target/release/"] {
        assert!(said.contains(line), "{said}");
    }
    let output = new_plugin("snapshotter", "mine", &dir).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"), "{output:?}");

    cargo(&dir, &["test", "--quiet"]);
    cargo(&dir, &["build", "--quiet"]);

    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let mut host = Host::new();
    let library = place(&host, &target().join("debug/libsnapshotter_mine.so"));
    assert_eq!(host.ok(&["plugins", "load", &library]), "snapshotter.mine\n");
    let run = ["run", "--rm", "--plain-http", "--snapshotter", "mine", &image, "echo", "hello"];
    assert_eq!(host.ok(&run), "hello\n");
    let mut run = vec!["run", "-d", "--name", "web", "--snapshotter", "mine", &image];
    run.extend(["sh", "-c", "echo kept > /file; sleep 1000"]);
    host.ok(&run);
    let list = ["snapshots", "--snapshotter", "mine", "ls"];
    let before = host.ids(&list);
    assert_eq!(before.len(), 2, "{before:?}");

    // The file that it was loaded from is not needed any more.
    std::fs::remove_file(&library).unwrap();
    host.stop();
    host.start();
    let status = Status::of(&host, "snapshotter.mine");
    assert!(status.is_running() && status.source == "cdylib", "{status:?}");
    assert_eq!(host.ids(&list), before);
    assert_eq!(host.ok(&["tasks", "exec", "web", "cat", "/file"]), "kept\n");
    host.remove("web");
    host.assert_no_container();

    host.ok(&["plugins", "unload", "snapshotter.mine"]);
    host.fails(&list, 3, "NotFound", &["snapshotter.mine"]);
    host.fails(&["plugins", "unload", "snapshotter.mine"], 3, "NotFound", &["snapshotter.mine"]);
    host.stop();
    host.start();
    host.fails(&list, 3, "NotFound", &["snapshotter.mine"]);
}

#[test]
fn new_plugins_of_the_other_kinds_do_so_too() {
    let host = Host::new();
    for kind in ["gc-policy", "metrics", "sink", "verifier"] {
        let dir = fresh(kind);
        succeed(&mut new_plugin(kind, "my-own", &dir));
        cargo(&dir, &["test", "--quiet"]);
        cargo(&dir, &["build", "--quiet"]);
        let library = format!("debug/lib{}_my_own.so", kind.replace('-', "_"));
        let library = place(&host, &target().join(library));
        let id = format!("{kind}.my-own");
        assert_eq!(host.ok(&["plugins", "load", &library]), format!("{id}\n"));
        let status = Status::of(&host, &id);
        assert!(status.is_running() && status.source == "cdylib", "{status:?}");
    }
    let metrics = host.ok(&["metrics"]);
    assert!(metrics.contains("\nmetrics_my_own_age_seconds "), "{metrics}");
    // A new sink begins at the present, and that is when it is seen: within a second.
    let mut number = 0;
    host.until("the sink got an event and said so", || {
        number += 1;
        host.ok(&["namespaces", "create", &format!("told-{number}")]);
        host.log().lines().any(|line| line.contains("sink.my-own") && line.contains("an event"))
    });
}

#[test]
fn an_unknown_kind_and_a_bad_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("it");
    for (kind, name, part) in [
        ("nothing", "mine", "there are gc-policy, metrics, sink, snapshotter, verifier"),
        ("metrics", "Mine", "is no name"),
        ("metrics", "a.b", "is no name"),
    ] {
        let output = new_plugin(kind, name, &dir).output().unwrap();
        assert!(!output.status.success(), "{kind} {name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{output:?}");
        assert!(!dir.exists());
    }
}
