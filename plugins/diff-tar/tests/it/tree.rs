//! Trees as values, to be compared.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{lgetxattr, llistxattr};

/// All that can be seen of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// Content, or target.
    pub(crate) data: Vec<u8>,
    pub(crate) device: u64,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name of the same file, if it has several.
    pub(crate) same_as: Option<String>,
}

pub(crate) type Nodes = BTreeMap<String, Node>;

/// Everything at and below a directory; the directory itself is `.`.
pub(crate) fn nodes(root: &Path) -> Nodes {
    let mut nodes = Nodes::new();
    let mut first_names = HashMap::new();
    let mut todo = vec![(root.to_owned(), ".".to_owned())];
    while let Some((path, name)) = todo.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // overlayfs lists a whiteout of nothing in a directory that it does not merge.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        if metadata.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for base in names.into_iter().rev() {
                let text = String::from_utf8_lossy(base.as_bytes()).into_owned();
                let name = if name == "." { text } else { format!("{name}/{text}") };
                todo.push((path.join(&base), name));
            }
        }
        let same_as = (!metadata.is_dir() && metadata.nlink() > 1).then(|| {
            let file = (metadata.dev(), metadata.ino());
            first_names.entry(file).or_insert_with(|| name.clone()).clone()
        });
        nodes.insert(name, node(&path, &metadata, same_as));
    }
    // overlayfs counts names of a file of a lower layer that the upper one hides: a group has two that are seen.
    let mut names: HashMap<String, usize> = HashMap::new();
    for first in nodes.values().filter_map(|node| node.same_as.clone()) {
        *names.entry(first).or_default() += 1;
    }
    for node in nodes.values_mut() {
        node.same_as.take_if(|first| names[first] == 1);
    }
    nodes
}

fn node(path: &Path, metadata: &fs::Metadata, same_as: Option<String>) -> Node {
    let kind = metadata.file_type();
    let (kind, data) = match () {
        () if kind.is_dir() => ("directory", Vec::new()),
        () if kind.is_file() => ("file", fs::read(path).unwrap()),
        () if kind.is_symlink() => {
            ("symlink", fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
        }
        () if kind.is_char_device() => ("char", Vec::new()),
        () if kind.is_block_device() => ("block", Vec::new()),
        () if kind.is_fifo() => ("fifo", Vec::new()),
        () => ("other", Vec::new()),
    };
    Node {
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        data,
        device: if matches!(kind, "char" | "block") { metadata.rdev() } else { 0 },
        xattrs: xattrs(path),
        same_as,
    }
}

pub(crate) fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = Vec::with_capacity(1 << 16);
    llistxattr(path, spare_capacity(&mut names)).unwrap();
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = Vec::with_capacity(1 << 16);
        lgetxattr(path, name, spare_capacity(&mut value)).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), value)
    };
    names.map(value).collect()
}

/// Panics with the names that differ, and how.
#[track_caller]
pub(crate) fn assert_same(got: &Nodes, want: &Nodes) {
    for name in got.keys().chain(want.keys()) {
        assert_eq!(got.get(name), want.get(name), "{name}");
    }
}

/// `kind mode data` of what is at each path, for short comparisons.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let line = |(name, node): (String, Node)| {
        let data = String::from_utf8_lossy(&node.data).into_owned();
        let opaque = match node.xattrs.get("trusted.overlay.opaque").map(Vec::as_slice) {
            Some(b"y") => " opaque",
            _ => "",
        };
        match node.kind {
            "directory" => format!("{name}/{opaque}"),
            "file" => format!("{name}={data}"),
            "symlink" => format!("{name}->{data}"),
            "char" if node.device == 0 => format!("{name} gone"),
            kind => format!("{name} {kind} {}", node.device),
        }
    };
    nodes(root).into_iter().filter(|(name, _)| name != ".").map(line).collect()
}

/// A directory that no layer may touch, with something in it for every trick.
pub(crate) struct Canary {
    dir: tempfile::TempDir,
    before: Nodes,
}

impl Canary {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        fs::write(dir.path().join("sub/x"), "x").unwrap();
        let before = nodes(dir.path());
        Self { dir, before }
    }

    pub(crate) fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        assert_same(&nodes(self.dir.path()), &self.before);
    }
}

/// A temporary directory in memory, where there is one: many small files are slow on some disks.
pub(crate) fn fast_dir() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}
