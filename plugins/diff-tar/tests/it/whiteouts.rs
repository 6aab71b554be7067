//! Deletions, in both forms.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use capstan_diff_tar::Config;
use capstan_sdk::Class;
use capstan_sdk::contract::differ::Whiteouts::{Overlay, Remove};

use crate::layer::Layer;
use crate::tree::{listing, nodes};

/// What the parents have.
fn parents() -> Layer {
    Layer::default()
        .dir("a")
        .file("a/x", "1")
        .file("a/y", "1")
        .with_mode(b'5', "a/sub", 0o700)
        .file("a/sub/z", "1")
        .file("f", "1")
        .symlink("l", "a")
}

const OPAQUE: &str = ".wh..wh..opq";

/// Applies it onto the parents with removal, and alone in overlay form.
#[track_caller]
fn check(layer: &Layer, removing: &[&str], overlay: &[&str], pending: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    parents().apply(root.path(), Remove).unwrap();
    let applied = layer.apply(root.path(), Remove).unwrap();
    assert_eq!(listing(root.path()), removing);
    assert!(applied.pending.is_empty());
    let root = tempfile::tempdir().unwrap();
    let applied = layer.apply(root.path(), Overlay).unwrap();
    assert_eq!(listing(root.path()), overlay);
    let got: Vec<&str> =
        applied.pending.directories.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(got, [&["."], pending].concat());
}

/// Applies it onto the parents; alone it cannot be.
#[track_caller]
fn check_on_parents(layer: &Layer, want: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    parents().apply(root.path(), Remove).unwrap();
    layer.apply(root.path(), Remove).unwrap();
    assert_eq!(listing(root.path()), want);
    let root = tempfile::tempdir().unwrap();
    let error = layer.apply(root.path(), Overlay).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
}

/// Alone, the layer would have the file in a directory of its own in the link's place. containerd and umoci have it
/// where the link led.
#[test]
fn what_was_put_through_a_link_stays_when_the_link_goes() {
    let want = ["a/", "a/new=2", "a/sub/", "a/sub/z=1", "a/x=1", "a/y=1", "f=1"];
    check_on_parents(&Layer::default().file("l/new", "2").file(".wh.l", ""), &want);
    let deep = ["a/", "a/sub/", "a/sub/new=2", "a/sub/z=1", "a/x=1", "a/y=1", "f=1"];
    check_on_parents(&Layer::default().file("l/sub/new", "2").file(".wh.l", ""), &deep);
    // In the other order the link is gone before.
    let layer = Layer::default().file(".wh.l", "").file("l/new", "2");
    let rest = ["a/", "a/sub/", "a/sub/z=1", "a/x=1", "a/y=1", "f=1", "l/", "l/new=2"];
    check(&layer, &rest, &["l/ opaque", "l/new=2"], &[]);
}

#[test]
fn whiteouts_delete_what_the_parents_have() {
    let layer = Layer::default;
    let all = ["a/", "a/sub/", "a/sub/z=1", "a/x=1", "a/y=1", "f=1", "l->a"];
    check(&layer().file(".wh.f", ""), &[&all[..5], &all[6..]].concat(), &["f gone"], &[]);
    check(&layer().file(".wh.a", ""), &["f=1", "l->a"], &["a gone"], &[]);
    check(&layer().file(".wh.l", ""), &all[..6], &["l gone"], &[]);
    check(
        &layer().file("a/.wh.x", ""),
        &[&all[..3], &all[4..]].concat(),
        &["a/", "a/x gone"],
        &["a"],
    );
    check(
        &layer().dir("a").file("a/.wh.sub", "data is ignored").file("b", "2"),
        &["a/", "a/x=1", "a/y=1", "b=2", "f=1", "l->a"],
        &["a/", "a/sub gone", "b=2"],
        &[],
    );
    check(&layer().file(".wh.none", ""), &all, &["none gone"], &[]);
    // Parents are made for overlayfs only, which needs a place for the node.
    check(&layer().file("b/c/.wh.x", ""), &all, &["b/", "b/c/", "b/c/x gone"], &["b", "b/c"]);
    check(&layer().file("b/c/.wh..wh..opq", ""), &all, &["b/", "b/c/ opaque"], &["b", "b/c"]);
}

#[test]
fn a_whiteout_spares_what_its_layer_made() {
    let layer = Layer::default;
    let rest = ["a/", "a/sub/", "a/sub/z=1", "a/x=1", "a/y=1"];
    for layer in
        [layer().file("f", "2").file(".wh.f", ""), layer().file(".wh.f", "").file("f", "2")]
    {
        check(&layer, &[&rest[..], &["f=2", "l->a"]].concat(), &["f=2"], &[]);
    }
    for layer in [
        layer().dir("a").file("a/new", "2").file(".wh.a", ""),
        layer().dir("a").file(".wh.a", "").file("a/new", "2"),
        layer().file(".wh.a", "").dir("a").file("a/new", "2"),
        layer().file(".wh.a", "").file("a/new", "2").dir("a"),
        layer().file(".wh.a", "").file("a/new", "2"),
    ] {
        check(&layer, &["a/", "a/new=2", "f=1", "l->a"], &["a/ opaque", "a/new=2"], &[]);
    }
    let late = layer().file("a/new", "2").file(".wh.a", "");
    check_on_parents(&late, &["a/", "a/new=2", "f=1", "l->a"]);
    for layer in
        [layer().file(".wh.f", "").link("f", "g"), layer().link("f", "g").file(".wh.f", "")]
    {
        let layer = Layer([Layer::default().file("g", "2").0, layer.0].concat());
        check(&layer, &[&rest[..], &["f=2", "g=2", "l->a"]].concat(), &["f=2", "g=2"], &[]);
    }
}

#[test]
fn opaque_directories() {
    let marker = format!("a/{OPAQUE}");
    let layer = Layer::default;
    for layer in [
        layer().dir("a").file(&marker, "").file("a/new", "2").file("a/x", "2"),
        layer().dir("a").file("a/new", "2").file("a/x", "2").file(&marker, ""),
        layer().file(&marker, "").dir("a").file("a/new", "2").file("a/x", "2"),
        layer().dir("a").file(&marker, "").file("a/new", "2").file("a/x", "2").file(&marker, ""),
    ] {
        let want = ["a/", "a/new=2", "a/x=2", "f=1", "l->a"];
        check(&layer, &want, &["a/ opaque", "a/new=2", "a/x=2"], &[]);
    }
    // What a directory was made for stays with it.
    let want = ["a/", "a/sub/", "a/sub/new=2", "f=1", "l->a"];
    let late = [
        layer().dir("a").file("a/sub/new", "2").file(&marker, ""),
        layer().dir("a").file("a/sub/new", "2").file("a/.wh.sub", "").file(&marker, ""),
    ];
    late.iter().for_each(|layer| check_on_parents(layer, &want));
    let early = layer().dir("a").file(&marker, "").file("a/sub/new", "2");
    check(&early, &want, &["a/ opaque", "a/sub/", "a/sub/new=2"], &[]);
    for layer in late.iter().chain([&early]) {
        let root = tempfile::tempdir().unwrap();
        parents().apply(root.path(), Remove).unwrap();
        layer.apply(root.path(), Remove).unwrap();
        assert_eq!(nodes(root.path())["a/sub"].mode, 0o755, "it is a new directory");
    }
    check(&layer().file(&marker, ""), &["a/", "f=1", "l->a"], &["a/ opaque"], &["a"]);
}

#[test]
fn a_directory_that_was_deleted_and_made_again_is_a_new_one() {
    let root = tempfile::tempdir().unwrap();
    parents().apply(root.path(), Remove).unwrap();
    let layer = Layer::default().file("a/sub/new", "2").file("a/.wh.sub", "");
    layer.apply(root.path(), Remove).unwrap();
    assert_eq!(
        listing(root.path()),
        ["a/", "a/sub/", "a/sub/new=2", "a/x=1", "a/y=1", "f=1", "l->a"]
    );
    assert_eq!(nodes(root.path())["a/sub"].mode, 0o755);
}

#[test]
fn directories_keep_their_times_when_they_are_emptied() {
    let root = tempfile::tempdir().unwrap();
    parents().apply(root.path(), Remove).unwrap();
    let before = nodes(root.path());
    let layer =
        Layer::default().dir("a/sub").file("a/sub/new", "").file(&format!("a/{OPAQUE}"), "");
    layer.apply(root.path(), Remove).unwrap();
    let after = nodes(root.path());
    for name in [".", "a", "a/sub"] {
        assert_eq!(after[name].mtime, before[name].mtime, "{name}");
    }
}

#[test]
fn an_opaque_root() {
    let layer = Layer::default().file("new", "2").file(OPAQUE, "");
    let root = tempfile::tempdir().unwrap();
    parents().apply(root.path(), Remove).unwrap();
    layer.apply(root.path(), Remove).unwrap();
    assert_eq!(listing(root.path()), ["new=2"]);
    // overlayfs does not look at this attribute of a root.
    let root = tempfile::tempdir().unwrap();
    let error = layer.apply(root.path(), Overlay).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", ".wh./", ".wh.a/b"] {
        let error =
            Layer::default().dir("a").file(name.trim_end_matches('/'), "").refused(Class::Corrupt);
        assert!(error.message().contains(".wh."), "{error}");
    }
}

#[test]
fn files_of_aufs_are_skipped() {
    let layer = Layer::default()
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "data")
        .file(".wh..wh.aufs", "")
        .file("new", "2");
    let root = tempfile::tempdir().unwrap();
    layer.apply(root.path(), Remove).unwrap();
    assert_eq!(listing(root.path()), ["new=2"]);
    layer.link("l", ".wh..wh.plnk/1.3").refused(Class::Corrupt);
}

/// Hard links to where aufs has a file with several names are files of their own, in both forms.
#[test]
fn apply_aufs() {
    let big = "x".repeat(200_000);
    let layer = Layer::default()
        .dir(".wh..wh.plnk")
        .entry(b'0', ".wh..wh.plnk/1.2", b"data")
        .with_mode(b'0', ".wh..wh.plnk/7.8", 0o4711)
        .file(".wh..wh.plnk/3.4", &big)
        .dir(".wh..wh.plnk/5")
        .symlink(".wh..wh.plnk/6", "/etc/passwd")
        .file("old", "1")
        .dir("d")
        .link("d/a", ".wh..wh.plnk/1.2")
        .link("d/b", "./.wh..wh.plnk/1.2")
        .link("old", ".wh..wh.plnk/3.4")
        .link("setuid", ".wh..wh.plnk/7.8");
    for form in [Remove, Overlay] {
        let root = tempfile::tempdir().unwrap();
        layer.apply(root.path(), form).unwrap();
        let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(
            (read("d/a"), read("d/b"), read("old")),
            ("data".into(), "data".into(), big.clone())
        );
        fs::write(root.path().join("d/a"), "other").unwrap();
        assert_eq!(read("d/b"), "data");
        let mode = fs::metadata(root.path().join("setuid")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o4711);
        let mut names: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["d", "old", "setuid"]);
    }
    // What was no file, is not there, or comes later is no target.
    for target in ["5", "6", "1.2/x", "9", "later", ""] {
        let link = layer.clone().link("l", &format!(".wh..wh.plnk/{target}"));
        let error = link.file(".wh..wh.plnk/later", "").refused(Class::Corrupt);
        assert!(error.message().contains("\"l\"") || error.message().contains("link l"), "{error}");
    }
    // Copies count as the files that they are, and so does the policy.
    let root = tempfile::tempdir().unwrap();
    let config = Config { max_bytes: 500_000, ..Config::default() };
    layer.apply_with(root.path(), Remove, &config).unwrap();
    let bomb = layer.clone().link("e", ".wh..wh.plnk/3.4");
    let root = tempfile::tempdir().unwrap();
    let error = bomb.apply_with(root.path(), Remove, &config).unwrap_err();
    assert!(error.message().ends_with("max_bytes"), "{error}");
    let root = tempfile::tempdir().unwrap();
    let config = Config { allow_setuid: false, ..Config::default() };
    let error = layer.apply_with(root.path(), Remove, &config).unwrap_err();
    assert!(error.message().contains("allow_setuid"), "{error}");
}
