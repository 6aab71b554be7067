//! A byte of a blob or of an unpacked file is another one: an audit names it, heal gives back what the
//! registry or a blob has, and the rest goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use capstan_integration::{FakeRegistry, Host, Image, Layer, Random, digest, noise};
use serde_json::Value;

use super::{assert_sound, blob_file, blob_files, snapshot_dirs};

/// Blobs and files that are damaged.
const BLOBS: usize = 25;
const FILES: usize = 25;

/// Images with layers that are their own, each with several files.
fn images() -> Vec<Image> {
    let layer = |image: u32, layer: u32| {
        (0..4).fold(Layer::new().dir("d"), |built, file| {
            let bytes = noise(3000, image * 100 + layer * 10 + file);
            built.file(&format!("d/{layer}-{file}"), 0o640, &bytes)
        })
    };
    let image = |number| {
        let own = (0..6).map(|at| layer(number, at));
        Image::new([Layer::new().busybox()].into_iter().chain(own).collect())
    };
    (0..5).map(image).collect()
}

/// Turns one bit of a file over, somewhere; whoever wrote it had made it read-only.
fn flip(path: &Path, random: &mut Random) {
    let mode = fs::metadata(path).unwrap().permissions();
    let times = {
        let meta = fs::metadata(path).unwrap();
        fs::FileTimes::new().set_modified(meta.modified().unwrap())
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let at = random.below(file.metadata().unwrap().len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << random.below(8);
    file.write_all_at(&byte, at).unwrap();
    // A disk that goes bad tells nobody when.
    file.set_times(times).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

/// The files of unpacked layers, with bytes in them.
fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            files_below(&entry.path(), found);
        } else if meta.is_file() && meta.len() > 0 {
            found.push(entry.path());
        }
    }
}

/// The directory of the snapshot that a file is of.
fn snapshot_of<'a>(host: &Host, file: &'a Path) -> &'a Path {
    let dirs = snapshot_dirs(host);
    file.ancestors().find(|dir| dirs.iter().any(|known| known == dir)).expect("it is of one")
}

/// What an audit or a heal told, by what it is about.
fn findings(host: &Host, args: &[&str], code: i32) -> BTreeMap<String, Value> {
    let output = host.capstan(&[&["--format", "json"], args].concat());
    assert_eq!(output.code, code, "{args:?}: {}{}", output.stdout, output.stderr);
    let list: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    let by_what = |found: &Value| {
        let finding = if found["finding"].is_object() { &found["finding"] } else { found };
        (finding["what"].as_str().unwrap().to_owned(), found.clone())
    };
    list.as_array().unwrap().iter().map(by_what).collect()
}

/// What every file of an image must be, by a container that looks.
fn sums(host: &Host, reference: &str) -> String {
    let script = "sha256sum /d/* /bin/busybox /etc/passwd";
    host.ok(&["run", "--rm", "--pull", "never", reference, "sh", "-c", script])
}

#[test]
fn blobs_and_files_that_were_flipped_are_named_and_healed() {
    let mut random = Random::new();
    let registry = FakeRegistry::start();
    let host = Host::new();
    let images = images();
    let mut references = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let reference = registry.offer(&format!("flip{number}"), image);
        host.ok(&["images", "pull", "--plain-http", &reference]);
        references.push(reference);
    }
    let want: Vec<String> = references.iter().map(|reference| sums(&host, reference)).collect();
    assert_sound(&host);

    let mut blobs: Vec<String> = blob_files(&host).into_iter().collect();
    random.shuffle(&mut blobs);
    blobs.truncate(BLOBS);
    let mut files = Vec::new();
    for dir in snapshot_dirs(&host) {
        files_below(&dir, &mut files);
    }
    random.shuffle(&mut files);
    files.truncate(FILES);
    assert_eq!((blobs.len(), files.len()), (BLOBS, FILES));
    for path in &files {
        flip(path, &mut random);
    }
    // Each file is named, at the snapshot whose it is.
    let told = findings(&host, &["system", "audit", "--full"], 10);
    assert!(told.keys().all(|what| what.starts_with("snapshot/overlay/")), "{told:#?}");
    let dirs: BTreeSet<&Path> = files.iter().map(|file| snapshot_of(&host, file)).collect();
    assert_eq!(told.len(), dirs.len(), "{told:#?}");
    let details: Vec<&str> = told.values().map(|found| found["detail"].as_str().unwrap()).collect();
    let named: usize = details.iter().map(|detail| detail.matches(" (content)").count()).sum();
    assert_eq!(named, FILES, "{told:#?}");
    for file in &files {
        let name = format!("/{} (", file.file_name().unwrap().to_string_lossy());
        assert!(details.iter().any(|detail| detail.contains(&name)), "{name}: {told:#?}");
    }
    for blob in &blobs {
        flip(&blob_file(&host, blob), &mut random);
    }
    // By hand, so that nobody could give it back.
    let own = b"nobody else has this";
    let alone = digest(own);
    assert_eq!(host.capstan_with_input(&["content", "ingest", "own"], own).code, 0);
    host.ok(&["leases", "create", "--id", "own"]);
    host.ok(&["leases", "add", "own", &format!("content/{alone}")]);
    flip(&blob_file(&host, &alone), &mut random);

    let told = findings(&host, &["system", "audit", "--full"], 10);
    for blob in blobs.iter().chain([&alone]) {
        let found = told.get(&format!("content/{blob}"));
        assert_eq!(found.map(|found| &found["flaw"]), Some(&"damaged".into()), "{blob}: {told:#?}");
    }
    // What is damaged is not given out.
    host.fails(&["content", "get", &blobs[0]], 3, "NotFound", &[&blobs[0]]);

    let healed = findings(&host, &["system", "heal", "--full"], 10);
    for (what, outcome) in &healed {
        let is_lost = what.contains(&alone);
        assert_eq!(outcome["isHealed"], Value::from(!is_lost), "{what}: {outcome:#}");
    }
    let left = findings(&host, &["system", "audit", "--full"], 10);
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [format!("content/{alone}")]);
    for (reference, want) in references.iter().zip(&want) {
        assert_eq!(&sums(&host, reference), want, "{reference}");
    }
    for (image, blob) in
        images.iter().flat_map(|image| image.blobs.iter().map(move |it| (image, it)))
    {
        assert!(image.blobs.contains_key(blob.0));
        let got = host.command(&["content", "get", blob.0]).output().unwrap();
        assert_eq!(&got.stdout, blob.1, "{}", blob.0);
    }
    // Once more by hand, and all is well.
    assert_eq!(host.capstan_with_input(&["content", "ingest", "own"], own).code, 0);
    assert_sound(&host);
    host.assert_no_container();
}

/// Files that are gone, and one that is too many.
#[test]
fn files_that_are_gone_or_shorter_or_too_many_are_healed() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![
        Layer::new()
            .busybox()
            .dir("d")
            .file("d/gone", 0o600, b"one")
            .file("d/short", 0o644, b"two two"),
        Layer::new().file("d/mode", 0o640, b"three").symlink("d/link", "mode"),
    ]);
    let reference = registry.offer("torn", &image);
    for snapshotter in ["overlay", "native"] {
        let host = Host::new();
        host.ok(&["images", "pull", "--plain-http", "--snapshotter", snapshotter, &reference]);
        let tops = fs::read_dir(host.root().join(format!("snapshotter.{snapshotter}/snapshots")));
        let find = |name: &str| -> Vec<PathBuf> {
            let mut found = Vec::new();
            for top in tops.as_ref().iter().flat_map(|_| snapshots_of(&host, snapshotter)) {
                for path in [top.join("d").join(name), top.join("fs/d").join(name)] {
                    found.extend(fs::symlink_metadata(&path).is_ok().then_some(path));
                }
            }
            found
        };
        let look = || {
            let script = "cd /d; ls; cat gone short mode; stat -c '%n %a' *; readlink link";
            let args =
                ["run", "--rm", "--snapshotter", snapshotter, &reference, "sh", "-c", script];
            host.ok(&args)
        };
        let want = look();
        for path in find("gone") {
            fs::remove_file(path).unwrap();
        }
        for path in find("short") {
            File::options().write(true).open(path).unwrap().set_len(3).unwrap();
        }
        for path in find("mode") {
            fs::set_permissions(path, fs::Permissions::from_mode(0o4777)).unwrap();
        }
        for path in find("link") {
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        }
        let told = findings(&host, &["system", "audit", "--full"], 10);
        let details: String = told.values().map(|found| found["detail"].to_string()).collect();
        for name in ["/d/gone", "/d/short", "/d/mode", "/d/link"] {
            assert!(details.contains(name), "{snapshotter}: {name}: {told:#?}");
        }
        let healed = findings(&host, &["system", "heal", "--full"], 0);
        assert!(!healed.is_empty());
        assert_sound(&host);
        assert_eq!(look(), want, "{snapshotter}");
    }
}

fn snapshots_of(host: &Host, snapshotter: &str) -> Vec<PathBuf> {
    let dir = host.root().join(format!("snapshotter.{snapshotter}/snapshots"));
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A blob and a layer that are gone altogether: one is fetched again, the other unpacked again.
#[test]
fn what_is_gone_comes_back() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let image = super::image("a");
    let reference = registry.offer("a", &image);
    host.ok(&["images", "pull", "--plain-http", &reference]);
    for blob in image.blobs.keys() {
        fs::remove_file(blob_file(&host, blob)).unwrap();
    }
    let told = findings(&host, &["system", "audit"], 10);
    let want: BTreeSet<String> = image.blobs.keys().map(|blob| format!("content/{blob}")).collect();
    let blobs = |all: &BTreeMap<String, Value>| -> BTreeSet<String> {
        all.keys().filter(|what| what.starts_with("content/")).cloned().collect()
    };
    assert_eq!(blobs(&told), want);
    assert_eq!(blobs(&findings(&host, &["system", "heal"], 0)), want);
    assert_sound(&host);

    let top = super::top_of(&host);
    for dir in snapshot_dirs(&host) {
        fs::remove_dir_all(dir).unwrap();
    }
    let told = findings(&host, &["system", "audit"], 10);
    assert!(told.contains_key(&format!("snapshot/overlay/{top}")), "{told:#?}");
    assert_eq!(told.len(), 2, "{told:#?}");
    let healed = findings(&host, &["system", "heal"], 0);
    assert_eq!(healed.len(), 2, "{healed:#?}");
    assert_sound(&host);
    assert_eq!(super::prints_name(&host, &reference), "a");
}
