//! Archives that reach out: a canary outside must not notice, whatever the answer is.

use std::fs;
use std::os::unix::fs::symlink;

use capstan_diff_tar::Config;
use capstan_sdk::contract::differ::Whiteouts::{Overlay, Remove};
use capstan_sdk::{Class, Result};

use crate::layer::Layer;
use crate::tree::{Canary, listing};

/// What the tree is to have, or the class of the error.
type Want<'a> = Result<&'a [&'a str], Class>;

/// Applies layers one after the other with removal, and the last one alone in overlay form.
#[track_caller]
fn check(canary: &Canary, layers: &[Layer], removing: Want<'_>, overlay: Want<'_>) {
    let root = tempfile::tempdir().unwrap();
    let (last, first) = layers.split_last().unwrap();
    for layer in first {
        layer.apply(root.path(), Remove).unwrap();
    }
    let result = last.apply(root.path(), Remove);
    let got = result.map(|_| listing(root.path())).map_err(|error| error.class());
    assert_eq!(got, removing.map(to_strings));
    canary.check();
    let root = tempfile::tempdir().unwrap();
    let result = last.apply(root.path(), Overlay);
    let got = result.map(|_| listing(root.path())).map_err(|error| error.class());
    assert_eq!(got, overlay.map(to_strings));
    canary.check();
}

fn to_strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn names_that_leave_the_root() {
    let canary = Canary::new();
    let up = format!("{}{}", "../".repeat(30), canary.path().trim_start_matches('/'));
    for name in [format!("{up}/x"), format!("a/{up}/x"), "..".into(), "a/../../x".into()] {
        let pax: [(&str, &[u8]); 1] = [("path", name.as_bytes())];
        let layers = [
            Layer::default().pax(&pax).file("x", "1"),
            Layer::default().pax(&pax).dir("x"),
            Layer::default().pax(&pax).symlink("x", "y"),
            Layer::default().file("y", "").pax(&pax).link("x", "y"),
        ];
        for layer in layers {
            check(&canary, &[layer], Err(Class::Corrupt), Err(Class::Corrupt));
        }
    }
    let absolute = format!("{}/new", canary.path());
    let layer = Layer::default().pax(&[("path", absolute.as_bytes())]).file("x", "1");
    let root = tempfile::tempdir().unwrap();
    layer.apply(root.path(), Remove).unwrap();
    assert_eq!(fs::read(root.path().join(&absolute[1..])).unwrap(), b"1");
    canary.check();
    Layer::default().pax(&[("path", b"a\0b")]).file("x", "").refused(Class::Corrupt);
}

#[test]
fn writing_through_a_link() {
    let canary = Canary::new();
    let out = canary.path();
    let link = || Layer::default().symlink("d", out);
    let beneath: Vec<String> = {
        let mut lines = vec![format!("d->{out}")];
        let parts: Vec<&str> = out[1..].split('/').collect();
        lines.extend((1..=parts.len()).map(|n| format!("{}/", parts[..n].join("/"))));
        lines.push(format!("{}/x=1", parts.join("/")));
        lines.sort();
        lines
    };
    let beneath: Vec<&str> = beneath.iter().map(String::as_str).collect();
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    // The parents' links are followed as if the root were the root.
    for layers in [vec![link().file("d/x", "1")], vec![link(), Layer::default().file("d/x", "1")]] {
        let root = tempfile::tempdir().unwrap();
        for layer in &layers {
            layer.apply(root.path(), Remove).unwrap();
        }
        assert_eq!(sorted(listing(root.path())), beneath);
        canary.check();
    }
    // In overlay form it cannot be known what a link leads to.
    let root = tempfile::tempdir().unwrap();
    let error = link().file("d/x", "1").apply(root.path(), Overlay).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    canary.check();
    // Over the link itself: it is replaced (CVE-2026-33056).
    let over = |layer: Layer, want: &str, in_overlay: &str| {
        check(&canary, &[layer], Ok(&[want]), Ok(&[in_overlay]));
    };
    over(link().with_mode(b'5', "d", 0o777), "d/", "d/ opaque");
    over(link().with_mode(b'5', "d/", 0o777), "d/", "d/ opaque");
    over(Layer::default().symlink("s", &format!("{out}/secret")).file("s", "1"), "s=1", "s=1");
    let layer = Layer::default().symlink("s", &format!("{out}/secret")).with_mode(b'6', "s", 0o666);
    over(layer, "s fifo 0", "s fifo 0");
    check(
        &canary,
        &[link(), Layer::default().with_mode(b'5', "d", 0o777)],
        Ok(&["d/"]),
        Ok(&["d/"]),
    );
}

#[test]
fn links_in_the_parents_are_followed_beneath_the_root() {
    let canary = Canary::new();
    let parents = Layer::default()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("up", "../../../usr/lib")
        .symlink("chain", "lib")
        .symlink("usr/back", "../lib/./..")
        .symlink("dangling", "not/there")
        .symlink("loop", "loop")
        .symlink("file", "usr/plain")
        .file("usr/plain", "");
    let lands = |path: &str, at: &str| {
        let root = tempfile::tempdir().unwrap();
        parents.apply(root.path(), Remove).unwrap();
        Layer::default().file(path, "new").apply(root.path(), Remove).unwrap();
        assert_eq!(fs::read(root.path().join(at)).unwrap(), b"new", "{path}");
        assert!(fs::symlink_metadata(root.path().join("lib")).unwrap().is_symlink());
    };
    lands("lib/x", "usr/lib/x");
    lands("abs/x", "usr/lib/x");
    lands("up/x", "usr/lib/x");
    lands("chain/d/x", "usr/lib/d/x");
    lands("usr/back/x", "usr/x");
    lands("dangling/x", "not/there/x");
    for path in ["loop/x", "file/x", "usr/plain/x"] {
        let root = tempfile::tempdir().unwrap();
        parents.apply(root.path(), Remove).unwrap();
        let error = Layer::default().file(path, "").apply(root.path(), Remove).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
    }
    // Whiteouts follow, too, but make nothing.
    let root = tempfile::tempdir().unwrap();
    parents.apply(root.path(), Remove).unwrap();
    Layer::default().file("lib/x", "").file("lib/y", "").apply(root.path(), Remove).unwrap();
    let layer =
        Layer::default().file("abs/.wh.x", "").file("dangling/.wh.x", "").file("loop2/.wh.x", "");
    layer.apply(root.path(), Remove).unwrap();
    assert!(!root.path().join("usr/lib/x").exists());
    assert!(root.path().join("usr/lib/y").exists());
    assert!(!root.path().join("not").exists());
    canary.check();
}

#[test]
fn hard_links_do_not_reach_out() {
    let canary = Canary::new();
    let secret = format!("{}/secret", canary.path());
    let up = format!("{}{}", "../".repeat(30), &secret[1..]);
    let refused = Err(Class::Corrupt);
    check(
        &canary,
        &[Layer::default().link("l", &up).with_mode(b'0', "l", 0o777)],
        refused,
        refused,
    );
    // An absolute target is one beneath the root, and there is none.
    let layer = Layer::default().link("l", &secret);
    check(&canary, std::slice::from_ref(&layer), refused, Ok(&[]));
    let layer = Layer::default().link("l", &secret).with_mode(b'0', "l", 0o777);
    check(&canary, &[layer], refused, Ok(&["l="]));
    // Through a link, to a link, and then over the name.
    let layer = Layer::default().symlink("d", canary.path()).link("l", "d/secret");
    check(&canary, &[layer], refused, refused);
    let layer = Layer::default().symlink("d", canary.path());
    let root_link = format!("d->{}", canary.path());
    check(&canary, &[layer.clone(), Layer::default().link("l", "d/secret")], refused, Ok(&[]));
    let want = [root_link.as_str(), &format!("l->{}", canary.path())];
    check(&canary, &[layer.clone().link("l", "d")], Ok(&want), Ok(&want));
    let layer = layer.link("l", "d").with_mode(b'5', "l", 0o777);
    check(&canary, &[layer], Ok(&[&root_link, "l/"]), Ok(&[&root_link, "l/ opaque"]));
    let layer = Layer::default().dir("d").link("l", "d");
    check(&canary, &[layer], refused, refused);
    let layer = Layer::default().dir("d").file("d/x", "").link("d", "d/x");
    check(&canary, &[layer], refused, refused);
    let layer = Layer::default().link("l", "/");
    check(&canary, &[layer], refused, refused);
    let layer = Layer::default().file("f", "").link("l", "f/x");
    check(&canary, &[layer], refused, refused);
    for target in [".wh.x", ".wh..wh.plnk/1.1", "a/.wh..wh..opq"] {
        check(&canary, &[Layer::default().link("l", target)], refused, refused);
    }
}

#[test]
fn devices_that_are_whiteouts() {
    let canary = Canary::new();
    let layer = Layer::default().device(b'3', "x", 0, 0);
    check(&canary, &[layer], Err(Class::Corrupt), Err(Class::Corrupt));
    let layer = Layer::default().device(b'4', "x", 0, 0);
    check(&canary, &[layer], Ok(&["x block 0"]), Ok(&["x block 0"]));
}

#[test]
fn a_tree_that_is_hostile_already() {
    // Whatever is below the root was put there by layers, too.
    let canary = Canary::new();
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    symlink(canary.path(), at("d")).unwrap();
    symlink(format!("{}/secret", canary.path()), at("s")).unwrap();
    fs::create_dir(at("e")).unwrap();
    symlink(canary.path(), at("e/d")).unwrap();
    let layers = [
        Layer::default().file("d/.wh.secret", ""),
        Layer::default().file("d/.wh..wh..opq", ""),
        Layer::default().file(".wh.s", ""),
        Layer::default().file("e/.wh..wh..opq", ""),
        Layer::default().file(".wh.e", ""),
        Layer::default().file("d/sub/.wh.x", ""),
        Layer::default().file(".wh.d", ""),
        Layer::default().file(".wh..wh..opq", ""),
    ];
    for layer in layers {
        layer.apply_with(root.path(), Remove, &Config::default()).unwrap();
        canary.check();
    }
    assert!(listing(root.path()).is_empty());
}
