//! snapshotter.erofs passes the suite of its kind, compiled in and over a boundary; a restart loses nothing, and no
//! mount is left.

use std::fs;
use std::path::PathBuf;

use capstan_metadata::RedbMetadata;
use capstan_sdk::conformance::snapshotter;
use capstan_sdk::contract::Snapshotter;
use capstan_sdk::contract::graph::Flaw;
use capstan_sdk::contract::snapshotter::{Audit, Commit, Mounts, Prepare, Remove, View};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Class, Labels, Link, Mount, Namespace, mount};
use capstan_snapshot_erofs::ErofsSnapshotter;

async fn bench() -> (Bench, Link<Snapshotter>) {
    let mut bench = Bench::new();
    bench.start::<RedbMetadata>("").await.unwrap();
    bench.start::<ErofsSnapshotter>("").await.unwrap();
    let link = bench.link("snapshotter");
    (bench, link)
}

fn ns() -> Namespace {
    Namespace::parse("a").unwrap()
}

/// What the snapshotter has mounted; and it takes all away that a bench leaves.
struct Held(PathBuf);

impl Held {
    fn of(bench: &Bench) -> Self {
        Self(fs::canonicalize(bench.path("state")).unwrap())
    }

    fn all(&self) -> Vec<PathBuf> {
        let seen = mount::seen().unwrap().into_iter();
        seen.map(|seen| seen.target).filter(|target| target.starts_with(&self.0)).collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for target in self.all() {
            mount::detach(&target).unwrap();
        }
    }
}

async fn check(bench: &Bench) {
    let place = bench.path("mnt");
    fs::create_dir(&place).unwrap();
    snapshotter::run(&bench.link("snapshotter"), &place).await;
}

async fn prepare(link: &Link<Snapshotter>, key: &str, parent: &str) -> Vec<Mount> {
    let (key, parent) = (key.into(), parent.into());
    link.send(Prepare { namespace: ns(), key, parent, labels: Labels::new() }).await.unwrap()
}

async fn layer(link: &Link<Snapshotter>, name: &str, parent: &str) {
    let mounts = prepare(link, "draft", parent).await;
    mount::with_mounted(&mounts, std::path::Path::new("/mnt"), |root| {
        use std::os::fd::AsRawFd as _;
        fs::write(format!("/proc/self/fd/{}/{name}", root.as_raw_fd()), name).unwrap();
        Ok(())
    })
    .unwrap();
    let commit = Commit {
        namespace: ns(),
        name: name.into(),
        key: "draft".into(),
        rebase: None,
        labels: Labels::new(),
    };
    link.send(commit).await.unwrap();
}

#[test]
fn a_static_one() {
    run(|| async {
        let (bench, _) = bench().await;
        let _held = Held::of(&bench);
        check(&bench).await;
    });
}

#[test]
fn over_the_wire() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<RedbMetadata>("").await.unwrap();
        bench.start_over_wire::<ErofsSnapshotter>("").await.unwrap();
        let _held = Held::of(&bench);
        check(&bench).await;
        bench.stop::<ErofsSnapshotter>().await;
    });
}

#[test]
fn layers_are_mounted_once_and_as_long_as_they_are_needed() {
    run(|| async {
        let (mut bench, link) = bench().await;
        let held = Held::of(&bench);
        layer(&link, "one", "").await;
        layer(&link, "two", "one").await;
        assert_eq!(held.all().len(), 0, "nobody stands on them");
        prepare(&link, "a", "two").await;
        let view =
            View { namespace: ns(), key: "b".into(), parent: "one".into(), labels: Labels::new() };
        link.send(view).await.unwrap();
        assert_eq!(held.all().len(), 2, "each once");
        let remove = async |key: &str| {
            link.send(Remove { namespace: ns(), key: key.into() }).await.unwrap();
        };
        remove("a").await;
        assert_eq!(held.all().len(), 1);

        // A restart takes over what is needed and takes the rest away.
        bench.stop::<ErofsSnapshotter>().await;
        let stray = held.0.join("snapshotter.erofs/mounts/99");
        fs::create_dir(&stray).unwrap();
        let image = bench.root().join("snapshotter.erofs/snapshots/1/layer.erofs");
        let leaked = Mount {
            kind: "erofs".into(),
            source: image.display().to_string(),
            options: vec!["ro".into()],
        };
        mount::RawMount::parse(&leaked).unwrap().mount(&stray).unwrap();
        assert_eq!(held.all().len(), 2);
        bench.start::<ErofsSnapshotter>("").await.unwrap();
        assert_eq!(held.all().len(), 1);
        assert!(!stray.exists());
        let mounts = link.send(Mounts { namespace: ns(), key: "b".into() }).await.unwrap();
        assert!(fs::read_dir(&mounts[0].source).unwrap().count() > 0);
        remove("b").await;
        assert_eq!(held.all().len(), 0);
        assert!(fs::read_dir(held.0.join("snapshotter.erofs/mounts")).unwrap().next().is_none());
    });
}

#[test]
fn a_committed_layer_is_one_file_whose_damage_is_found() {
    run(|| async {
        let (bench, link) = bench().await;
        let held = Held::of(&bench);
        layer(&link, "one", "").await;
        let dir = bench.root().join("snapshotter.erofs/snapshots/1");
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["layer.erofs", "layer.seal"]);
        let image = dir.join("layer.erofs");
        let mut bytes = fs::read(&image).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&image, bytes).unwrap();
        let audit = async |is_full| {
            let message = Audit { is_full, is_cleaning: false };
            link.send(message).await.unwrap()
        };
        assert!(audit(false).await.is_empty());
        let findings = audit(true).await;
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].flaw, findings[0].what.as_str()),
            (Flaw::Damaged, "snapshot/erofs/one")
        );
        fs::remove_file(&image).unwrap();
        assert_eq!(audit(false).await[0].flaw, Flaw::Missing);
        let (key, parent) = ("a".into(), "one".into());
        let on_it = Prepare { namespace: ns(), key, parent, labels: Labels::new() };
        assert_eq!(link.send(on_it).await.unwrap_err().class(), Class::Corrupt);
        assert_eq!(held.all().len(), 0, "what failed holds nothing");
        let strays = bench.root().join("snapshotter.erofs/snapshots");
        fs::create_dir(strays.join("77")).unwrap();
        fs::write(strays.join("odd"), "").unwrap();
        let findings = link.send(Audit { is_full: false, is_cleaning: true }).await.unwrap();
        let orphans = findings.iter().filter(|finding| finding.flaw == Flaw::Orphan);
        assert_eq!(orphans.count(), 2);
        assert!(!strays.join("77").exists() && !strays.join("odd").exists());
    });
}
