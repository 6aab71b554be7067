//! snapshotter.reflink, somebody else's plugin, in all of its forms.

use capstan_integration::{Disk, DockerRegistry, Host};

use super::third_party::{build, place};
use super::{BYSTANDER, Bystander, Status};

/// Pulls and runs with it on a file system with reflinks; a restart of the daemon loses nothing.
fn runs(source: &str, configure: impl FnOnce(&Host) -> String) {
    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let mut host = Host::on(Disk::xfs(1024));
    host.configure(&configure(&host));
    host.start();
    let status = Status::of(&host, "snapshotter.reflink");
    assert_eq!((status.state.as_str(), status.source.as_str()), ("running", source), "{status:?}");
    host.ok(&["images", "pull", "--plain-http", "--snapshotter", "reflink", &image]);
    let run = ["run", "--rm", "--snapshotter", "reflink", &image, "echo", "hello"];
    assert_eq!(host.ok(&run), "hello\n");
    let mut run = vec!["run", "-d", "--name", BYSTANDER, "--snapshotter", "reflink", &image];
    run.extend(["sh", "-c", "echo kept > /file; sleep 1000"]);
    host.ok(&run);
    host.stop();
    host.start();
    let read = ["tasks", "exec", BYSTANDER, "cat", "/file"];
    host.until("the file is written", || host.capstan(&read).stdout == "kept\n");
    assert_eq!(host.ids(&["snapshots", "--snapshotter", "reflink", "ls"]).len(), 2);
    host.remove(BYSTANDER);
    host.assert_no_container();
}

#[test]
fn reflink_on_a_thread_of_the_daemon() {
    runs("cdylib", |host| {
        let library = place(host, &build("reflink").join("libsnapshotter_reflink.so"));
        format!("[load.\"snapshotter.reflink\"]\nlibrary = {library:?}\n")
    });
}

#[test]
fn reflink_isolated() {
    runs("remote", |host| {
        let library = place(host, &build("reflink").join("libsnapshotter_reflink.so"));
        format!("[load.\"snapshotter.reflink\"]\nlibrary = {library:?}\nisolated = true\n")
    });
}

#[test]
fn reflink_as_a_program() {
    runs("remote", |host| {
        let program = place(host, &build("reflink").join("snapshotter-reflink"));
        format!("[load.\"snapshotter.reflink\"]\ncommand = [{program:?}]\n")
    });
}

#[test]
fn where_there_are_no_reflinks_it_is_refused() {
    let host = Host::new();
    let bystander = Bystander::start(&host);
    let library = place(&host, &build("reflink").join("libsnapshotter_reflink.so"));
    for more in [&[][..], &["--isolated"]] {
        let mut load = vec!["plugins", "load", &library];
        load.extend(more);
        host.fails(&load, 6, "FailedPrecondition", &["FICLONE", "xfs"]);
        assert!(!host.ids(&["plugins", "ls"]).contains(&"snapshotter.reflink".into()));
    }
    bystander.check("a snapshotter that refuses");
    bystander.end();
}
