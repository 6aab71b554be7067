//! snapshotter.reflink passes the suite of its kind, shares data, and starts nowhere else. Root runs it: it mounts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use capstan_sdk::conformance::snapshotter;
use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::snapshotter::{Commit, Prepare};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::testing_metadata::MemoryMetadata;
use capstan_sdk::{Class, Labels, Link, Namespace};
use snapshotter_reflink::ReflinkSnapshotter;

/// A file system in a file, mounted; it goes when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(image: &Path, make: &[&str], at: &Path) -> Self {
        File::create(image).unwrap().set_len(512 << 20).unwrap();
        succeed(Command::new(make[0]).args(&make[1..]).arg(image));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "unmount {}", self.0.display());
    }
}

fn succeed(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; is it installed?"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const XFS: [&str; 4] = ["mkfs.xfs", "-q", "-m", "reflink=1"];

/// Runs a test with a bench whose root is on a disk.
fn on<F: Future<Output = ()>>(make: &[&str], test: impl FnOnce(Bench) -> F) {
    run(|| async {
        let bench = Bench::new();
        let _disk = Disk::mount(&bench.path("disk.img"), make, &bench.root());
        test(bench).await;
    });
}

async fn start(bench: &mut Bench) -> Link<Snapshotter> {
    bench.start::<MemoryMetadata>("").await.unwrap();
    bench.start::<ReflinkSnapshotter>("").await.unwrap();
    bench.link("snapshotter")
}

#[test]
fn conformance() {
    on(&XFS, |mut bench| async move {
        let link = start(&mut bench).await;
        let place = bench.path("mnt");
        std::fs::create_dir(&place).unwrap();
        snapshotter::run(&link, &place).await;
    });
}

fn used(path: &Path) -> u64 {
    let about = rustix::fs::statvfs(path).unwrap();
    (about.f_blocks - about.f_bfree) * about.f_frsize
}

#[test]
fn a_copy_takes_no_space_and_a_write_to_it_stays_there() {
    on(&XFS, |mut bench| async move {
        let link = start(&mut bench).await;
        let namespace = Namespace::parse("a").unwrap();
        let prepare = async |key: &str, parent: &str| {
            let (namespace, labels) = (namespace.clone(), Labels::new());
            let prepare = Prepare { namespace, key: key.into(), parent: parent.into(), labels };
            PathBuf::from(&link.send(prepare).await.unwrap()[0].source).join("file")
        };
        let first = prepare("key", "").await;
        std::fs::write(&first, vec![1; 64 << 20]).unwrap();
        let (name, key) = ("base".into(), "key".into());
        let commit =
            Commit { namespace: namespace.clone(), name, key, rebase: None, labels: Labels::new() };
        link.send(commit).await.unwrap();
        let before = used(&bench.root());
        let copy = prepare("copy", "base").await;
        rustix::fs::syncfs(File::open(bench.root()).unwrap()).unwrap();
        assert!(used(&bench.root()) < before + (8 << 20), "64 MiB are copied, not shared");
        File::options().write(true).open(&copy).unwrap().write_all_at(b"other", 0).unwrap();
        assert_eq!(std::fs::read(&copy).unwrap()[..6], *b"other\x01");
        assert_eq!(std::fs::read(&first).unwrap()[..6], [1; 6]);
    });
}

#[test]
fn without_reflinks_it_does_not_start_and_says_why() {
    for make in [&["mkfs.ext4", "-q", "-F"][..], &["mkfs.xfs", "-q", "-m", "reflink=0"]] {
        on(make, |mut bench| async move {
            bench.start::<MemoryMetadata>("").await.unwrap();
            let error = bench.start::<ReflinkSnapshotter>("").await.unwrap_err();
            assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
            assert!(error.message().contains("FICLONE"), "{error}");
            let left = std::fs::read_dir(bench.root().join("snapshotter.reflink/snapshots"));
            assert_eq!(left.unwrap().count(), 0);
        });
    }
}
