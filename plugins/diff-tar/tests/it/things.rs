//! What entries make: types, metadata, replacement.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use capstan_sdk::Class;
use capstan_sdk::contract::differ::Whiteouts::{self, Overlay, Remove};
use rustix::fs::makedev;

use crate::layer::{Header, Layer, MTIME};
use crate::tree::{Node, listing, nodes, xattrs};

const FORMS: [Whiteouts; 2] = [Remove, Overlay];

/// Applies it to an empty tree, in both forms.
#[track_caller]
fn check(layer: &Layer, want: &[&str]) {
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        layer.apply(root.path(), form).unwrap();
        assert_eq!(listing(root.path()), want, "{form:?}");
    }
}

#[test]
fn every_type_is_made_with_all_it_has() {
    let mut special = Header::new(b'0', "setuid", 2);
    special.octal(100, 8, 0o106_751);
    special.octal(108, 8, 1000);
    special.octal(116, 8, 2000);
    let layer = Layer::default()
        .pax(&[("uid", b"3000000000"), ("gid", b"7"), ("mtime", b"1700000000.123456789")])
        .with_mode(b'5', "dir/", 0o3775)
        .pax(&[("mtime", b"-1.5"), ("SCHILY.xattr.user.a", b"\0v\n")])
        .file("dir/file", "data")
        .header(special)
        .data(b"xy")
        .pax(&[("uid", b"5"), ("gid", b"6"), ("SCHILY.xattr.trusted.t", b"1")])
        .symlink("link", "../anywhere/else")
        .link("hard", "setuid")
        .link("hard-link", "link")
        .device(b'3', "char", 1, 3)
        .device(b'4', "block", 0xfff, 0xf_ffff)
        .with_mode(b'6', "fifo", 0o622)
        .pax(&[("SCHILY.xattr.trusted.t", b"")])
        .with_mode(b'0', "empty", 0);
    let xattr = |name: &str, value: &[u8]| BTreeMap::from([(name.to_owned(), value.to_vec())]);
    let node = Node {
        kind: "file",
        mode: 0o644,
        owner: (0, 0),
        mtime: (MTIME, 0),
        data: Vec::new(),
        device: 0,
        xattrs: BTreeMap::new(),
        same_as: None,
    };
    let want = [
        ("block", Node { kind: "block", device: makedev(0xfff, 0xf_ffff), ..node.clone() }),
        ("char", Node { kind: "char", device: makedev(1, 3), ..node.clone() }),
        (
            "dir",
            Node {
                kind: "directory",
                mode: 0o3775,
                owner: (3_000_000_000, 7),
                mtime: (1_700_000_000, 123_456_789),
                ..node.clone()
            },
        ),
        (
            "dir/file",
            Node {
                data: b"data".to_vec(),
                mtime: (-2, 500_000_000),
                xattrs: xattr("user.a", b"\0v\n"),
                ..node.clone()
            },
        ),
        ("empty", Node { mode: 0, xattrs: xattr("trusted.t", b""), ..node.clone() }),
        ("fifo", Node { kind: "fifo", mode: 0o622, ..node.clone() }),
        (
            "hard",
            Node {
                mode: 0o6751,
                owner: (1000, 2000),
                data: b"xy".to_vec(),
                same_as: Some("hard".into()),
                ..node.clone()
            },
        ),
        (
            "hard-link",
            Node {
                kind: "symlink",
                mode: 0o777,
                owner: (5, 6),
                data: b"../anywhere/else".to_vec(),
                xattrs: xattr("trusted.t", b"1"),
                same_as: Some("hard-link".into()),
                ..node.clone()
            },
        ),
    ];
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        let applied = layer.apply(root.path(), form).unwrap();
        let pending: &[&str] = if form == Overlay { &["."] } else { &[] };
        let got: Vec<&str> =
            applied.pending.directories.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!((got.as_slice(), applied.pending.links.len()), (pending, 0));
        let mut got = nodes(root.path());
        got.remove(".");
        for (first, second) in [("hard", "setuid"), ("hard-link", "link")] {
            assert_eq!(got.remove(second).as_ref(), got.get(first));
        }
        assert_eq!(got.into_iter().collect::<Vec<_>>(), want.clone().map(|(n, o)| (n.into(), o)));
    }
}

#[test]
fn atime_is_mtime_unless_it_is_given() {
    let layer = Layer::default().pax(&[("atime", b"5.5")]).dir("a").file("b", "").dir("c");
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        layer.apply(root.path(), form).unwrap();
        let atime = |name: &str| {
            let metadata = fs::symlink_metadata(root.path().join(name)).unwrap();
            (metadata.atime(), metadata.atime_nsec())
        };
        assert_eq!(atime("a"), (5, 500_000_000));
        assert_eq!(atime("b"), (MTIME, 0));
        assert_eq!(atime("c"), (MTIME, 0));
    }
}

#[test]
fn missing_parents_are_plain_directories() {
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        // Where new files get another group than ours.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o2700)).unwrap();
        std::os::unix::fs::chown(root.path(), Some(1), Some(2)).unwrap();
        Layer::default().file("a/b/c", "").apply(root.path(), form).unwrap();
        let nodes = nodes(root.path());
        for name in ["a", "a/b"] {
            assert_eq!((nodes[name].mode, nodes[name].owner), (0o755, (0, 0)), "{name}");
        }
        assert_eq!(nodes["a/b/c"].owner, (0, 0));
        assert_eq!((nodes["."].mode, nodes["."].owner), (0o2700, (1, 2)));
    }
}

#[test]
fn files_in_a_setgid_directory_have_their_own_group() {
    let mut shared = Header::new(b'5', "shared", 0);
    shared.octal(100, 8, 0o2777);
    shared.octal(116, 8, 50);
    let layer = Layer::default()
        .dir("shared")
        .file("shared/a", "")
        .header(shared)
        .file("shared/b", "")
        .dir("shared/c")
        .symlink("shared/d", "x");
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        layer.apply(root.path(), form).unwrap();
        let nodes = nodes(root.path());
        assert_eq!((nodes["shared"].mode, nodes["shared"].owner), (0o2777, (0, 50)));
        for name in ["a", "b", "c", "d"] {
            assert_eq!(nodes[&format!("shared/{name}")].owner, (0, 0), "{name}");
        }
        assert_eq!(nodes["shared/c"].mode, 0o755);
    }
}

#[test]
fn names_are_cleaned_and_absolute_ones_are_beneath() {
    check(
        &Layer::default()
            .dir("./a//b/")
            .file("/a/./c", "1")
            .file("a/b/../d", "2")
            .link("e", "/a/c"),
        &["a/", "a/b/", "a/c=1", "a/d=2", "e=1"],
    );
    let long = "n".repeat(200);
    check(
        &Layer::default().pax(&[("path", long.as_bytes())]).file("short", "1").file("b", "2"),
        &["b=2", &format!("{long}=1")],
    );
}

#[test]
fn gnu_long_names() {
    let long = format!("{}/x", "d".repeat(150));
    let target = format!("{}/y", "t".repeat(150));
    let nul = |text: &str| [text.as_bytes(), b"\0"].concat();
    check(
        &Layer::default()
            .entry(b'L', "././@LongLink", &nul(&long))
            .file("short", "1")
            .entry(b'K', "././@LongLink", &nul(&target))
            .entry(b'L', "././@LongLink", &nul("name"))
            .symlink("short", "short"),
        &[&format!("{}/", "d".repeat(150)), &format!("{long}=1"), &format!("name->{target}")],
    );
}

#[test]
fn anything_replaces_anything() {
    let layer = |kind: u8, form: &str| match kind {
        0 => Layer::default().file("x", form),
        1 => Layer::default().dir("x").file("x/y", form),
        2 => Layer::default().symlink("x", "y"),
        3 => Layer::default().device(b'3', "x", 1, 3),
        4 => Layer::default().file("y", form).link("x", "y"),
        _ => Layer::default().with_mode(b'6', "x", 0o600),
    };
    let wants = [
        vec!["x=2"],
        vec!["x/", "x/y=2"],
        vec!["x->y"],
        vec!["x char 259"],
        vec!["x=2", "y=2"],
        vec!["x fifo 0"],
    ];
    for first in 0..6 {
        for (second, want) in wants.iter().enumerate() {
            let second = u8::try_from(second).unwrap();
            let mut both = layer(first, "1");
            both.0.extend(layer(second, "2").0);
            for form in FORMS {
                let root = tempfile::tempdir().unwrap();
                both.apply(root.path(), form).unwrap();
                let mut got = listing(root.path());
                got.retain(|line| line != "y=1" || want.contains(&"y=2"));
                // In one overlay layer, what was replaced must not let the parents through.
                let is_hiding = form == Overlay && second == 1 && first != 1;
                let want: Vec<String> = want
                    .iter()
                    .map(|line| match *line {
                        "x/" if is_hiding => "x/ opaque".into(),
                        line => line.into(),
                    })
                    .collect();
                assert_eq!(got, want, "{first} then {second}, {form:?}");
            }
            let root = tempfile::tempdir().unwrap();
            layer(first, "1").apply(root.path(), Remove).unwrap();
            layer(second, "2").apply(root.path(), Remove).unwrap();
            let mut got = listing(root.path());
            got.retain(|line| line != "y=1" || want.contains(&"y=2"));
            assert_eq!(got, *want, "{first} then {second} in the next layer");
        }
    }
}

#[test]
fn directories_merge() {
    let root = tempfile::tempdir().unwrap();
    let lower = Layer::default()
        .pax(&[("SCHILY.xattr.user.old", b"1")])
        .with_mode(b'5', "d", 0o700)
        .file("d/kept", "1");
    lower.apply(root.path(), Remove).unwrap();
    let upper = Layer::default()
        .pax(&[("SCHILY.xattr.user.new", b"2"), ("mtime", b"77")])
        .with_mode(b'5', "d", 0o1777)
        .file("d/added", "2");
    upper.apply(root.path(), Remove).unwrap();
    assert_eq!(listing(root.path()), ["d/", "d/added=2", "d/kept=1"]);
    let nodes = nodes(root.path());
    assert_eq!((nodes["d"].mode, nodes["d"].mtime), (0o1777, (77, 0)));
    assert_eq!(nodes["d"].xattrs, BTreeMap::from([("user.new".into(), b"2".to_vec())]));
}

#[test]
fn an_undescribed_directory_of_the_parents_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    Layer::default().with_mode(b'5', "d", 0o1770).apply(root.path(), Remove).unwrap();
    let before = nodes(root.path())["d"].clone();
    Layer::default().file("d/new", "").file("d/e/new", "").apply(root.path(), Remove).unwrap();
    assert_eq!(nodes(root.path())["d"], before);
}

#[test]
fn the_root_can_be_described() {
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        let layer = Layer::default()
            .pax(&[("SCHILY.xattr.user.a", b"1"), ("mtime", b"9"), ("uid", b"3")])
            .with_mode(b'5', "./", 0o555)
            .file("a", "");
        let applied = layer.apply(root.path(), form).unwrap();
        assert!(applied.pending.is_empty());
        let node = &nodes(root.path())["."];
        assert_eq!((node.mode, node.owner, node.mtime), (0o555, (3, 0), (9, 0)));
        assert_eq!(node.xattrs["user.a"], b"1");
    }
    for type_flag in [b'0', b'2', b'1', b'6'] {
        Layer::default().entry(type_flag, "./.", b"").refused(Class::Corrupt);
    }
}

#[test]
fn overlay_attributes_are_dropped_and_capabilities_kept() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Layer::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/.."),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.mine", b"1"),
            ("SCHILY.xattr.no.such.namespace", b"1"),
            ("LIBARCHIVE.xattr.user.b%2E", b"AQI"),
            ("LIBARCHIVE.xattr.user.mine", b"Ag"),
        ])
        .dir("d")
        .pax(&[("SCHILY.xattr.security.capability", capability), ("uid", b"1000")])
        .file("ping", "x")
        .pax(&[("SCHILY.xattr.trusted.overlay.metacopy", b"")])
        .file("meta", "x");
    for form in FORMS {
        let root = tempfile::tempdir().unwrap();
        layer.apply(root.path(), form).unwrap();
        let want = BTreeMap::from([
            ("user.mine".to_owned(), b"1".to_vec()),
            ("user.b.".to_owned(), vec![1, 2]),
        ]);
        assert_eq!(xattrs(&root.path().join("d")), want);
        assert_eq!(xattrs(&root.path().join("ping"))["security.capability"], capability);
        assert!(xattrs(&root.path().join("meta")).is_empty());
    }
    let bad = Layer::default().pax(&[("SCHILY.xattr.security.capability", b"1")]).file("x", "");
    bad.refused(Class::Corrupt);
}

#[test]
fn holes() {
    let five = |text: &str| format!("{text:\0<512}");
    // Format 0.0: pairs of records.
    let sparse_00 = Layer::default()
        .pax(&[
            ("GNU.sparse.size", b"100000"),
            ("GNU.sparse.numblocks", b"3"),
            ("GNU.sparse.offset", b"10"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"50000"),
            ("GNU.sparse.numbytes", b"2"),
            ("GNU.sparse.offset", b"100000"),
            ("GNU.sparse.numbytes", b"0"),
        ])
        .file("s", "abcde");
    let sparse_01 = Layer::default()
        .pax(&[
            ("GNU.sparse.size", b"100000"),
            ("GNU.sparse.numblocks", b"3"),
            ("GNU.sparse.map", b"10,3,50000,2,100000,0"),
            ("GNU.sparse.name", b"s"),
        ])
        .file("GNUSparseFile.1/s", "abcde");
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"100000"),
    ];
    let sparse_10 = Layer::default()
        .pax(&records)
        .file("GNUSparseFile.1/s", &format!("{}abcde", five("3\n10\n3\n50000\n2\n100000\n0\n")));
    let mut header = Header::new(b'S', "s", 5);
    header.put(257, b"ustar  \0");
    for (at, number) in [(386, 10), (398, 3), (410, 50_000), (422, 2), (434, 100_000), (446, 0)] {
        header.octal(at, 12, number);
    }
    header.octal(483, 12, 100_000);
    let old = Layer::default().header(header.clone()).data(b"abcde");
    // The same with the second half of the map in a block behind the header.
    header.0[410..458].fill(0);
    header.0[482] = 1;
    let mut more = Header([0; 512]);
    for (at, number) in [(0, 50_000), (12, 2), (24, 100_000), (36, 0)] {
        more.octal(at, 12, number);
    }
    let old_extended = Layer::default().header(header).data(&more.0).data(b"abcde");
    let mut want = vec![0; 100_000];
    want[10..13].copy_from_slice(b"abc");
    want[50_000..50_002].copy_from_slice(b"de");
    for layer in [sparse_00, sparse_01, sparse_10, old, old_extended] {
        let layer = layer.file("behind", "1");
        for form in FORMS {
            let root = tempfile::tempdir().unwrap();
            layer.apply(root.path(), form).unwrap();
            assert!(fs::read(root.path().join("s")).unwrap() == want);
            assert_eq!(fs::read(root.path().join("behind")).unwrap(), b"1");
            assert!(fs::metadata(root.path().join("s")).unwrap().blocks() < 100);
        }
    }
    let bad = |records: &[(&str, &[u8])], data: &str| {
        Layer::default().pax(records).file("s", data).refused(Class::Corrupt);
    };
    bad(&records, &five("3\n10\n3\n50000\n2\n100000\n0\n"));
    bad(&records, &format!("{}abcdef", five("3\n10\n3\n50000\n2\n100000\n0\n")));
    bad(&records, &format!("{}abcde", five("3\n50000\n2\n10\n3\n100000\n0\n")));
    bad(&records, &format!("{}abcde", five("3\n10\n3\n99999\n2\n100000\n0\n")));
    bad(&records, "3\n10\n3\n50000\n2\n100000\n0\n");
    bad(&[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"1")], "a");
    bad(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")], &five("0\n"));
    bad(&[("GNU.sparse.map", b"0,5")], "abcde");
    bad(&[("GNU.sparse.map", b"0,5"), ("GNU.sparse.size", b"5")], "abcde");
    bad(
        &[("GNU.sparse.map", b"0,5"), ("GNU.sparse.size", b"6"), ("GNU.sparse.numblocks", b"1")],
        "abcde",
    );
    Layer::default().pax(&records).dir("d").refused(Class::Corrupt);
    let mut v7 = Header::new(b'0', "s", 512);
    v7.0[257..265].fill(0);
    let map = five("1\n100000\n0\n");
    Layer::default().pax(&records).header(v7).data(map.as_bytes()).refused(Class::Corrupt);
}
