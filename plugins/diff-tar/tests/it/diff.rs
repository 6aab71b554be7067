//! What is written of a tree's changes, entry by entry.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use capstan_diff_tar::{Config, Shape};
use capstan_sdk::Class;
use capstan_sdk::contract::differ::Whiteouts::Remove;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat, setxattr};

use crate::changes::{OVERLAY, Op, diff, diffed, entries, perform, prepare};
use crate::layer::{PLAIN, apply_bytes};
use crate::tree::{assert_same, fast_dir, nodes};

/// Copies a tree with all that it has.
pub(crate) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("--").args([from, to]).status();
    assert!(status.unwrap().success());
}

/// The entries of the layer between two states of a tree. The layer makes the one of the other.
#[track_caller]
fn check(before: &[Op], after: &[Op], want: &[&str]) {
    let place = fast_dir();
    let [parent, tree, target] = ["parent", "tree", "target"].map(|name| place.path().join(name));
    fs::create_dir(&parent).unwrap();
    prepare(&parent, before);
    copy(&parent, &tree);
    copy(&parent, &target);
    perform(&tree, after);
    let layer = diff(&tree, Some(&parent), Shape::Whole);
    assert_eq!(entries(&layer), want);
    apply_bytes(layer, PLAIN, &target, Remove, &Config::default()).unwrap();
    let (mut got, mut want) = (nodes(&target), nodes(&tree));
    for nodes in [&mut got, &mut want] {
        nodes.get_mut(".").unwrap().mtime = (0, 0);
    }
    assert_same(&got, &want);
}

fn file(path: &str) -> Op {
    Op::Write(path.into(), 1)
}

fn dir(path: &str) -> Op {
    Op::Dir(path.into())
}

fn gone(path: &str) -> Op {
    Op::Remove(path.into())
}

fn link(target: &str, path: &str) -> Op {
    Op::Link(target.into(), path.into())
}

fn changed(path: &str) -> Op {
    Op::Write(path.into(), 2)
}

#[test]
fn basic_changes() {
    let before = [dir("etc"), file("etc/hosts"), file("etc/profile"), dir("root"), file("root/x")];
    check(&before, &[], &[]);
    check(&before, &[changed("etc/hosts")], &["etc/hosts"]);
    check(&before, &[file("etc/new")], &["etc/", "etc/new"]);
    check(&before, &[gone("etc/profile")], &["etc/", "etc/.wh.profile"]);
    check(&before, &[gone("etc")], &[".wh.etc"]);
    check(&before, &[Op::Mode("etc/hosts".into(), 0o640)], &["etc/hosts"]);
    check(&before, &[Op::Mode("etc".into(), 0o750)], &["etc/"]);
    check(&before, &[Op::Owner("etc/hosts".into(), 7)], &["etc/hosts"]);
    let renamed = Op::Rename("etc/hosts".into(), "root/hosts".into());
    check(&before, &[renamed], &["etc/", "etc/.wh.hosts", "root/", "root/hosts"]);
    let xattr = Op::Xattr("etc/hosts".into(), 3);
    check(&before, &[xattr], &["etc/hosts"]);
    let xattr = Op::Xattr("etc".into(), 3);
    check(&before, &[xattr], &["etc/"]);
    // Recreated: in this directory there is nothing of the old one.
    let recreated = [gone("etc"), dir("etc"), file("etc/hosts"), link("etc/hosts", "etc/again")];
    let want = ["etc/", "etc/again", "etc/hosts -> etc/again", "etc/.wh.profile"];
    check(&before, &recreated, &want);
    // One type becomes another.
    check(&before, &[gone("etc"), file("etc")], &["etc"]);
    check(
        &before,
        &[gone("root/x"), dir("root/x"), file("root/x/y")],
        &["root/", "root/x/", "root/x/y"],
    );
    check(&before, &[gone("etc"), Op::Symlink("etc".into(), "root".into())], &["etc -> root"]);
    check(&before, &[gone("etc/hosts"), Op::Fifo("etc/hosts".into())], &["etc/", "etc/hosts"]);
}

/// D109: names with bytes below the slash.
#[test]
fn names_that_sort_around_the_slash() {
    let before =
        [dir("lib"), file("lib/x"), file("lib.conf"), file("lib x"), dir("lib-a"), file("lib-a/y")];
    check(&before, &[gone("lib/x")], &["lib/", "lib/.wh.x"]);
    check(&before, &[gone("lib")], &[".wh.lib"]);
    check(
        &before,
        &[gone("lib-a/y"), gone("lib.conf")],
        &["lib-a/", "lib-a/.wh.y", ".wh.lib.conf"],
    );
}

/// D110: what is in a directory that is gone is not said to be gone as well.
#[test]
fn sibling_directories_that_are_gone() {
    let before =
        [dir("a"), file("a/x"), dir("b"), dir("b/c"), file("b/c/x"), dir("c"), file("c/x")];
    check(&before, &[gone("a"), gone("b"), gone("c")], &[".wh.a", ".wh.b", ".wh.c"]);
    check(&before, &[gone("a"), gone("b")], &[".wh.a", ".wh.b"]);
}

#[test]
fn hard_links_to_files_that_did_not_change() {
    let before = [dir("d"), file("d/m"), file("d/o")];
    // Before and behind the unchanged name.
    check(&before, &[link("d/m", "d/a")], &["d/", "d/a", "d/m -> d/a"]);
    check(&before, &[link("d/m", "d/z")], &["d/", "d/z", "d/m -> d/z"]);
    check(&before, &[link("d/m", "z"), link("d/m", "a")], &["a", "d/m -> a", "z -> a"]);
    let group = [dir("d"), file("d/m"), link("d/m", "d/n"), link("d/m", "o")];
    check(&group, &[], &[]);
    check(&group, &[gone("d/n")], &["d/", "d/.wh.n"]);
    check(&group, &[changed("d/m")], &["d/m", "d/n -> d/m", "o -> d/m"]);
    check(&group, &[link("o", "d/p")], &["d/", "d/p", "d/m -> d/p", "d/n -> d/p", "o -> d/p"]);
    check(&group, &[changed("d/m"), link("d/m", "a")], &["a", "d/m -> a", "d/n -> a", "o -> a"]);
    // Of two files with the same attributes: one becomes a name of the other, and the other way round.
    check(&group, &[Op::Split("d/n".into())], &["d/", "d/n"]);
    check(&group, &[Op::Split("d/m".into())], &["d/", "d/n", "o -> d/n"]);
}

/// F-116: a change may hide behind a time that was cut off.
#[test]
fn times_without_a_fraction_are_not_trusted() {
    let place = fast_dir();
    let [parent, tree] = ["parent", "tree"].map(|name| place.path().join(name));
    fs::create_dir(&parent).unwrap();
    for name in ["same", "other", "exact"] {
        fs::write(parent.join(name), "one").unwrap();
    }
    copy(&parent, &tree);
    for (name, nanos) in [("same", 0), ("other", 0), ("exact", 5)] {
        fs::write(tree.join(name), if name == "same" { "one" } else { "two" }).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1000, nanos);
        for root in [&parent, &tree] {
            fs::File::open(root.join(name)).unwrap().set_modified(time).unwrap();
        }
    }
    let layer = diff(&tree, Some(&parent), Shape::Whole);
    // Of a time to the nanosecond nobody makes two.
    assert_eq!(entries(&layer), ["other"]);
}

#[test]
fn a_tree_without_parent_is_written_with_all_it_has() {
    let place = fast_dir();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let at = |name: &str| tree.join(name);
    let long = format!("{}/{}", "l".repeat(120), "m".repeat(200));
    fs::create_dir(at(&"l".repeat(120))).unwrap();
    fs::write(at(&long), "long").unwrap();
    fs::write(at("caf\u{e9} \n"), "odd").unwrap();
    symlink("t".repeat(150), at("far")).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, at("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    mknodat(CWD, at("disk"), FileType::BlockDevice, mode, makedev(4095, 0xf_ffff)).unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, at("socket"), FileType::Socket, mode, 0).unwrap();
    mknodat(CWD, at("whiteout"), FileType::CharacterDevice, mode, 0).unwrap();
    fs::write(at("su"), "su").unwrap();
    std::os::unix::fs::chown(at("su"), Some(3_000_000_000), Some(2_097_152)).unwrap();
    fs::set_permissions(at("su"), fs::Permissions::from_mode(0o6755)).unwrap();
    // cap_net_raw+ep, version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(at("su"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    fs::write(at("note"), "x".repeat(700)).unwrap();
    setxattr(at("note"), "user.note", b"a\0b\n=c", XattrFlags::empty()).unwrap();
    setxattr(at("note"), "trusted.overlay.origin", b"x", XattrFlags::empty()).unwrap();
    lsetxattr(at("far"), "trusted.mine", b"x", XattrFlags::empty()).unwrap();
    let times = [("note", -2, 500_000_000), ("su", 10_000_000_000, 0), ("null", 0, 250_000_000)];
    for (name, tv_sec, tv_nsec) in times {
        let time = rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(name), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    let layer = diff(&tree, None, Shape::Whole);
    let [target, other] = ["target", "other"].map(|name| place.path().join(name));
    fs::create_dir(&target).unwrap();
    fs::create_dir(&other).unwrap();
    for root in [&tree, &target, &other] {
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    }
    apply_bytes(layer.clone(), PLAIN, &target, Remove, &Config::default()).unwrap();
    let (mut got, mut want) = (nodes(&target), nodes(&tree));
    for nodes in [&mut got, &mut want] {
        nodes.get_mut(".").unwrap().mtime = (0, 0);
    }
    // What no layer holds.
    want.remove("socket");
    want.remove("whiteout");
    want.get_mut("note").unwrap().xattrs.remove("trusted.overlay.origin");
    assert_eq!(want["su"].owner, (3_000_000_000, 2_097_152));
    assert_same(&got, &want);
    // GNU tar sees the same.
    let archive = place.path().join("layer.tar");
    fs::write(&archive, &layer).unwrap();
    let status = Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs"])
        .args(["--xattrs-include=*", "--delay-directory-restore", "--warning=no-timestamp"])
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&other)
        .status();
    assert!(status.unwrap().success());
    let mut theirs = nodes(&other);
    theirs.get_mut(".").unwrap().mtime = (0, 0);
    assert_same(&theirs, &want);
}

#[test]
fn the_same_tree_gives_the_same_bytes_in_each_compression() {
    let place = fast_dir();
    let [one, two] = ["one", "two"].map(|name| place.path().join(name));
    fs::create_dir(&one).unwrap();
    let ops: Vec<Op> = (0..50).map(|n| file(&format!("file{n}"))).collect();
    prepare(&one, &ops);
    // Another order of making, and so of the directory.
    fs::create_dir(&two).unwrap();
    prepare(&two, &ops.into_iter().rev().collect::<Vec<_>>());
    for name in nodes(&one).keys().filter(|name| *name != ".") {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1000, 7);
        for root in [&one, &two] {
            fs::File::open(root.join(name)).unwrap().set_modified(time).unwrap();
        }
    }
    let plain = diff(&one, None, Shape::Whole);
    for suffix in ["", "+gzip", "+zstd"] {
        let media_type = format!("{PLAIN}{suffix}");
        let write = |tree: &Path| {
            diffed(tree, None, Shape::Whole, &media_type, &Config::default()).unwrap()
        };
        let ((bytes, about), (again, _)) = (write(&one), write(&two));
        assert!(bytes == again, "{suffix}");
        assert_eq!(about.size, bytes.len() as u64);
        let target = fast_dir();
        let applied =
            apply_bytes(bytes.clone(), &media_type, target.path(), Remove, &Config::default());
        assert_eq!(applied.unwrap().diff_id, about.diff_id, "{suffix}");
        let digest = |bytes: &[u8]| {
            use sha2::Digest as _;
            let hash = sha2::Sha256::digest(bytes);
            capstan_sdk::Digest::from_hash(capstan_sdk::Algorithm::Sha256, &hash)
        };
        assert_eq!((about.digest, about.diff_id), (digest(&bytes), digest(&plain)), "{suffix}");
    }
}

#[test]
fn an_upper_directory_is_told_by_the_marks_of_overlayfs() {
    let place = fast_dir();
    let [parent, upper] = ["parent", "upper"].map(|name| place.path().join(name));
    fs::create_dir(&parent).unwrap();
    fs::create_dir(&upper).unwrap();
    let before =
        [dir("opaque"), file("opaque/old"), file("opaque/file"), file("gone"), dir("merged")];
    prepare(&parent, &[&before[..], &[file("merged/kept"), file("merged/gone")]].concat());
    let at = |name: &str| upper.join(name);
    fs::create_dir(at("opaque")).unwrap();
    setxattr(at("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    fs::write(at("opaque/file"), "new").unwrap();
    fs::create_dir(at("merged")).unwrap();
    for name in ["gone", "merged/gone", "merged/never"] {
        mknodat(CWD, at(name), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }
    let layer = diff(&upper, Some(&parent), OVERLAY);
    let want =
        [".wh.gone", "merged/", "merged/.wh.gone", "opaque/", "opaque/file", "opaque/.wh.old"];
    assert_eq!(entries(&layer), want);
    for mark in ["redirect", "metacopy"] {
        let name = if mark == "redirect" { "merged" } else { "opaque/file" };
        setxattr(at(name), format!("trusted.overlay.{mark}"), b"x", XattrFlags::empty()).unwrap();
        let config = Config::default();
        let error = diffed(&upper, Some(&parent), OVERLAY, PLAIN, &config).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.message().contains(name), "{error}");
        rustix::fs::removexattr(at(name), format!("trusted.overlay.{mark}")).unwrap();
    }
}

#[test]
fn what_no_layer_can_hold_is_refused() {
    let config = Config::default();
    let refused = |make: &dyn Fn(&Path), config: &Config, class: Class, says: &str| {
        let tree = fast_dir();
        make(tree.path());
        let error = diffed(tree.path(), None, Shape::Whole, PLAIN, config).unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(error.message().contains(says), "{error}");
    };
    let write = |name: &'static str| move |tree: &Path| fs::write(tree.join(name), "x").unwrap();
    refused(&write(".wh.passwd"), &config, Class::FailedPrecondition, ".wh.passwd");
    let odd = |tree: &Path| {
        fs::write(tree.join("f"), "").unwrap();
        setxattr(tree.join("f"), "user.a=b", b"", XattrFlags::empty()).unwrap();
    };
    refused(&odd, &config, Class::FailedPrecondition, "user.a=b");
    let device = |tree: &Path| {
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, tree.join("d"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    };
    device(fast_dir().path());
    let small = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config
    };
    let limit = Class::ResourceExhausted;
    let deep = |tree: &Path| fs::create_dir_all(tree.join("a/b/c")).unwrap();
    refused(&deep, &small(|c| c.max_depth = 2), limit, "max_depth");
    refused(&deep, &small(|c| c.max_path_bytes = 4), limit, "max_path_bytes");
    refused(&deep, &small(|c| c.max_entries = 2), limit, "max_entries");
    let hole = |tree: &Path| fs::File::create(tree.join("f")).unwrap().set_len(1 << 41).unwrap();
    refused(&hole, &config, limit, "max_bytes");
    let links = |tree: &Path| {
        fs::write(tree.join("a"), "").unwrap();
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    };
    refused(&links, &small(|c| c.max_pending_bytes = 100), limit, "max_pending_bytes");
    let error = diffed(fast_dir().path(), None, Shape::Whole, "text/plain", &config).unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument);
}

/// D111: extended attributes that there cannot be are none.
#[test]
fn a_file_system_without_attributes() {
    let place = fast_dir();
    let ramfs = capstan_sdk::Mount { kind: "ramfs".into(), source: "none".into(), options: vec![] };
    let layers = capstan_sdk::mount::with_mounted(&[ramfs], place.path(), |_| {
        let [parent, tree, target] =
            ["parent", "tree", "target"].map(|name| place.path().join(name));
        fs::create_dir(&parent).unwrap();
        let refused = setxattr(&parent, "user.x", b"1", XattrFlags::empty());
        assert_eq!(refused, Err(rustix::io::Errno::OPNOTSUPP), "it has some");
        prepare(&parent, &[dir("d"), file("d/kept"), file("d/gone"), file("d/old"), file("other")]);
        copy(&parent, &tree);
        copy(&parent, &target);
        let after =
            [gone("d/gone"), changed("d/old"), file("new"), Op::Symlink("d/s".into(), "x".into())];
        perform(&tree, &after);
        let changes = diff(&tree, Some(&parent), Shape::Whole);
        assert_eq!(entries(&changes), ["d/", "d/.wh.gone", "d/old", "d/s -> x", "new"]);
        apply_bytes(changes.clone(), PLAIN, &target, Remove, &Config::default())?;
        let again = diff(&target, Some(&tree), Shape::Whole);
        assert_eq!(entries(&again), Vec::<String>::new());
        let upper = diff(&tree, Some(&parent), OVERLAY);
        assert!(!entries(&upper).is_empty(), "and there are no marks of overlayfs");
        Ok((diff(&parent, None, Shape::Whole), changes))
    });
    let (base, changes) = layers.unwrap();
    let out = fast_dir();
    for layer in [base, changes] {
        apply_bytes(layer, PLAIN, out.path(), Remove, &Config::default()).unwrap();
    }
    let names: Vec<String> = nodes(out.path()).into_keys().collect();
    assert_eq!(names, [".", "d", "d/kept", "d/old", "d/s", "new", "other"]);
}

/// A deep tree takes neither stack nor descriptors.
#[test]
fn a_tree_as_deep_as_names_can_be() {
    let tree = fast_dir();
    let path = vec!["d"; 2000].join("/");
    let config = Config { max_depth: 3000, ..Config::default() };
    fs::create_dir_all(tree.path().join(&path)).unwrap();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let (layer, _) = diffed(tree.path(), None, Shape::Whole, PLAIN, &config).unwrap();
    assert_eq!(entries(&layer).len(), 2000);
    assert!(count() <= before + 20, "descriptors are left");
    let target = fast_dir();
    apply_bytes(layer, PLAIN, target.path(), Remove, &config).unwrap();
    assert_eq!(fs::metadata(target.path().join(path)).unwrap().mode() & 0o7777, 0o755);
}
