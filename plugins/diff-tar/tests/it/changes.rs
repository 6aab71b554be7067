//! Changes of trees as values, made by system calls; and random ones, on real overlays: a layer
//! that is written of them makes the same tree.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use capstan_diff_tar::{Config, Parents, Shape, settle};
use capstan_sdk::contract::differ::Whiteouts::{Overlay, Remove};
use capstan_sdk::contract::differ::{Diffed, LayerSink};
use capstan_sdk::mount::with_mounted;
use capstan_sdk::{Mount, Result};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use crate::diff::copy;
use crate::layer::{PLAIN, apply_bytes};
use crate::tree::{Nodes, assert_same, fast_dir, nodes};

/// How an overlay marks what is in its upper directory.
pub(crate) const OVERLAY: Shape = Shape::Upper { prefix: "trusted.overlay." };

/// A change.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A number is the content.
    Write(String, u8),
    Dir(String),
    Symlink(String, String),
    Fifo(String),
    Device(String, u8),
    /// A target, and a second name for it.
    Link(String, String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32),
    /// Seconds; no fraction.
    Time(String, u32),
    Xattr(String, u8),
    /// One of several names of a file becomes a file of its own, which is the same otherwise.
    Split(String),
}

/// Does it if it can be done.
fn attempt(root: &Path, op: &Op) -> io::Result<()> {
    let at = |path: &String| root.join(path);
    let mode = Mode::from_raw_mode(0o644);
    match op {
        Op::Write(path, content) => {
            // Through no link: its target is made by hazard, and may be anywhere.
            if fs::symlink_metadata(at(path)).is_ok_and(|about| !about.is_file()) {
                return Ok(());
            }
            fs::write(at(path), [*content].repeat(1 + usize::from(*content) * 300))
        }
        Op::Dir(path) => fs::create_dir(at(path)),
        Op::Symlink(path, target) => symlink(target, at(path)),
        Op::Fifo(path) => Ok(mknodat(CWD, at(path), FileType::Fifo, mode, 0)?),
        Op::Device(path, minor) => {
            let device = makedev(1, (*minor).into());
            Ok(mknodat(CWD, at(path), FileType::CharacterDevice, mode, device)?)
        }
        Op::Link(target, path) => fs::hard_link(at(target), at(path)),
        Op::Remove(path) => match fs::symlink_metadata(at(path))?.is_dir() {
            true => fs::remove_dir_all(at(path)),
            false => fs::remove_file(at(path)),
        },
        Op::Rename(from, to) => fs::rename(at(from), at(to)),
        Op::Mode(path, mode) => {
            if fs::symlink_metadata(at(path))?.is_symlink() {
                return Ok(());
            }
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Op::Owner(path, owner) => lchown(at(path), Some(*owner), Some(owner + 1)),
        Op::Time(path, seconds) => set_time(&at(path), Duration::from_secs((*seconds).into())),
        Op::Xattr(path, value) => {
            let name = if value % 2 == 0 { "user.x" } else { "trusted.x" };
            let name = CString::new(name).unwrap();
            Ok(lsetxattr(at(path), name.as_c_str(), &[*value], XattrFlags::empty())?)
        }
        Op::Split(path) => {
            let copied = at(path).with_file_name("copied");
            copy(&at(path), &copied);
            fs::rename(copied, at(path))
        }
    }
}

fn set_time(path: &Path, time: Duration) -> io::Result<()> {
    let time = rustix::fs::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap(),
        tv_nsec: time.subsec_nanos().into(),
    };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

/// What must be possible.
pub(crate) fn perform(root: &Path, ops: &[Op]) {
    for op in ops {
        attempt(root, op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
}

/// A tree of long ago: what is done to it later has another time.
pub(crate) fn prepare(root: &Path, ops: &[Op]) {
    perform(root, ops);
    age(root);
}

fn age(root: &Path) {
    for (number, name) in (1..).zip(nodes(root).keys().rev()) {
        set_time(&root.join(name), Duration::new(1_000_000, number)).unwrap();
    }
}

/// Bytes that somebody else writes.
#[derive(Clone, Default)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn diffed(
    tree: &Path,
    parent: Option<&Path>,
    shape: Shape,
    media_type: &str,
    config: &Config,
) -> Result<(Vec<u8>, Diffed)> {
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let bytes = Shared::default();
    let sink = LayerSink(Box::new(bytes.clone()));
    let about =
        capstan_diff_tar::diff(open(tree), parent.map(open), shape, media_type, sink, config)?;
    let bytes = bytes.0.lock().unwrap().clone();
    Ok((bytes, about))
}

pub(crate) fn diff(tree: &Path, parent: Option<&Path>, shape: Shape) -> Vec<u8> {
    diffed(tree, parent, shape, PLAIN, &Config::default()).unwrap().0
}

/// `name`, or `name -> target`, of each entry.
pub(crate) fn entries(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let line = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match entry.link_name_bytes() {
            Some(target) => format!("{path} -> {}", String::from_utf8_lossy(&target)),
            None => path,
        }
    };
    archive.entries().unwrap().map(line).collect()
}

fn paths() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("a.b"),
        Just("a b"),
        Just("lib"),
        Just("lib-x"),
        Just("\u{e9}")
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn ops(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (paths(), any::<u8>()).prop_map(|(path, content)| Op::Write(path, content)),
        4 => paths().prop_map(Op::Dir),
        1 => (paths(), paths()).prop_map(|(path, target)| Op::Symlink(path, target)),
        1 => paths().prop_map(Op::Fifo),
        1 => (paths(), 1..9_u8).prop_map(|(path, minor)| Op::Device(path, minor)),
        2 => (paths(), paths()).prop_map(|(target, path)| Op::Link(target, path)),
        2 => paths().prop_map(Op::Remove),
        2 => (paths(), paths()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (paths(), 0..0o10000_u32).prop_map(|(path, mode)| Op::Mode(path, mode)),
        1 => (paths(), 0..9_u32).prop_map(|(path, owner)| Op::Owner(path, owner)),
        1 => (paths(), 0..9_u32).prop_map(|(path, seconds)| Op::Time(path, seconds)),
        1 => (paths(), any::<u8>()).prop_map(|(path, value)| Op::Xattr(path, value)),
    ];
    prop::collection::vec(op, count)
}

fn options(place: &Path, lower: &[&str], is_writable: bool) -> Vec<Mount> {
    let dir = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let lower: Vec<String> = lower.iter().map(|name| dir(name)).collect();
    let mut options = vec![format!("lowerdir={}", lower.join(":"))];
    if is_writable {
        options.push(format!("upperdir={}", dir("upper")));
        options.push(format!("workdir={}", dir("work")));
    }
    vec![Mount { kind: "overlay".into(), source: "overlay".into(), options }]
}

/// Mounts an overlay for a while.
fn mounted<T: Send>(mounts: &[Mount], place: &Path, work: impl FnOnce(&Path) -> T + Send) -> T {
    let work =
        |root: OwnedFd| Ok(work(&PathBuf::from(format!("/proc/self/fd/{}/.", root.as_raw_fd()))));
    with_mounted(mounts, &place.join("mnt"), work).unwrap()
}

/// Without what need not be the same.
fn comparable(root: &Path) -> Nodes {
    let mut nodes = nodes(root);
    nodes.get_mut(".").unwrap().mtime = (0, 0);
    nodes
}

fn overlay(before: &[Op], after: &[Op]) {
    let place = fast_dir();
    let place = place.path();
    for name in ["parent", "upper", "work", "mnt", "layer"] {
        fs::create_dir(place.join(name)).unwrap();
    }
    let parent = place.join("parent");
    for op in before {
        // What cannot be done is not.
        let _ = attempt(&parent, op);
    }
    age(&parent);
    let want = mounted(&options(place, &["parent"], true), place, |root| {
        for op in after {
            let _ = attempt(root, op);
        }
        comparable(root)
    });
    let upper = diff(&place.join("upper"), Some(&parent), OVERLAY);
    let whole = mounted(&options(place, &["upper", "parent"], false), place, |root| {
        diff(root, Some(&parent), Shape::Whole)
    });
    for layer in [&upper, &whole] {
        let target = place.join("target");
        copy(&parent, &target);
        apply_bytes(layer.clone(), PLAIN, &target, Remove, &Config::default()).unwrap();
        assert_same(&comparable(&target), &want);
        fs::remove_dir_all(&target).unwrap();
    }
    // And as a layer of an overlay.
    let config = Config::default();
    let layer = place.join("layer");
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let applied = apply_bytes(upper, PLAIN, &layer, Overlay, &config).unwrap();
    settle(open(&layer), Parents::tree(open(&parent)).unwrap(), &applied.pending, &config).unwrap();
    let got = mounted(&options(place, &["layer", "parent"], false), place, comparable);
    assert_same(&got, &want);
}

fn plain(before: &[Op], after: &[Op]) {
    let place = fast_dir();
    let [parent, tree] = ["parent", "tree"].map(|name| place.path().join(name));
    fs::create_dir(&parent).unwrap();
    for op in before {
        let _ = attempt(&parent, op);
    }
    age(&parent);
    copy(&parent, &tree);
    for op in after {
        let _ = attempt(&tree, op);
    }
    let layer = diff(&tree, Some(&parent), Shape::Whole);
    assert!(layer == diff(&tree, Some(&parent), Shape::Whole));
    apply_bytes(layer, PLAIN, &parent, Remove, &Config::default()).unwrap();
    assert_same(&comparable(&parent), &comparable(&tree));
    assert!(diff(&tree, Some(&parent), Shape::Whole) == [0; 1024], "something is left");
}

/// The same 150 ones each time; with `CAPSTAN_ROUNDS` as many others as that says.
fn runner() -> TestRunner {
    let rounds = std::env::var("CAPSTAN_ROUNDS").ok();
    let cases = rounds.as_ref().map_or(150, |text| text.parse().expect("a number"));
    let cases = Cases { cases, failure_persistence: None, ..Cases::default() };
    match rounds {
        Some(_) => TestRunner::new(cases),
        None => TestRunner::new_with_rng(cases, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    }
}

fn random(check: fn(&[Op], &[Op])) {
    let mut runner = runner();
    let trees = (ops(0..30), ops(0..20));
    runner
        .run(&trees, |(before, after)| {
            check(&before, &after);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_changes_of_plain_trees() {
    random(plain);
}

#[test]
fn random_changes_on_overlays() {
    random(overlay);
}

#[test]
fn times_of_the_parent_are_old() {
    let root = fast_dir();
    prepare(root.path(), &[Op::Dir("d".into()), Op::Write("d/f".into(), 1)]);
    let modified = fs::metadata(root.path().join("d")).unwrap().modified().unwrap();
    assert!(modified < SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_001));
}
