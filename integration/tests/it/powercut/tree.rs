//! Trees as they must be, and as they are; and images that are made new each time.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use capstan_integration::{Image, Layer, digest, gzip, noise};

/// One thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Dir(u32),
    File(u32, String),
    Link(String),
}

/// By path below the root.
pub(super) type Tree = BTreeMap<String, Entry>;

/// What a layer makes of a tree.
fn apply(tree: &mut Tree, tar: &[u8]) {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().expect("it is an archive of ours") {
        let mut entry = entry.expect("it is an archive of ours");
        let path = entry.path().expect("a path of ours").to_string_lossy().into_owned();
        let path = path.trim_end_matches('/').to_owned();
        if let Some((dir, name)) = path.rsplit_once('/')
            && let Some(gone) = name.strip_prefix(".wh.")
        {
            tree.remove(&format!("{dir}/{gone}"));
            continue;
        }
        let mode = entry.header().mode().expect("a mode of ours");
        let made = match entry.header().entry_type() {
            tar::EntryType::Directory => Entry::Dir(mode),
            tar::EntryType::Symlink => {
                let target = entry.link_name().expect("a link of ours").expect("it has a target");
                Entry::Link(target.to_string_lossy().into_owned())
            }
            _ => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("read from memory");
                Entry::File(mode, digest(&bytes))
            }
        };
        tree.insert(path, made);
    }
}

/// What lies in a directory.
pub(super) fn read(root: &Path) -> std::io::Result<Tree> {
    let mut tree = Tree::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            let mode = about.permissions().mode() & 0o7777;
            let entry = if about.is_dir() {
                dirs.push(path.clone());
                Entry::Dir(mode)
            } else if about.is_symlink() {
                Entry::Link(fs::read_link(&path)?.to_string_lossy().into_owned())
            } else {
                Entry::File(mode, digest(&fs::read(&path)?))
            };
            let below = path.strip_prefix(root).expect("it is below");
            tree.insert(below.to_string_lossy().into_owned(), entry);
        }
    }
    Ok(tree)
}

/// The first difference.
pub(super) fn differs(got: &Tree, want: &Tree) -> Option<String> {
    for (path, entry) in want {
        let found = got.get(path);
        if found != Some(entry) {
            return Some(format!("{path}: {found:?}, want {entry:?}"));
        }
    }
    let more = got.keys().find(|path| !want.contains_key(*path))?;
    Some(format!("{more}: is there, and should not be"))
}

/// The layer that all images stand on.
pub(super) struct Base {
    tar: Vec<u8>,
    blob: Vec<u8>,
}

impl Base {
    pub(super) fn new() -> Self {
        let tar = Layer::new().busybox().into_tar();
        Self { blob: gzip(&tar), tar }
    }
}

/// An image with what its layers come to.
pub(super) struct Made {
    pub(super) image: Image,
    /// What `/w/marker` says.
    pub(super) marker: String,
    /// Chain id and tree, base first.
    pub(super) chain: Vec<(String, Tree)>,
}

impl Made {
    /// Two layers on the base that no other image has.
    pub(super) fn new(base: &Base, seed: u32) -> Self {
        let marker = format!("made of {seed}");
        let size = |number: u32| 1 + (seed.wrapping_mul(31) ^ number.wrapping_mul(7919)) % 60_000;
        let file = |number: u32| noise(size(number) as usize, seed ^ number);
        let mut one = Layer::new().dir("w").dir("w/deep");
        for number in 0..8 {
            one = one.file(&format!("w/f{number}"), 0o600 + number % 8, &file(number));
        }
        let two = Layer::new()
            .file("w/.wh.f0", 0o644, b"")
            .file("w/f1", 0o644, &file(100))
            .file("w/deep/f2", 0o640, &file(101))
            .symlink("w/link", "f3")
            .file("w/marker", 0o644, marker.as_bytes());
        let mut tars = vec![base.tar.clone()];
        let mut blobs = vec![base.blob.clone()];
        for layer in [one, two] {
            let tar = layer.into_tar();
            blobs.push(gzip(&tar));
            tars.push(tar);
        }
        let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
        let mut chain: Vec<(String, Tree)> = Vec::new();
        for (tar, diff_id) in tars.iter().zip(&diff_ids) {
            let (id, mut tree) = match chain.last() {
                None => (diff_id.clone(), Tree::new()),
                Some((id, tree)) => (digest(format!("{id} {diff_id}").as_bytes()), tree.clone()),
            };
            apply(&mut tree, tar);
            chain.push((id, tree));
        }
        Self { image: Image::of_blobs(blobs, &diff_ids), marker, chain }
    }
}
