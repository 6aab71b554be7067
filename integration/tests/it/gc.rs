//! Garbage collection: what nothing keeps goes, what anything keeps stays, and what lies on the disk is what
//! is told.

mod flips;
mod leases;
mod loops;
mod remnants;
mod schedule;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use capstan_integration::{FakeRegistry, Host, Image, Layer, criu, noise};

/// An image of busybox, which all share, and a layer of its own with `/name` in it.
fn image(name: &str) -> Image {
    let own = Layer::new().file("name", 0o644, name.as_bytes());
    Image::new(vec![Layer::new().busybox(), own.file("noise", 0o644, &noise(20_000, seed(name)))])
}

fn seed(name: &str) -> u32 {
    name.bytes().fold(7, |seed, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

/// Offers and pulls it; answers its reference.
fn pull(host: &Host, registry: &FakeRegistry, name: &str) -> String {
    let reference = registry.offer(name, &image(name));
    host.ok(&["images", "pull", "--plain-http", &reference]);
    reference
}

fn blobs(name: &str) -> BTreeSet<String> {
    image(name).blobs.into_keys().collect()
}

fn content(host: &Host) -> BTreeSet<String> {
    host.ids(&["content", "ls"]).into_iter().collect()
}

fn snapshots(host: &Host) -> BTreeSet<String> {
    host.ids(&["snapshots", "ls"]).into_iter().collect()
}

/// What went, or would go, of a table that `gc` printed.
fn told(table: &str) -> Vec<String> {
    let rows = table.lines().skip(1);
    rows.map(|row| row.split_whitespace().nth(1).expect("NAMESPACE RESOURCE SIZE").to_owned())
        .collect()
}

/// Collects; answers what went.
fn collect(host: &Host) -> BTreeSet<String> {
    told(&host.ok(&["gc"])).into_iter().collect()
}

fn as_resources(digests: &BTreeSet<String>) -> BTreeSet<String> {
    digests.iter().map(|digest| format!("content/{digest}")).collect()
}

/// The files of blobs that lie on the disk, by digest.
fn blob_file(host: &Host, digest: &str) -> PathBuf {
    host.root().join("content.local/blobs").join(digest.replace(':', "/"))
}

fn blob_files(host: &Host) -> BTreeSet<String> {
    let dir = host.root().join("content.local/blobs/sha256");
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy())).collect()
}

/// The directories of snapshots that lie on the disk.
fn snapshot_dirs(host: &Host) -> Vec<PathBuf> {
    let dir = host.root().join("snapshotter.overlay/snapshots");
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// `system audit` finds nothing, and prints nothing.
fn assert_sound(host: &Host) {
    assert_eq!(host.ok(&["system", "audit"]), "");
    assert_eq!(host.ok(&["system", "audit", "--full"]), "");
}

fn prints_name(host: &Host, reference: &str) -> String {
    host.ok(&["run", "--rm", "--pull", "never", reference, "cat", "/name"])
}

#[test]
fn what_only_a_removed_image_had_goes_and_what_others_have_stays() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let (a, b) = (pull(&host, &registry, "a"), pull(&host, &registry, "b"));
    assert_eq!(collect(&host), BTreeSet::new(), "all of it is in use");
    assert_eq!(snapshots(&host).len(), 3, "one is shared");

    host.ok(&["images", "rm", &a]);
    let (before, kept) = (content(&host), blobs("b"));
    let own: BTreeSet<String> = blobs("a").difference(&kept).cloned().collect();
    assert_eq!(own.len(), 3, "manifest, configuration and its own layer");

    // What a dry run tells is what the next run does; it does nothing itself.
    let foretold: BTreeSet<String> = told(&host.ok(&["gc", "--dry-run"])).into_iter().collect();
    assert!(as_resources(&own).is_subset(&foretold), "{foretold:?}");
    let (is_own, own) = (|what: &&String| what.starts_with("snapshot/overlay/sha256:"), own.len());
    assert!(
        foretold.len() == own + 1 && foretold.iter().filter(is_own).count() == 1,
        "{foretold:?}"
    );
    assert_eq!(content(&host), before);
    assert_eq!((snapshots(&host).len(), snapshot_dirs(&host).len()), (3, 3));

    assert_eq!(collect(&host), foretold);
    assert_eq!((content(&host), blob_files(&host)), (kept.clone(), kept));
    assert_eq!((snapshots(&host).len(), snapshot_dirs(&host).len()), (2, 2));
    assert_eq!(collect(&host), BTreeSet::new(), "a second run has nothing to do");
    assert_eq!(prints_name(&host, &b), "b");
    assert_sound(&host);

    host.ok(&["images", "rm", &b]);
    let report = host.json(&["gc"]);
    assert_eq!(report["removed"].as_array().unwrap().len(), 6, "{report}");
    assert!(report["freedBytes"].as_u64().unwrap() > 100_000, "{report}");
    assert_eq!((content(&host), blob_files(&host)), Default::default());
    assert_eq!((snapshots(&host).len(), snapshot_dirs(&host).len()), (0, 0));
    assert_sound(&host);
    let events = host.ok(&["events", "--no-follow", "/gc/", "/content/delete"]);
    assert_eq!(
        events.lines().filter(|line| line.contains("/content/delete")).count(),
        7,
        "{events}"
    );
    assert!(events.contains("/gc/collect"), "{events}");
}

/// The image is removed under a container: it goes on, with its files; they go when it does.
#[test]
fn a_container_keeps_its_files_when_its_image_is_removed() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let reference = pull(&host, &registry, "a");
    for (id, snapshotter) in [("web", "overlay"), ("copy", "native")] {
        let args =
            ["run", "-d", "--snapshotter", snapshotter, "--name", id, &reference, "sleep", "10000"];
        host.ok(&args);
    }
    host.ok(&["images", "rm", &reference]);
    let gone = collect(&host);
    assert!(!gone.iter().any(|what| what.starts_with("snapshot/")), "{gone:?}");
    // Lists say the name that it had (D108).
    assert_eq!(host.ok(&["containers", "ls"]).matches(&reference).count(), 2);
    assert_eq!(host.ids(&["tasks", "ls"]).len(), 2);
    assert_eq!(collect(&host), BTreeSet::new());
    for id in ["web", "copy"] {
        assert_eq!(host.ok(&["tasks", "exec", id, "cat", "/name"]), "a");
        // It can also be started again.
        host.ok(&["tasks", "delete", "--force", id]);
        assert_eq!(collect(&host), BTreeSet::new(), "a container that does not run keeps them too");
        host.ok(&["tasks", "start", "-d", id]);
        assert_eq!(host.ok(&["tasks", "exec", id, "cat", "/name"]), "a");
    }
    let why = host.ok(&["system", "why", "web"]);
    assert!(why.contains("container/web"), "{why}");
    assert_sound(&host);
    for id in ["web", "copy"] {
        host.remove(id);
    }
    assert!(!collect(&host).is_empty());
    assert_eq!(snapshot_dirs(&host), Vec::<PathBuf>::new());
    assert_eq!(snapshots(&host), BTreeSet::new());
    assert_eq!(host.ids(&["snapshots", "--snapshotter", "native", "ls"]), Vec::<String>::new());
    assert_eq!(content(&host), BTreeSet::new());
    assert_sound(&host);
}

/// What needs the image that a container was made of says that it is gone, and changes nothing; what needs the
/// container's own files alone goes on, and a pull brings the image back under it.
#[test]
fn what_needs_a_removed_image_says_so() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let reference = pull(&host, &registry, "a");
    host.ok(&["run", "-d", "--name", "web", &reference, "sleep", "10000"]);
    host.ok(&["tasks", "exec", "web", "sh", "-c", "echo new >/written"]);
    host.ok(&["images", "rm", &reference]);
    collect(&host);
    assert_eq!((content(&host), blob_files(&host)), Default::default());

    let export = host.path("a.tar");
    for args in [
        &["tasks", "checkpoint", "web"][..],
        &["tasks", "checkpoint", "--image", "localhost/saved:1", "web"],
        &["images", "export", export.to_str().unwrap(), &reference],
        &["images", "unpack", &reference],
        &["images", "check", &reference],
        &["images", "tag", &reference, "localhost/b:1"],
        &["images", "push", "--plain-http", &reference],
        &["containers", "create", "more", &reference],
    ] {
        host.fails(args, 3, "NotFound", &[&reference]);
    }
    let run = ["run", "--rm", "--pull", "never", &reference, "true"];
    host.fails(&run, 125, "NotFound", &[&reference]);
    assert!(!export.exists(), "nothing half-made is left");
    assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
    // D108: it is listed, by the name that it was made with.
    assert_eq!(host.ids(&["containers", "ls"]), ["web"]);
    let row = host.ok(&["containers", "ls"]).lines().nth(1).unwrap().to_owned();
    assert_eq!(row.split_whitespace().take(2).collect::<Vec<_>>(), ["web", reference.as_str()]);
    assert_eq!(host.json(&["containers", "ls"])[0]["image"], reference);
    assert_eq!(host.json(&["tasks", "ls"])[0]["status"], "running");

    // The layers below it are there: what it wrote can be told from them, and becomes a layer.
    let layer = host.ok(&["snapshots", "diff", "web"]);
    assert!(layer.contains("written") && !layer.contains("noise"), "just what it wrote");
    // That layer is a blob, which nothing keeps.
    assert_eq!(collect(&host).len(), 1);
    assert_eq!(host.json(&["containers", "inspect", "web"])["image"], reference);
    assert_eq!(host.ok(&["tasks", "exec", "web", "cat", "/name", "/written"]), "anew\n");
    assert_sound(&host);

    host.ok(&["images", "pull", "--plain-http", &reference]);
    assert_eq!(content(&host), blobs("a"));
    assert_eq!(prints_name(&host, &reference), "a");
    assert_eq!(snapshots(&host).len(), 3, "its layers are those that the container kept");
    host.remove("web");
    assert_eq!(collect(&host), BTreeSet::new());
    assert_sound(&host);
}

/// A blob is one on the disk for all namespaces: each keeps it by itself.
#[test]
fn what_another_namespace_keeps_stays_there() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    host.ok(&["--namespace", "other", "images", "pull", "--plain-http", &a]);
    host.ok(&["images", "rm", &a]);
    assert!(!collect(&host).is_empty());
    assert_eq!(content(&host), BTreeSet::new());
    assert_eq!(blob_files(&host), blobs("a"), "the other one has them");
    let other = ["--namespace", "other"];
    let run = [&other[..], &["run", "--rm", "--pull", "never", &a, "cat", "/name"]].concat();
    assert_eq!(host.ok(&run), "a");
    assert_sound(&host);
    host.ok(&[&other[..], &["images", "rm", &a]].concat());
    collect(&host);
    assert_eq!(blob_files(&host), BTreeSet::new());
    assert_eq!(snapshot_dirs(&host), Vec::<PathBuf>::new());
    assert_sound(&host);
}

/// Ingests that can be resumed, and snapshots that somebody writes or reads, are nobody's garbage.
#[test]
fn ingests_and_active_snapshots_are_never_collected() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    let top = top_of(&host);
    host.ok(&["snapshots", "prepare", "work", &top]);
    host.ok(&["snapshots", "view", "look", &top]);
    let mut half = host.command(&["content", "ingest", "half"]);
    let mut half = half.stdin(std::process::Stdio::piped()).spawn().unwrap();
    host.until("it is begun", || host.ids(&["content", "active"]) == ["half"]);
    half.kill().unwrap();
    half.wait().unwrap();
    host.ok(&["images", "rm", &a]);
    assert_eq!(collect(&host), as_resources(&blobs("a")));
    assert_eq!(snapshots(&host).len(), 4, "two layers, an active one and a view");
    assert_eq!(host.ids(&["content", "active"]), ["half"]);
    assert_sound(&host);
    host.ok(&["snapshots", "rm", "work"]);
    assert_eq!(collect(&host), BTreeSet::new(), "the view is left");
    host.ok(&["snapshots", "rm", "look"]);
    let gone = told(&host.ok(&["gc"]));
    assert_eq!(gone.len(), 2);
    assert_eq!(gone[0], format!("snapshot/overlay/{top}"), "a child goes before its parent");
    assert_sound(&host);
}

/// The name of the layer that has a parent, where one image is there.
fn top_of(host: &Host) -> String {
    let table = host.ok(&["snapshots", "ls"]);
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let mut tops = rows.filter(|row| row.len() == 3 && row[1].starts_with("sha256:"));
    tops.next().expect("a layer with a parent")[0].to_owned()
}

#[test]
fn why_names_what_keeps_a_thing_and_df_what_would_go() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let (a, b) = (pull(&host, &registry, "a"), pull(&host, &registry, "b"));
    host.ok(&["run", "-d", "--name", "web", &a, "sleep", "10000"]);
    let base = image("a").layers[0].clone();
    for shape in [base.clone(), format!("content/{base}")] {
        let why = host.ok(&["system", "why", &shape]);
        assert!(
            why.contains(&format!("image/{a}")) && why.contains(&format!("image/{b}")),
            "{why}"
        );
    }
    let own = image("b").layers[1].clone();
    let why = host.ok(&["system", "why", &own]);
    assert!(why.contains(&format!("image/{b}")) && !why.contains(&format!("image/{a}")), "{why}");
    // The snapshot of the container stands on layers, and keeps them.
    let tree: Vec<String> = snapshots(&host).into_iter().filter(|key| key != "web").collect();
    let kept_by_web = tree.iter().filter(|key| {
        let why = host.ok(&["system", "why", &format!("snapshot/overlay/{key}")]);
        why.contains("container/web") || why.contains("snapshot/overlay/web")
    });
    assert_eq!(kept_by_web.count(), 2, "{tree:?}");
    for known in [a.as_str(), "web", "container/web", "snapshot/overlay/web"] {
        assert!(!host.ok(&["system", "why", known]).is_empty(), "{known}");
    }
    let nothing = format!("sha256:{}", "0".repeat(64));
    for unknown in ["nothing", &nothing, "lease/none", "snapshot/overlay/none"] {
        host.fails(&["system", "why", unknown], 3, "NotFound", &[unknown]);
    }

    let all: u64 = sizes(&[&blobs("a"), &blobs("b")]);
    assert_eq!(rooms(&host)["content"], (7, all, 0), "the shared layer is there once");
    host.ok(&["images", "rm", &b]);
    let own: BTreeSet<String> = blobs("b").difference(&blobs("a")).cloned().collect();
    assert_eq!(rooms(&host)["content"], (7, all, sizes(&[&own])));
    assert!(rooms(&host)["snapshots.overlay"].2 > 20_000, "{:?}", rooms(&host));
    let freed = host.json(&["gc"])["freedBytes"].as_u64().unwrap();
    let after = rooms(&host);
    assert_eq!(after["content"], (4, all - sizes(&[&own]), 0));
    assert_eq!(after["snapshots.overlay"].2, 0);
    assert!(freed >= sizes(&[&own]) + 20_000, "{freed}");
    let why = host.capstan(&["system", "why", &own.first().unwrap().clone()]);
    assert_eq!(why.code, 3, "it is gone: {why:?}");
    host.remove("web");
}

fn sizes(sets: &[&BTreeSet<String>]) -> u64 {
    let images = [image("a"), image("b")];
    let size = |digest: &String| {
        let found = images.iter().find_map(|image| image.blobs.get(digest));
        found.expect("it is of one of the two").len() as u64
    };
    sets.iter().copied().flatten().collect::<BTreeSet<_>>().into_iter().map(size).sum()
}

/// `system df`: count, bytes and reclaimable bytes by kind.
fn rooms(host: &Host) -> std::collections::BTreeMap<String, (u64, u64, u64)> {
    let list = host.json(&["system", "df"]);
    let number = |room: &serde_json::Value, key: &str| room[key].as_u64().unwrap_or(0);
    let room = |room: &serde_json::Value| {
        let name = room["kind"].as_str().unwrap().to_owned();
        let sizes = (number(room, "sizeBytes"), number(room, "reclaimableBytes"));
        (name, (number(room, "count"), sizes.0, sizes.1))
    };
    list.as_array().unwrap().iter().map(room).collect()
}

/// Labels of blobs, as containerd has them, count as references.
#[test]
fn labels_keep_what_they_name() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let a = pull(&host, &registry, "a");
    let image = image("a");
    let label = |digest: &str, label: &str| host.ok(&["content", "label", digest, label]);
    label(&image.layers[0], "capstan/gc.root=yes");
    label(&image.layers[0], &format!("capstan/gc.ref.content.0={}", image.layers[1]));
    let top = top_of(&host);
    label(&image.layers[0], &format!("capstan/gc.ref.snapshot.overlay={top}"));
    host.ok(&["images", "rm", &a]);
    assert_eq!(collect(&host).len(), 2, "manifest and configuration");
    assert_eq!(content(&host), image.layers.iter().cloned().collect());
    assert_eq!(snapshots(&host).len(), 2, "the named one and its parent");
    label(&image.layers[0], "capstan/gc.root=");
    label(&image.layers[0], "capstan/gc.expire=2000-01-01T00:00:00Z");
    assert_eq!(collect(&host).len(), 4);
    assert_eq!(content(&host), BTreeSet::new());
    assert_sound(&host);
}

/// The parts of a checkpoint are stored before it has a name: a collection meanwhile takes none of them.
#[test]
fn a_checkpoint_that_is_being_made_is_not_collected() {
    let criu = match criu() {
        Ok(criu) => criu,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let registry = FakeRegistry::start();
    let host = Host::with_config(&format!("[plugins.\"runtime.linux\"]\ncriu = {criu:?}\n"));
    let a = pull(&host, &registry, "a");
    host.ok(&["run", "-d", "--runtime", "runc", "--name", "web", &a, "sleep", "10000"]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                host.ok(&["gc"]);
                count += 1;
            }
            count
        });
        let made: Vec<_> = (0..3)
            .map(|number| {
                let name = format!("127.0.0.1:1/saved:{number}");
                host.capstan(&["tasks", "checkpoint", "web", "--image", &name])
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 3);
        assert!(made.iter().all(|made| made.code == 0), "{made:#?}");
    });
    assert_sound(&host);
    host.remove("web");
}
