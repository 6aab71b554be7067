//! A corpus of layers: the tree that we make of it is the one that umoci, GNU tar and containerd make of it.
//! And layers that lie in wait: nothing is left of them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use capstan_integration::{Disk, FakeRegistry, Host, Image, Layer, digest, find, gzip};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, makedev, mknodat, setxattr,
};

/// All that can be seen of a file, but for when it was read.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    /// Digest of the content, or the target.
    data: String,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file.
    same_as: Option<String>,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = Vec::with_capacity(1 << 16);
    llistxattr(path, spare_capacity(&mut names)).unwrap();
    let value = |name: &[u8]| {
        let mut value = Vec::with_capacity(1 << 16);
        lgetxattr(path, name, spare_capacity(&mut value)).unwrap();
        (name.to_vec(), value)
    };
    names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(value).collect()
}

/// Everything below a directory.
fn nodes(root: &Path) -> BTreeMap<String, Node> {
    let (mut nodes, mut first) = (BTreeMap::new(), HashMap::new());
    let mut todo = vec![String::new()];
    while let Some(above) = todo.pop() {
        let mut names: Vec<_> =
            fs::read_dir(root.join(&above)).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let about = fs::symlink_metadata(&path).unwrap();
            let kind = about.file_type();
            let data = match () {
                () if kind.is_dir() => {
                    todo.push(name.clone());
                    String::new()
                }
                () if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                () if kind.is_file() => digest(&fs::read(&path).unwrap()),
                () => String::new(),
            };
            let same_as = (!kind.is_dir() && about.nlink() > 1)
                .then(|| first.entry((about.dev(), about.ino())).or_insert(name.clone()).clone());
            let node = Node {
                mode: about.mode(),
                owner: (about.uid(), about.gid()),
                mtime: (about.mtime(), about.mtime_nsec()),
                device: about.rdev(),
                data,
                xattrs: xattrs(&path),
                same_as,
            };
            nodes.insert(name, node);
        }
    }
    nodes
}

#[track_caller]
fn assert_same(whose: &str, got: &BTreeMap<String, Node>, want: &BTreeMap<String, Node>) {
    assert!(want.len() > 20, "{} files are no corpus", want.len());
    for name in got.keys().chain(want.keys()) {
        assert_eq!(got.get(name), want.get(name), "{name:?}: ours, and that of {whose}");
    }
}

/// Gives all directories a time, so no maker of trees may leave one out.
fn age(root: &Path, seconds: u64) {
    for (number, name) in (1..).zip(nodes(root).keys().rev()) {
        let path = root.join(name);
        if path.is_symlink() || !(path.is_dir() || path.is_file()) {
            continue;
        }
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, number);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
}

fn write(root: &Path, name: &str, data: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

/// Some of everything.
fn first(root: &Path) {
    let at = |name: &str| root.join(name);
    for n in 0..20 {
        write(root, &format!("many/d{}/f{n}", n % 4), vec![b'x'; n * 300]);
    }
    for name in [
        "etc/hosts",
        "etc/gone",
        "gone/a/b",
        "opaque/old",
        "opaque/sub/older",
        "turns/dir/x",
        "turns/file",
    ] {
        write(root, name, name);
    }
    write(root, &format!("{}/{}", "l".repeat(100), "m".repeat(200)), "long");
    write(root, "caf\u{e9} \u{1f980}/odd name\n", "odd");
    symlink("../etc/hosts", at("etc/link")).unwrap();
    symlink("t".repeat(150), at("far")).unwrap();
    symlink("/nowhere", at("dangling")).unwrap();
    fs::hard_link(at("etc/hosts"), at("many/hosts")).unwrap();
    fs::hard_link(at("etc/hosts"), at("aaa")).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, at("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    mknodat(CWD, at("disk"), FileType::BlockDevice, mode, makedev(7, 200)).unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).unwrap();
    for (name, owner, mode) in
        [("su", 0, 0o6755), ("other", 70_000, 0o604), ("tmp/", 0, 0o1777), ("private/", 33, 0o2750)]
    {
        match name.strip_suffix('/') {
            Some(name) => fs::create_dir(at(name)).unwrap(),
            None => fs::write(at(name), name).unwrap(),
        }
        chown(at(name), Some(owner), Some(owner + 1)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut capability = vec![1, 0, 0, 2, 0, 0x20];
    capability.resize(20, 0);
    setxattr(at("su"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    setxattr(at("other"), "user.note", b"kept\0", XattrFlags::empty()).unwrap();
    age(root, 1_600_000_000);
}

/// Changes it: whiteouts stand in this tree as they do in the layer.
fn second(root: &Path) {
    for name in ["etc/.wh.gone", ".wh.gone", "opaque/.wh..wh..opq", ".wh.nothing"] {
        write(root, name, "");
    }
    write(root, "opaque/new", "new");
    write(root, "etc/hosts", "others");
    write(root, "turns/dir", "a file now");
    write(root, "turns/file/y", "a directory now");
    write(root, "many/d1/more", "more");
    age(root, 1_650_000_000);
}

/// Deletes and makes again.
fn third(root: &Path) {
    write(root, "gone/a/again", "again");
    write(root, "many/.wh.d2", "");
    fs::hard_link(root.join("gone/a/again"), root.join("gone/link")).unwrap();
    symlink("gone/a", root.join("null")).unwrap();
    age(root, 1_700_000_000);
}

fn packed(root: &Path) -> Vec<u8> {
    let names =
        nodes(root).keys().map(|name| [name.as_bytes(), b"\0"].concat()).collect::<Vec<_>>();
    let list = tempfile::NamedTempFile::new().unwrap();
    fs::write(list.path(), names.concat()).unwrap();
    let output = Command::new("tar")
        .args(["--create", "--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*"])
        .arg("--directory")
        .arg(root)
        .args(["--no-recursion", "--null", "--files-from=-", "--file=-"])
        .stdin(File::open(list.path()).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Mounted for as long as it lives.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount(&self.0).unwrap();
    }
}

/// Our tree of the topmost snapshot of an image.
fn ours(host: &Host, snapshotter: &str, layers: usize, place: &Path) -> BTreeMap<String, Node> {
    let list = host.json(&["snapshots", "--snapshotter", snapshotter, "ls"]);
    let text =
        |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows: Vec<(String, String)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "key"), text(row, "parent")))
        .collect();
    assert_eq!(rows.len(), layers, "{list}");
    let is_top = |key: &String| rows.iter().all(|(_, parent)| parent != key);
    let top = rows.iter().map(|(key, _)| key).find(|key| is_top(key)).unwrap();
    let said = host.ok(&["snapshots", "--snapshotter", snapshotter, "view", "corpus", top]);
    fs::create_dir_all(place).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let [_, "-t", kind, source, "TARGET", "-o", options] = words[..] else { panic!("{said}") };
    let mut mount = Command::new(find("mount"));
    let kind = if kind == "bind" { "none" } else { kind };
    run(mount.args(["-t", kind, source]).arg(place).args(["-o", options]));
    let mounted = Mounted(place.to_owned());
    let nodes = nodes(place);
    drop(mounted);
    host.ok(&["snapshots", "--snapshotter", snapshotter, "rm", "corpus"]);
    nodes
}

/// The image as an OCI layout.
fn layout(image: &Image, place: &Path) {
    let blobs = place.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for (digest, bytes) in &image.blobs {
        fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
    }
    let manifest = &image.blobs[&image.manifest];
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest,
            "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }],
    });
    fs::write(place.join("index.json"), index.to_string()).unwrap();
    fs::write(place.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn umoci(image: &Image, place: &Path) -> BTreeMap<String, Node> {
    let (layout_dir, tree) = (place.join("layout"), place.join("umoci"));
    layout(image, &layout_dir);
    let mut command = Command::new(find("umoci"));
    command.args(["raw", "unpack", "--image"]).arg(format!("{}:latest", layout_dir.display()));
    run(command.arg(&tree));
    let mut nodes = nodes(&tree);
    // It marks what it unpacked.
    nodes.values_mut().for_each(|node| {
        node.xattrs.retain(|name, _| !name.starts_with(b"user.umoci."));
    });
    nodes
}

/// GNU tar knows no whiteouts: they are carried out by hand before each layer is unpacked.
fn gnu_tar(layers: &[PathBuf], tars: &[Vec<u8>], place: &Path) -> BTreeMap<String, Node> {
    let tree = place.join("gnu-tar");
    fs::create_dir(&tree).unwrap();
    for (layer, tar) in layers.iter().zip(tars) {
        let remove = |path: &Path| match fs::symlink_metadata(path) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        };
        for (name, node) in nodes(layer) {
            let path = tree.join(&name);
            let base = Path::new(&name).file_name().unwrap();
            let Some(gone) = base.as_bytes().strip_prefix(b".wh.") else {
                let is_directory = node.mode & 0o170_000 == 0o040_000;
                if path.is_symlink() || path.is_dir() != is_directory {
                    remove(&path);
                }
                continue;
            };
            let dir = path.parent().unwrap();
            if gone == b".wh..opq" {
                fs::read_dir(dir)
                    .into_iter()
                    .flatten()
                    .for_each(|entry| remove(&entry.unwrap().path()));
            } else {
                remove(&dir.join(std::ffi::OsStr::from_bytes(gone)));
            }
        }
        let archive = place.join("layer.tar");
        fs::write(&archive, tar).unwrap();
        run(Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs"])
            .args(["--xattrs-include=*", "--delay-directory-restore", "--exclude=.wh.*"])
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&tree));
    }
    nodes(&tree)
}

/// Debian's containerd on directories of its own.
struct Containerd {
    place: PathBuf,
    daemon: Child,
}

impl Containerd {
    fn start(place: &Path) -> Self {
        let (dir, path) = (place.display(), place.join("config.toml"));
        let disabled = [
            "grpc.v1.cri",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.zfs",
            "snapshotter.v1.devmapper",
            "snapshotter.v1.aufs",
            "internal.v1.tracing",
        ]
        .map(|name| format!("io.containerd.{name}"));
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\ndisabled_plugins = {disabled:?}\n\
             [grpc]\n  address = \"{dir}/socket\"\n"
        );
        fs::write(&path, config).unwrap();
        let log = File::create(place.join("log")).unwrap();
        let daemon = Command::new(find("containerd"))
            .arg("--config")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { place: place.to_owned(), daemon };
        let started = Instant::now();
        while !this.ctr(&["version"]).output().is_ok_and(|output| output.status.success()) {
            let log = || fs::read_to_string(place.join("log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(30), "{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new(find("ctr"));
        command.arg("--address").arg(self.place.join("socket")).args(args);
        command
    }

    fn tree(&self, image: &str) -> BTreeMap<String, Node> {
        run(&mut self.ctr(&["images", "pull", "--plain-http", image]));
        let target = self.place.join("tree");
        fs::create_dir(&target).unwrap();
        run(self.ctr(&["images", "mount", image]).arg(&target));
        let mounted = Mounted(target.clone());
        let nodes = nodes(&target);
        drop(mounted);
        nodes
    }

    /// The same by its copying snapshotter: on overlayfs it refuses layers whose order matters.
    fn copied_tree(&self, image: &str) -> BTreeMap<String, Node> {
        run(&mut self.ctr(&["images", "pull", "--plain-http", "--snapshotter", "native", image]));
        let dir = self.place.join("root/io.containerd.snapshotter.v1.native/snapshots");
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let top = fs::read_dir(&dir).unwrap().filter_map(|entry| number(entry.unwrap())).max();
        nodes(&dir.join(top.expect("a snapshot").to_string()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn our_trees_are_those_of_umoci_gnu_tar_and_containerd() {
    let disk = Disk::ext4(256);
    let place = disk.path();
    let layers: Vec<PathBuf> = ["first", "second", "third"]
        .into_iter()
        .zip([first, second, third] as [fn(&Path); 3])
        .map(|(name, make)| {
            let root = place.join(name);
            fs::create_dir(&root).unwrap();
            make(&root);
            root
        })
        .collect();
    let tars: Vec<Vec<u8>> = layers.iter().map(|root| packed(root)).collect();
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let image = Image::of_blobs(tars.iter().map(|tar| gzip(tar)).collect(), &diff_ids);
    let registry = FakeRegistry::start();
    let reference = registry.offer("corpus", &image);
    let host = Host::new();
    let pull = |snapshotter: &str| {
        let pull = ["images", "pull", "--plain-http", "--snapshotter", snapshotter, &reference];
        host.ok(&pull);
        ours(&host, snapshotter, layers.len(), &place.join("ours"))
    };
    let got = pull("overlay");
    assert_same("the native snapshotter", &got, &pull("native"));
    assert_same("umoci", &got, &umoci(&image, place));
    assert_same("GNU tar", &got, &gnu_tar(&layers, &tars, place));
    let peer = place.join("containerd");
    fs::create_dir(&peer).unwrap();
    let containerd = Containerd::start(&peer);
    assert_same("containerd", &got, &containerd.tree(&reference));
}

/// A layer that puts something through a link of its parents and then deletes the link. In overlay form alone it would
/// have made a directory in the link's place. And one that goes through a link of its own, whose pull failed.
#[test]
fn what_goes_through_a_link_that_is_deleted_lands_where_it_led() {
    let disk = Disk::ext4(128);
    let place = disk.path();
    let parents = Layer::new()
        .dir("real")
        .file("real/old", 0o644, b"old")
        .symlink("link", "real")
        .symlink("to", "real");
    let layer = Layer::new()
        .file("link/new", 0o644, b"new")
        .file(".wh.link", 0o644, b"")
        .file("to/x", 0o644, b"x")
        .symlink("own", "real")
        .file("own/y", 0o644, b"y");
    let tars = [parents, layer].map(Layer::into_tar);
    let diff_ids = tars.each_ref().map(|tar| digest(tar));
    let image = Image::of_blobs(tars.iter().map(|tar| gzip(tar)).collect(), &diff_ids);
    let registry = FakeRegistry::start();
    let reference = registry.offer("through", &image);
    let host = Host::new();
    let contents = |nodes: &BTreeMap<String, Node>| -> Vec<String> {
        nodes.keys().filter(|name| !name.is_empty() && *name != ".").cloned().collect()
    };
    let want = ["own", "real", "real/new", "real/old", "real/x", "real/y", "to"];
    for snapshotter in ["overlay", "native"] {
        let pull = ["images", "pull", "--plain-http", "--snapshotter", snapshotter, &reference];
        host.ok(&pull);
        let got = ours(&host, snapshotter, tars.len(), &place.join("ours"));
        assert_eq!(contents(&got), want, "{snapshotter}");
    }
    assert_eq!(contents(&umoci(&image, place)), want, "umoci");
    let peer = place.join("containerd");
    fs::create_dir(&peer).unwrap();
    assert_eq!(contents(&Containerd::start(&peer).copied_tree(&reference)), want, "containerd");
}

/// Whatever a layer tries: the pull fails by class, and no name, snapshot or ingest is left of it, nor is
/// anything outside changed.
#[test]
fn nothing_is_left_of_a_hostile_image() {
    let canary = tempfile::tempdir().unwrap();
    fs::write(canary.path().join("secret"), "secret").unwrap();
    age(canary.path(), 1_000_000);
    let before = nodes(canary.path());
    let about = fs::metadata(canary.path()).unwrap();
    let out = canary.path().to_str().unwrap();
    let raw = |change: &dyn Fn(&mut tar::Header)| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o777);
        header.set_size(1);
        change(&mut header);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let named = |name: &str| {
        raw(&|header| header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes()))
    };
    let hard_link = |target: &str| {
        raw(&|header| {
            header.as_old_mut().name[..1].copy_from_slice(b"l");
            header.set_entry_type(tar::EntryType::Link);
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    };
    let up = format!("{}{}", "../".repeat(12), &out[1..]);
    let zeros = |len: usize| Layer::new().file("zeros", 0o644, &vec![0; len]).into_tar();
    let cases: Vec<(&str, Vec<u8>, i32, &str, &str)> = vec![
        ("up", named(&format!("{up}/new")), 10, "Corrupt", "leads out of the root"),
        ("link", hard_link(&format!("{up}/secret")), 10, "Corrupt", "leads out of the root"),
        ("whiteout", named(".wh..."), 10, "Corrupt", "whiteout"),
        ("bomb", zeros(24 << 20), 9, "ResourceExhausted", "max_bytes"),
        ("depth", named(&"a/".repeat(40)[..79]), 9, "ResourceExhausted", "max_depth"),
    ];
    let host =
        Host::with_config("[plugins.\"differ.tar\"]\nmax_bytes = 16777216\nmax_depth = 30\n");
    let registry = FakeRegistry::start();
    for (name, tar, code, class, says) in cases {
        let diff_ids = [digest(&tar)];
        let image = Image::of_blobs(vec![gzip(&tar)], &diff_ids);
        let reference = registry.offer(name, &image);
        for snapshotter in ["overlay", "native"] {
            let pull = ["images", "pull", "--plain-http", "--snapshotter", snapshotter, &reference];
            let output = host.capstan(&pull);
            assert!(output.code == code, "{name}: {output:?}");
            host.fails(&pull, code, class, &[says]);
            let list = ["snapshots", "--snapshotter", snapshotter, "ls"];
            assert_eq!(host.ids(&list), Vec::<String>::new(), "{name}");
        }
        assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new(), "{name}");
        assert_eq!(host.ok(&["content", "active", "-q"]), "", "{name}");
    }
    assert_eq!(nodes(canary.path()), before);
    let after = fs::metadata(canary.path()).unwrap();
    assert_eq!((after.mode(), after.mtime_nsec()), (about.mode(), about.mtime_nsec()));
}
