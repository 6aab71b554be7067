//! The same archives through GNU tar and through us: the same trees.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use capstan_diff_tar::Config;
use capstan_sdk::contract::differ::Whiteouts::{Overlay, Remove};
use proptest::prelude::{Strategy, any, prop};
use proptest::test_runner::{Config as Cases, TestRunner};
use rustix::fs::{FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use crate::layer::{Layer, PLAIN, apply_bytes};
use crate::tree::{assert_same, fast_dir, nodes};

/// Runs GNU tar; the archive goes in or out through the standard streams.
fn gnu_tar(directory: &Path, arguments: &[&str], archive: Vec<u8>) -> Vec<u8> {
    let mut child = Command::new("tar")
        .arg("--warning=no-timestamp")
        .arg("--directory")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &archive));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "tar {arguments:?}");
    writer.join().unwrap().unwrap();
    output.stdout
}

/// Unpacks with GNU tar, and with us in both forms. Directories without an entry have the time of
/// the test, and GNU tar makes them by the umask.
#[track_caller]
fn check(archive: &[u8], undescribed: &[&str]) {
    let theirs = fast_dir();
    // Without the delay, a directory loses its time to files that come late.
    let flags = [
        "--extract",
        "--preserve-permissions",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--delay-directory-restore",
        "--file=-",
    ];
    gnu_tar(theirs.path(), &flags, archive.into());
    let mut want = nodes(theirs.path());
    for form in [Remove, Overlay] {
        let ours = fast_dir();
        let config = Config::default();
        apply_bytes(archive.into(), PLAIN, ours.path(), form, &config).unwrap();
        let mut got = nodes(ours.path());
        for name in undescribed {
            for nodes in [&mut got, &mut want] {
                let node = nodes.get_mut(*name).unwrap();
                (node.mtime, node.mode) = ((0, 0), 0);
            }
        }
        assert_same(&got, &want);
    }
}

fn set_modified(path: &Path, nanos: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A tree with some of everything.
fn populate(root: &Path) {
    let at = |name: &str| root.join(name);
    for (name, mode) in [("a", 0o755), ("a/b", 0o2775), ("a/empty", 0o700), ("tmp", 0o1777)] {
        fs::create_dir(at(name)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let long = format!("a/{}/{}", "l".repeat(200), "m".repeat(120));
    fs::create_dir(at(&long[..202])).unwrap();
    for (name, size) in [("a/small", 10), ("a/b/block", 512), ("big", 700_000), ("nothing", 0)] {
        let data: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
        fs::write(at(name), data).unwrap();
    }
    fs::write(at(&long), "long").unwrap();
    fs::write(at("a/caf\u{e9} \n'"), "odd").unwrap();
    fs::hard_link(at("big"), at("a/b/same")).unwrap();
    fs::hard_link(at("big"), at("zlast")).unwrap();
    symlink("../nowhere", at("a/dangling")).unwrap();
    symlink("t".repeat(300), at("a/long-target")).unwrap();
    fs::hard_link(at("a/dangling"), at("a/dangling2")).unwrap();
    chown(at("a/small"), Some(1000), Some(3_000_000_000)).unwrap();
    std::os::unix::fs::lchown(at("a/dangling"), Some(7), Some(8)).unwrap();
    fs::set_permissions(at("a/small"), fs::Permissions::from_mode(0o6755)).unwrap();
    let device = |name: &str, kind, number| {
        mknodat(fs::File::open(root).unwrap(), name, kind, Mode::from(0o640), number).unwrap();
    };
    device("null", FileType::CharacterDevice, makedev(1, 3));
    device("disk", FileType::BlockDevice, makedev(259, 0xf_0001));
    device("pipe", FileType::Fifo, 0);
    lsetxattr(at("big"), "user.note", b"\0x", XattrFlags::empty()).unwrap();
    lsetxattr(at("a"), "trusted.note", b"y", XattrFlags::empty()).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1_500_000).unwrap();
    set_modified(&at("a/small"), 1_500_000_000_123_456_789);
    set_modified(&at("big"), 1);
    for name in ["a/b", "a/empty", "a", "tmp"] {
        set_modified(&at(name), 1_400_000_000_000_000_001);
    }
}

#[test]
fn what_gnu_tar_packs() {
    let tree = fast_dir();
    populate(tree.path());
    let names = ["a", "tmp", "big", "nothing", "zlast", "null", "disk", "pipe", "sparse"];
    let pack = |flags: &[&str]| {
        gnu_tar(tree.path(), &[&["--create", "--file=-"], flags].concat(), Vec::new())
    };
    let all = |flags: &[&'static str]| pack(&[flags, &names[..]].concat());
    check(&all(&["--format=pax", "--xattrs", "--xattrs-include=*"]), &["."]);
    check(&all(&["--format=gnu"]), &["."]);
    check(&all(&["--format=pax", "--sparse", "--sparse-version=1.0"]), &["."]);
    check(&all(&["--format=pax", "--sparse", "--sparse-version=0.1"]), &["."]);
    check(&all(&["--format=pax", "--sparse", "--sparse-version=0.0"]), &["."]);
    check(&all(&["--format=gnu", "--sparse"]), &["."]);
    check(&pack(&["--format=ustar", "tmp", "a/b", "nothing"]), &[".", "a"]);
    check(&pack(&["--format=v7", "tmp", "a/b", "nothing"]), &[".", "a"]);
    // The root itself, names with `./`, and the same files twice.
    check(&pack(&["--format=pax", "."]), &[]);
    check(
        &pack(&["--format=pax", "--hard-dereference", "big", "zlast", "big", "a/b"]),
        &[".", "a"],
    );
    // Members in no order, so that directories are changed behind their own entry.
    check(
        &pack(&["--format=pax", "--no-recursion", "a", "a/b", "tmp", "a/small", "a/b/block"]),
        &["."],
    );
    check(&pack(&["--format=pax", "--no-recursion", "a/b/block", "a/small", "a", "a/b"]), &["."]);
}

#[test]
fn what_the_tar_crate_packs() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mtime(1234);
    header.set_mode(0o640);
    header.set_uid(0xffff_0000);
    header.set_gid(5);
    let long = format!("{}/file", "d".repeat(120));
    for (path, data) in [("short", "1"), (long.as_str(), "2")] {
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append_data(&mut header, path, Cursor::new(data)).unwrap();
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, "link", "x".repeat(130)).unwrap();
    let archive = builder.into_inner().unwrap();
    let ours = fast_dir();
    apply_bytes(archive.clone(), PLAIN, ours.path(), Remove, &Config::default()).unwrap();
    let theirs = fast_dir();
    gnu_tar(theirs.path(), &["-xp", "--numeric-owner", "-f-"], archive);
    let [mut got, mut want] = [ours, theirs].map(|dir| nodes(dir.path()));
    for nodes in [&mut got, &mut want] {
        nodes.remove(".");
        // Nobody described it: GNU tar makes it by its umask, and now.
        nodes.remove(&"d".repeat(120));
    }
    assert_same(&got, &want);
}

/// A plain tree: what is at each path, and with which mode and time.
fn trees() -> impl Strategy<Value = Vec<(String, u8, u32, u64)>> {
    let path =
        prop::collection::vec("[ab]|\u{e9}{40}|c{90}", 1..5).prop_map(|parts| parts.join("/"));
    let entry =
        (path, 0..6_u8, 0..0o10000_u32, any::<u32>().prop_map(|n| u64::from(n) * 1_000_000_007));
    prop::collection::vec(entry, 0..20)
}

#[test]
fn random_trees() {
    let mut runner =
        TestRunner::new(Cases { cases: 40, failure_persistence: None, ..Cases::default() });
    let result = runner.run(&trees(), |entries| {
        let tree = fast_dir();
        let mut last = None;
        for (path, kind, mode, nanos) in entries {
            let path = tree.path().join(path);
            if fs::create_dir_all(path.parent().unwrap()).is_err()
                || fs::symlink_metadata(&path).is_ok()
            {
                continue;
            }
            match (kind, &last) {
                (0, _) => fs::create_dir(&path).unwrap(),
                (1, _) => symlink(format!("{nanos}"), &path).unwrap(),
                (2, Some(last)) => fs::hard_link(last, &path).unwrap(),
                _ => fs::write(&path, vec![b'x'; usize::try_from(nanos % 3000).unwrap()]).unwrap(),
            }
            if !fs::symlink_metadata(&path).unwrap().is_symlink() {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                set_modified(&path, nanos);
            }
            if kind != 0 {
                last = Some(path);
            }
        }
        let archive = gnu_tar(tree.path(), &["--format=pax", "-cf-", "."], Vec::new());
        check(&archive, &[]);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_link_to_itself_is_what_gnu_tar_makes_of_a_name_given_twice() {
    let layer = Layer::default().file("f", "1").link("f", "f").link("g", "f");
    check(&layer.end(), &["."]);
    let root = fast_dir();
    Layer::default().file("f", "1").link("f", "./f").apply(root.path(), Overlay).unwrap();
    assert_eq!(fs::metadata(root.path().join("f")).unwrap().nlink(), 1);
}
