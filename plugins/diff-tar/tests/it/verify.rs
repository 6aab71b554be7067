//! Trees that were damaged: what is said about them, and that they are as before afterwards.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use capstan_diff_tar::{Config, Parents, settle, verify};
use capstan_sdk::contract::differ::Whiteouts::{self, Overlay, Remove};
use capstan_sdk::contract::differ::{LayerStream, VerifyLayer};
use capstan_sdk::{Class, Result};
use proptest::prelude::{Strategy, any, prop};
use proptest::test_runner::{Config as Cases, TestRunner};
use rustix::fs::{XattrFlags, removexattr, setxattr};

use crate::layer::{Layer, PLAIN};
use crate::tree::{Canary, Nodes, assert_same, fast_dir, nodes};

fn run_with(
    root: &Path,
    layers: &[&Layer],
    form: Whiteouts,
    is_repair: bool,
    config: &Config,
) -> Result<Vec<String>> {
    let layer = |layer: &&Layer| VerifyLayer {
        stream: LayerStream(Box::new(Cursor::new((*layer).clone().end()))),
        media_type: PLAIN.into(),
    };
    let layers = layers.iter().map(layer).collect();
    let found = verify(layers, File::open(root).unwrap().into(), form, is_repair, config)?;
    let line = |found: &capstan_sdk::contract::differ::Difference| {
        let is_left = if is_repair && !found.is_repaired { " (left)" } else { "" };
        format!("{}: {}{is_left}", found.path.display(), found.what)
    };
    // Most damage is done in the root, too.
    Ok(found.iter().map(line).filter(|line| line != ".: mtime").collect())
}

fn run(root: &Path, layers: &[&Layer], form: Whiteouts, is_repair: bool) -> Vec<String> {
    run_with(root, layers, form, is_repair, &Config::default()).unwrap()
}

/// Two layers: the upper one is the first.
fn layers() -> [Layer; 2] {
    let zeros = "0".repeat(700_000);
    let mut capability = vec![1, 0, 0, 2, 0, 0x20];
    capability.resize(20, 0);
    let lower = Layer::default()
        .dir("./")
        .dir("etc")
        .file("etc/hosts", "hosts")
        .file("etc/deleted", "x")
        .file("etc/replaced", "old")
        .dir("lib")
        .file("lib/big", &zeros)
        .link("lib/same", "lib/big")
        .symlink("link", "lib/big")
        .with_mode(b'6', "fifo", 0o640)
        .device(b'3', "null", 1, 3)
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("SCHILY.xattr.user.x", b"1")])
        .with_mode(b'0', "su", 0o4755)
        .dir("opaque")
        .file("opaque/old", "x")
        .dir("gone")
        .file("gone/x", "x");
    let upper = Layer::default()
        .file("etc/.wh.deleted", "")
        .file("etc/replaced", "new")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file(".wh.gone", "")
        .link("other", "etc/hosts");
    [upper, lower]
}

fn whole() -> tempfile::TempDir {
    let root = fast_dir();
    for layer in layers().iter().rev() {
        layer.apply(root.path(), Remove).unwrap();
    }
    root
}

/// Damages a tree, and wants it to be told and put right.
#[track_caller]
fn check(damage: &dyn Fn(&Path), want: &[&str]) {
    let [upper, lower] = layers();
    let root = whole();
    let before = nodes(root.path());
    damage(root.path());
    let canary = Canary::new();
    let both = [&upper, &lower];
    assert_eq!(run(root.path(), &both, Remove, false), want);
    // With one name of a file put right, the other is the damaged one's still.
    let mut repaired = run(root.path(), &both, Remove, true);
    repaired.retain(|line| line != "lib/same: link");
    assert_eq!(repaired, want);
    assert_same(&nodes(root.path()), &before);
    assert!(run(root.path(), &both, Remove, false).is_empty());
    canary.check();
}

fn flip(path: &Path, at: u64) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_tree_that_is_whole_is_left_alone() {
    let root = whole();
    let before = fs::metadata(root.path().join("lib/big")).unwrap();
    check(&|_| {}, &[]);
    let [upper, lower] = layers();
    assert!(run(root.path(), &[&upper, &lower], Remove, true).is_empty());
    let after = fs::metadata(root.path().join("lib/big")).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
}

#[test]
fn damaged_content() {
    for at in [0, 1, 300_000, 699_999] {
        check(&|root| flip(&root.join("lib/big"), at), &["lib/big: content"]);
    }
    check(&|root| flip(&root.join("etc/replaced"), 1), &["etc/replaced: content"]);
    let cut = |len| {
        move |root: &Path| {
            let path = root.join("etc/replaced");
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(len).unwrap();
            file.set_modified(modified).unwrap();
        }
    };
    for len in [0, 2, 4, 100] {
        check(&cut(len), &["etc/replaced: size"]);
    }
}

#[test]
fn damaged_attributes() {
    let mode = |name: &'static str| {
        move |root: &Path| {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
    };
    check(&mode("etc/replaced"), &["etc/replaced: mode"]);
    check(&mode("etc"), &["etc: mode"]);
    check(&mode("fifo"), &["fifo: mode"]);
    check(&mode("."), &[".: mode"]);
    check(&|root| lchown(root.join("link"), Some(7), None).unwrap(), &["link: owner"]);
    check(
        &|root| {
            File::open(root.join("lib"))
                .unwrap()
                .set_modified(std::time::SystemTime::now())
                .unwrap()
        },
        &["lib: mtime"],
    );
    check(&|root| removexattr(root.join("su"), "security.capability").unwrap(), &["su: xattrs"]);
    check(
        &|root| setxattr(root.join("etc/replaced"), "user.y", b"", XattrFlags::empty()).unwrap(),
        &["etc/replaced: xattrs"],
    );
}

#[test]
fn missing_files_and_files_of_another_type() {
    let gone = |name: &'static str| move |root: &Path| fs::remove_file(root.join(name)).unwrap();
    check(&gone("etc/replaced"), &["etc: mtime", "etc/replaced: missing"]);
    check(&gone("fifo"), &["fifo: missing"]);
    check(&gone("null"), &["null: missing"]);
    check(&gone("link"), &["link: missing"]);
    check(&gone("lib/same"), &["lib: mtime", "lib/same: missing"]);
    check(&gone("other"), &["other: missing"]);
    let all = ["etc: missing", "etc/hosts: missing", "etc/replaced: missing", "other: link"];
    check(&|root| fs::remove_dir_all(root.join("etc")).unwrap(), &all);
    let other = |name: &'static str, make: fn(&Path)| {
        move |root: &Path| {
            let path = root.join(name);
            match path.is_dir() {
                true => fs::remove_dir_all(&path).unwrap(),
                false => fs::remove_file(&path).unwrap(),
            }
            make(&path);
        }
    };
    let to_file: fn(&Path) = |path| fs::write(path, "x").unwrap();
    let to_link: fn(&Path) = |path| symlink("/etc", path).unwrap();
    let to_dir: fn(&Path) = |path| fs::create_dir_all(path.join("a/b")).unwrap();
    let to_other: fn(&Path) = |path| symlink("elsewhere", path).unwrap();
    check(&other("link", to_other), &["link: target, mtime"]);
    check(&other("fifo", to_file), &["fifo: type"]);
    check(&other("null", to_dir), &["null: type"]);
    check(&other("etc/replaced", to_link), &["etc: mtime", "etc/replaced: type"]);
    check(&other("etc/replaced", to_dir), &["etc: mtime", "etc/replaced: type"]);
    for make in [to_file, to_link] {
        check(&other("opaque", make), &["opaque: type", "opaque/new: missing"]);
    }
}

/// A tree may lead out of itself, too: nothing outside is looked at or made.
#[test]
fn repair_does_not_leave_the_root() {
    let canary = Canary::new();
    let [upper, lower] = layers();
    for name in ["etc", "lib", "opaque"] {
        let root = whole();
        let before = nodes(root.path());
        fs::remove_dir_all(root.path().join(name)).unwrap();
        symlink(canary.path(), root.path().join(name)).unwrap();
        assert!(!run(root.path(), &[&upper, &lower], Remove, true).is_empty());
        canary.check();
        run(root.path(), &[&upper, &lower], Remove, true);
        assert_same(&nodes(root.path()), &before);
    }
}

#[test]
fn files_behind_links_of_the_parents() {
    let lower = Layer::default().dir("usr/lib").symlink("lib", "usr/lib").file("usr/lib/a", "1");
    let upper = Layer::default().file("lib/a", "2").file("lib/b", "3");
    let root = fast_dir();
    lower.apply(root.path(), Remove).unwrap();
    upper.apply(root.path(), Remove).unwrap();
    assert!(run(root.path(), &[&upper, &lower], Remove, false).is_empty());
    let before = nodes(root.path());
    flip(&root.path().join("usr/lib/a"), 0);
    fs::remove_file(root.path().join("usr/lib/b")).unwrap();
    let want = ["usr/lib: mtime", "usr/lib/a: content", "usr/lib/b: missing"];
    assert_eq!(run(root.path(), &[&upper, &lower], Remove, true), want);
    assert_same(&nodes(root.path()), &before);
}

/// The upper layer, as one of an overlay.
fn one() -> (tempfile::TempDir, Layer) {
    let [layer, lower] = layers();
    let layer = layer.dir("etc").file("unruly/.wh.x", "");
    let (root, parents) = (fast_dir(), fast_dir());
    lower.apply(parents.path(), Remove).unwrap();
    let applied = layer.apply(root.path(), Overlay).unwrap();
    let open = |dir: &tempfile::TempDir| File::open(dir.path()).unwrap().into();
    settle(
        open(&root),
        Parents::tree(open(&parents)).unwrap(),
        &applied.pending,
        &Config::default(),
    )
    .unwrap();
    (root, layer)
}

#[test]
fn one_layer_of_an_overlay() {
    let check = |damage: &dyn Fn(&Path), want: &[&str]| {
        let (root, layer) = one();
        assert!(run(root.path(), &[&layer], Overlay, false).is_empty());
        let before: Nodes = nodes(root.path());
        damage(root.path());
        assert_eq!(run(root.path(), &[&layer], Overlay, false), want);
        assert_eq!(run(root.path(), &[&layer], Overlay, true), want);
        assert!(run(root.path(), &[&layer], Overlay, false).is_empty());
        // The root is not described: nothing tells when it was changed.
        let (mut got, mut before) = (nodes(root.path()), before);
        for nodes in [&mut got, &mut before] {
            nodes.get_mut(".").unwrap().mtime = (0, 0);
            // Of a whiteout there is nothing but the name.
            nodes
                .values_mut()
                .filter(|node| node.kind == "char")
                .for_each(|node| node.mtime = (0, 0));
        }
        assert_same(&got, &before);
    };
    check(&|_| {}, &[]);
    check(&|root| fs::write(root.join("more"), "x").unwrap(), &["more: extra"]);
    check(&|root| fs::create_dir_all(root.join("m/n")).unwrap(), &["m: extra"]);
    check(&|root| flip(&root.join("etc/replaced"), 0), &["etc/replaced: content"]);
    let gone = |name: &'static str| move |root: &Path| fs::remove_file(root.join(name)).unwrap();
    check(&gone("etc/deleted"), &["etc: mtime", "etc/deleted: whiteout"]);
    let shown = |root: &Path| removexattr(root.join("opaque"), "trusted.overlay.opaque").unwrap();
    check(&shown, &["opaque: opaque"]);
    let hides = |root: &Path| {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = root.join("bin");
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    };
    check(&hides, &["bin: extra"]);
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let root = fast_dir();
    let layer = Layer::default().file("f", "1").file("g", "2");
    let config = Config::default();
    let class = |layers: &[&Layer], form, config: &Config| {
        run_with(root.path(), layers, form, false, config).unwrap_err().class()
    };
    assert_eq!(class(&[], Remove, &config), Class::InvalidArgument);
    assert_eq!(class(&[&layer, &layer], Overlay, &config), Class::InvalidArgument);
    let broken = Layer(layer.0[..700].to_vec());
    assert_eq!(class(&[&layer, &broken], Remove, &config), Class::Corrupt);
    let config = Config { max_entries: 1, ..config };
    assert_eq!(class(&[&layer], Remove, &config), Class::ResourceExhausted);
    let config = Config { max_pending_bytes: 10, ..Config::default() };
    assert_eq!(class(&[&layer], Remove, &config), Class::ResourceExhausted);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

/// A repair that breaks off leaves the old file, and nothing beside it.
#[test]
fn a_repair_that_breaks_off_leaves_what_was_there() {
    let root = fast_dir();
    let text = "x".repeat(600_000);
    let layer = Layer::default().file("f", &text);
    layer.apply(root.path(), Remove).unwrap();
    flip(&root.path().join("f"), 10);
    let before = nodes(root.path());
    let broken = Layer(layer.0[..400_000].to_vec());
    let error = run_with(root.path(), &[&broken], Remove, true, &Config::default());
    assert_eq!(error.unwrap_err().class(), Class::Corrupt);
    let (mut got, mut want) = (nodes(root.path()), before);
    for nodes in [&mut got, &mut want] {
        nodes.get_mut(".").unwrap().mtime = (0, 0);
    }
    assert_same(&got, &want);
}

/// Flips and removes at random: all of it is told, and put right.
#[test]
fn random_damage_is_found_and_repaired() {
    let damages = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8), 1..8);
    let config = Cases { cases: 60, failure_persistence: None, ..Cases::default() };
    let [upper, lower] = layers();
    let check = |damages: Vec<(prop::sample::Index, u8)>| {
        let root = whole();
        let before = nodes(root.path());
        let names: Vec<&String> = before.keys().filter(|name| *name != ".").collect();
        let mut is_damaged = false;
        for (index, how) in damages {
            let path = root.path().join(names[index.index(names.len())]);
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            is_damaged |= match how {
                0 if about.is_file() && about.len() > 0 => {
                    flip(&path, about.len() / 2);
                    // Twice is nothing.
                    false
                }
                1 if about.is_dir() => fs::remove_dir_all(&path).is_ok(),
                1 => fs::remove_file(&path).is_ok(),
                2 => lchown(&path, Some(about.uid() + 1), None).is_ok(),
                _ => false,
            };
        }
        let found = run(root.path(), &[&upper, &lower], Remove, true);
        assert!(!is_damaged || !found.is_empty());
        assert_same(&nodes(root.path()), &before);
    };
    TestRunner::new(config)
        .run(&damages.prop_map(|d| d), |d| {
            check(d);
            Ok(())
        })
        .unwrap();
}
