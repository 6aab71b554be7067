//! What a layer takes from its parents.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use capstan_diff_tar::{Config, Parents, settle};
use capstan_sdk::contract::differ::Pending;
use capstan_sdk::contract::differ::Whiteouts::{Overlay, Remove};
use capstan_sdk::{Class, Result};

use crate::layer::Layer;
use crate::tree::{Canary, listing, nodes};

fn parents() -> Layer {
    Layer::default()
        .pax(&[("mtime", b"55.5"), ("uid", b"1"), ("SCHILY.xattr.user.root", b"1")])
        .with_mode(b'5', ".", 0o711)
        .pax(&[("mtime", b"66"), ("gid", b"9"), ("SCHILY.xattr.user.a", b"1")])
        .with_mode(b'5', "a", 0o1770)
        .pax(&[("mtime", b"77")])
        .with_mode(b'5', "a/b", 0o2755)
        .pax(&[("uid", b"4"), ("SCHILY.xattr.user.t", b"1"), ("mtime", b"88.8")])
        .with_mode(b'0', "a/b/empty", 0o4755)
        .file("a/b/t", "target")
        .symlink("a/l", "nowhere")
        .device(b'3', "a/null", 1, 3)
        .symlink("link", "a")
        .file("file", "")
}

fn run(layer: &Path, parent: &Path, pending: &Pending) -> Result<()> {
    let open = |path: &Path| File::open(path).unwrap().into();
    settle(open(layer), Parents::tree(open(parent))?, pending, &Config::default())
}

/// Applies the layer alone and settles it with the parents; its tree, and what was pending.
fn settled(layer: &Layer) -> Result<(tempfile::TempDir, Pending)> {
    let [root, parent] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    parents().apply(parent.path(), Remove).unwrap();
    let before = nodes(parent.path());
    let pending = layer.apply(root.path(), Overlay).unwrap().pending;
    let result = run(root.path(), parent.path(), &pending);
    assert_eq!(nodes(parent.path()), before, "the parents stay as they are");
    result.map(|()| (root, pending))
}

#[test]
fn directories_become_as_the_parents_have_them() {
    let layer = Layer::default().file("a/b/new", "1").file("a/own/new", "1").dir("d");
    let (root, pending) = settled(&layer).unwrap();
    let want: Vec<PathBuf> = [".", "a", "a/b", "a/own"].map(PathBuf::from).into();
    assert_eq!(pending.directories, want);
    let nodes = nodes(root.path());
    let check = |name: &str, mode, owner, mtime, xattrs: &[&str]| {
        let node = &nodes[name];
        assert_eq!((node.mode, node.owner, node.mtime), (mode, owner, mtime), "{name}");
        assert_eq!(node.xattrs.keys().collect::<Vec<_>>(), xattrs, "{name}");
    };
    check(".", 0o711, (1, 0), (55, 500_000_000), &["user.root"]);
    check("a", 0o1770, (0, 9), (66, 0), &["user.a"]);
    check("a/b", 0o2755, (0, 0), (77, 0), &[]);
    assert_eq!((nodes["a/own"].mode, nodes["a/own"].owner), (0o755, (0, 0)));
}

#[test]
fn what_a_later_entry_settles_is_not_pending() {
    let layer = Layer::default()
        .file("a/b/new", "1")
        .with_mode(b'5', "a", 0o700)
        .link("x", "a/b/t")
        .file("x", "1")
        .link("y", "a/b/t")
        .dir("y")
        .link("z", "a/b/t")
        .file(".wh.z", "");
    let (root, pending) = settled(&layer).unwrap();
    assert_eq!(pending.directories, [PathBuf::from("."), PathBuf::from("a/b")]);
    assert_eq!(pending.links, [(PathBuf::from("z"), PathBuf::from("a/b/t"))]);
    let want = ["a/", "a/b/", "a/b/new=1", "a/b/t=target", "x=1", "y/ opaque", "z=target"];
    assert_eq!(listing(root.path()), want);
    assert_eq!(nodes(root.path())["a"].mode, 0o700);
}

#[test]
fn links_bring_their_targets() {
    let layer = Layer::default()
        .link("one", "a/b/empty")
        .link("d/two", "/a/./b/empty")
        .link("three", "one")
        .link("sym", "a/l")
        .link("dev", "a/null")
        .link("a/b/t", "a/b/t");
    let (root, pending) = settled(&layer).unwrap();
    assert_eq!(pending.links.len(), 6);
    let nodes = nodes(root.path());
    let first = &nodes["a/b/empty"];
    assert_eq!((first.mode, first.owner, first.mtime), (0o4755, (4, 0), (88, 800_000_000)));
    assert_eq!(first.xattrs["user.t"], b"1");
    assert_eq!(first.same_as.as_deref(), Some("a/b/empty"));
    for name in ["one", "d/two", "three"] {
        assert_eq!(&nodes[name], first, "{name}");
    }
    assert_eq!(fs::metadata(root.path().join("one")).unwrap().nlink(), 4);
    assert_eq!(
        (nodes["sym"].kind, nodes["sym"].data.as_slice()),
        ("symlink", b"nowhere".as_slice())
    );
    assert_eq!(nodes["dev"].kind, "char");
    assert_eq!(nodes["dev"].same_as.as_deref(), Some("a/null"));
    assert_eq!(
        (nodes["a/b/t"].data.as_slice(), &nodes["a/b/t"].same_as),
        (b"target".as_slice(), &None)
    );
    // The directories on the way to the targets are as the parents have them, too.
    assert_eq!((nodes["a"].mode, nodes["a"].owner, nodes["a"].mtime), (0o1770, (0, 9), (66, 0)));
    assert_eq!((nodes["a/b"].mode, nodes["a/b"].mtime), (0o2755, (77, 0)));
}

#[test]
fn directories_on_the_way_to_a_target_become_as_the_parents_have_them() {
    let (root, _) = settled(&Layer::default().link("one", "a/b/t")).unwrap();
    assert_eq!(listing(root.path()), ["a/", "a/b/", "a/b/t=target", "one=target"]);
    let nodes = nodes(root.path());
    assert_eq!((nodes["a"].mode, nodes["a"].owner, nodes["a"].mtime), (0o1770, (0, 9), (66, 0)));
    assert_eq!((nodes["a/b"].mode, nodes["a/b"].mtime), (0o2755, (77, 0)));
    let below = Layer::default().link("l", "a/b/t").file("l/x", "");
    let root = tempfile::tempdir().unwrap();
    assert_eq!(below.apply(root.path(), Overlay).unwrap_err().class(), Class::Corrupt);
}

#[test]
fn a_deletion_makes_no_directory() {
    let layer = Layer::default()
        .file("none/.wh.x", "")
        .file("none/sub/.wh.y", "")
        .file("empty/.wh..wh..opq", "")
        .file("a/.wh.none", "")
        .file("own/.wh.x", "")
        .file("own/y", "1");
    let (root, _) = settled(&layer).unwrap();
    assert_eq!(listing(root.path()), ["a/", "a/none gone", "own/", "own/y=1"]);
}

#[test]
fn a_deleted_target_does_not_come_back() {
    let check = |layer: Layer, want: &[&str]| {
        let (root, _) = settled(&layer).unwrap();
        assert_eq!(listing(root.path()), want);
        let nodes = nodes(root.path());
        assert_eq!(nodes["l"].data, b"target");
        assert_eq!(nodes["m"].same_as.as_deref(), Some("l"));
    };
    let links = || Layer::default().link("l", "a/b/t").link("m", "a/b/t");
    let one = ["a/", "a/b/", "a/b/t gone", "l=target", "m=target"];
    check(links().file("a/b/.wh.t", ""), &one);
    check(links().file("a/.wh.b", ""), &["a/", "a/b gone", "l=target", "m=target"]);
    check(links().file(".wh.a", ""), &["a gone", "l=target", "m=target"]);
    check(links().file("a/.wh..wh..opq", ""), &["a/ opaque", "l=target", "m=target"]);
    check(links().file(".wh.a", "").dir("a"), &["a/ opaque", "l=target", "m=target"]);
    // Deleted first, it is not there to be linked.
    for layer in [
        Layer::default().file("a/b/.wh.t", "").link("l", "a/b/t"),
        Layer::default().file(".wh.a", "").link("l", "a/b/t"),
        Layer::default().file("a/.wh..wh..opq", "").link("l", "a/b/t"),
        Layer::default().file(".wh.a", "").dir("a").link("l", "a/b/t"),
    ] {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(layer.apply(root.path(), Overlay).unwrap_err().class(), Class::Corrupt);
    }
    // And one that stands behind its link may not be its target.
    let root = tempfile::tempdir().unwrap();
    let layer = Layer::default().link("l", "t").file("t", "");
    assert_eq!(layer.apply(root.path(), Overlay).unwrap_err().class(), Class::FailedPrecondition);
}

#[test]
fn what_has_no_overlay_form_falls_back() {
    let check = |layer: Layer, want: Class| {
        let error = settled(&layer).unwrap_err();
        assert_eq!(error.class(), want, "{error}");
    };
    check(Layer::default().file("link/new", ""), Class::FailedPrecondition);
    check(Layer::default().file("link/b/new", ""), Class::FailedPrecondition);
    check(Layer::default().file("file/new", ""), Class::FailedPrecondition);
    check(Layer::default().link("x", "a/none"), Class::Corrupt);
    check(Layer::default().link("x", "none/t"), Class::Corrupt);
    check(Layer::default().link("x", "link/b/t"), Class::Corrupt);
    check(Layer::default().link("x", "a/b"), Class::Corrupt);
}

#[test]
fn names_that_were_not_asked_for_do_not_reach_out() {
    let canary = Canary::new();
    let [root, parent] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let out = PathBuf::from(canary.path());
    let up = PathBuf::from("../".repeat(30)).join(&canary.path()[1..]);
    let layer = Layer::default().symlink("d", canary.path());
    layer.apply(root.path(), Remove).unwrap();
    layer.apply(parent.path(), Remove).unwrap();
    for directory in [out.clone(), up.clone(), "d".into(), "d/sub".into()] {
        let pending = Pending { directories: vec![directory], links: vec![] };
        let _ = run(root.path(), parent.path(), &pending);
        canary.check();
    }
    for (link, target) in [
        ("x".into(), up.join("secret")),
        ("x".into(), out.join("secret")),
        ("x".into(), "d/secret".into()),
        ("d/x".into(), "d".into()),
        (up.join("x"), "d".into()),
    ] {
        let pending = Pending { directories: vec![], links: vec![(link, target)] };
        assert!(run(root.path(), parent.path(), &pending).is_err());
        canary.check();
    }
}
