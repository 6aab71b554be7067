//! The suite of kind `differ`. It mounts, so it needs root.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use capstan_schema::{Algorithm, Class, Digest, Error, Mount, Result};
use sha2::Digest as _;

use crate::Link;
use crate::contract::Differ;
use crate::contract::differ::{
    Applied, Apply, Diff, Diffed, Difference, LayerSink, LayerStream, Pending, Settle, Verify,
    VerifyLayer, Whiteouts,
};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// One differ under test.
pub struct Suite {
    link: Link<Differ>,
    /// A directory of the case's own.
    place: PathBuf,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Suite({:?})", self.link)
    }
}

/// Runs all cases, each in a directory of its own below `place`.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<Differ>, place: &Path) {
    let suite = |name: &str| {
        let place = place.join(name);
        fs::create_dir(&place).expect("a directory for the case");
        Suite { link: link.clone(), place }
    };
    suite("tree").tree().await;
    suite("names").names_are_bytes().await;
    suite("removed").deletions_are_carried_out().await;
    suite("overlay").deletions_are_written_for_an_overlay().await;
    suite("pending").what_is_pending_is_settled().await;
    suite("large").large().await;
    suite("garbage").garbage().await;
    suite("media").media_types().await;
    suite("mounts").mounts_that_fail().await;
    suite("broken").a_stream_that_breaks_off().await;
    suite("several").several_at_once().await;
    suite("diff").changes_make_a_layer().await;
    suite("unwritten").layers_that_cannot_be_written().await;
    suite("verify").damage_is_found_and_repaired().await;
}

fn class<T: std::fmt::Debug>(result: Result<T>) -> Class {
    result.expect_err("it must fail").class()
}

/// An archive in the making: ustar, by hand.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: u8, path: &[u8], target: &[u8], data: &[u8]) -> Self {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path);
        put(100, if kind == b'5' { b"0000755" } else { b"0000644" });
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", data.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn dir(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"")
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(b'0', path.as_bytes(), b"", data.as_bytes())
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"")
    }

    fn link(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(b'1', path, target, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A tree in one line: `d/ d/f=text l->target gone!`.
fn listing(root: &Path) -> String {
    fn walk(dir: &Path, name: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("list") {
            let entry = entry.expect("list");
            let (path, name) =
                (entry.path(), format!("{name}{}", entry.file_name().to_string_lossy()));
            let about = entry.metadata().expect("stat");
            let kind = about.file_type();
            if kind.is_dir() {
                found.push(format!("{name}/"));
                walk(&path, &format!("{name}/"), found);
            } else if kind.is_symlink() {
                let target = fs::read_link(path).expect("read a link");
                found.push(format!("{name}->{}", target.display()));
            } else if kind.is_char_device() && about.rdev() == 0 {
                found.push(format!("{name}!"));
            } else {
                found.push(format!("{name}={}", fs::read_to_string(path).expect("read")));
            }
        }
    }
    let mut found = Vec::new();
    walk(root, "", &mut found);
    found.sort();
    found.join(" ")
}

/// Fails as a stream of ours does, behind some bytes.
struct Fails(Error);

impl Read for Fails {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(self.0.clone()))
    }
}

impl Suite {
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.place.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    fn bind(&self, name: &str) -> Vec<Mount> {
        let source = self.dir(name).to_str().expect("the place is text").to_owned();
        vec![Mount { kind: "bind".into(), source, options: vec!["rbind".into()] }]
    }

    async fn stream(
        &self,
        layer: impl Read + Send + 'static,
        media_type: &str,
        mounts: Vec<Mount>,
        whiteouts: Whiteouts,
    ) -> Result<Applied> {
        let layer = LayerStream(Box::new(layer));
        self.link.send(Apply { layer, media_type: media_type.into(), mounts, whiteouts }).await
    }

    async fn apply(&self, layer: Archive, name: &str, whiteouts: Whiteouts) -> Result<Applied> {
        self.stream(Cursor::new(layer.end()), PLAIN, self.bind(name), whiteouts).await
    }

    async fn tree(self) {
        let layer = Archive::default().dir("d").file("d/f", "text").symlink("s", "d/f");
        let layer = layer.link(b"d/g", b"d/f").file("e", "");
        let bytes = layer.clone().end();
        let before = fs::read("/proc/self/mountinfo").expect("mounts");
        let applied = self.apply(layer, "root", Whiteouts::Remove).await.expect("apply");
        assert_eq!(listing(&self.dir("root")), "d/ d/f=text d/g=text e= s->d/f");
        let diff_id = Digest::from_hash(Algorithm::Sha256, &sha2::Sha256::digest(&bytes));
        assert_eq!((applied.diff_id, applied.size), (diff_id, bytes.len() as u64));
        assert!(applied.pending.is_empty());
        let inode = |name: &str| fs::metadata(self.dir("root").join(name)).expect("stat").ino();
        assert_eq!(inode("d/f"), inode("d/g"));
        let after = fs::read("/proc/self/mountinfo").expect("mounts");
        assert!(before == after, "a mount was seen, or left");
    }

    async fn names_are_bytes(self) {
        use std::os::unix::ffi::OsStrExt as _;
        let name = std::ffi::OsStr::from_bytes(b"\xff d");
        let layer = Archive::default().entry(b'0', b"\xff d/f", b"", b"text");
        let layer = layer.link(b"\xff d/l", b"\xff o");
        let applied = self.apply(layer, "layer", Whiteouts::Overlay).await.expect("apply");
        assert_eq!(fs::read(self.dir("layer").join(name).join("f")).expect("read"), b"text");
        assert!(applied.pending.directories.contains(&PathBuf::from(name)));
        let [(link, target)] = &*applied.pending.links else { panic!("one link is pending") };
        assert_eq!(link.as_os_str().as_bytes(), b"\xff d/l");
        assert_eq!(target.as_os_str().as_bytes(), b"\xff o");
    }

    async fn deletions_are_carried_out(self) {
        let first = Archive::default().dir("d").file("d/f", "1").file("d/g", "1").file("h", "1");
        self.apply(first, "root", Whiteouts::Remove).await.expect("apply");
        let second = Archive::default().file("d/.wh.f", "").file("d/i", "2").file(".wh.h", "");
        self.apply(second, "root", Whiteouts::Remove).await.expect("apply");
        assert_eq!(listing(&self.dir("root")), "d/ d/g=1 d/i=2");
        let third = Archive::default().dir("d").file("d/.wh..wh..opq", "").file("d/k", "3");
        self.apply(third, "root", Whiteouts::Remove).await.expect("apply");
        assert_eq!(listing(&self.dir("root")), "d/ d/k=3");
    }

    async fn deletions_are_written_for_an_overlay(self) {
        let layer = Archive::default().dir("./").dir("d").file("d/.wh.f", "").file("d/g", "2");
        let applied = self.apply(layer, "layer", Whiteouts::Overlay).await.expect("apply");
        assert_eq!(listing(&self.dir("layer")), "d/ d/f! d/g=2");
        assert!(applied.pending.is_empty());
    }

    async fn what_is_pending_is_settled(self) {
        let parent = Archive::default().dir("d").file("d/f", "1");
        self.apply(parent, "parent", Whiteouts::Remove).await.expect("apply");
        let layer = Archive::default().link(b"d/l", b"d/f");
        let applied = self.apply(layer, "layer", Whiteouts::Overlay).await.expect("apply");
        let pending = applied.pending;
        assert!(pending.directories.contains(&PathBuf::from("d")));
        assert_eq!(pending.links, [("d/l".into(), "d/f".into())]);
        let settle = |parent: &str, pending: &Pending| Settle {
            layer: self.bind("layer"),
            parent: self.bind(parent),
            pending: pending.clone(),
        };
        self.link.send(settle("parent", &pending)).await.expect("settle");
        assert_eq!(listing(&self.dir("layer")), "d/ d/f=1 d/l=1");
        assert_eq!(listing(&self.dir("parent")), "d/ d/f=1");
    }

    /// More than any pipe holds.
    async fn large(self) {
        let text = "0123456789abcdef".repeat(256 << 10);
        let layer = Archive::default().file("f", &text);
        let size = layer.clone().end().len() as u64;
        let applied = self.apply(layer, "root", Whiteouts::Remove).await.expect("apply");
        assert_eq!(applied.size, size);
        let file = fs::read_to_string(self.dir("root").join("f")).expect("read");
        assert!(file == text);
    }

    async fn garbage(self) {
        let corrupt = async |bytes: Vec<u8>| {
            let stream = Cursor::new(bytes);
            let applied = self.stream(stream, PLAIN, self.bind("root"), Whiteouts::Remove).await;
            assert_eq!(class(applied), Class::Corrupt);
        };
        corrupt(b"no archive ".repeat(1000)).await;
        let mut cut = Archive::default().file("f", &"x".repeat(2000)).end();
        cut.truncate(1024);
        corrupt(cut).await;
        // The differ leaves off at once, and much is still to come.
        corrupt(b"no archive ".repeat(1 << 20)).await;
        let out = Archive::default().file("../out", "x");
        assert_eq!(class(self.apply(out, "root", Whiteouts::Remove).await), Class::Corrupt);
        assert!(!self.place.join("out").exists());
    }

    async fn media_types(self) {
        let layer = || Cursor::new(Archive::default().file("f", "1").end());
        for media_type in ["", "text/plain", "application/vnd.oci.image.config.v1+json"] {
            let applied =
                self.stream(layer(), media_type, self.bind("root"), Whiteouts::Remove).await;
            assert_eq!(class(applied), Class::InvalidArgument, "{media_type}");
        }
        let docker = "application/vnd.docker.image.rootfs.diff.tar";
        let applied = self.stream(layer(), docker, self.bind("root"), Whiteouts::Remove).await;
        applied.expect("a layer of Docker");
    }

    async fn mounts_that_fail(self) {
        let layer = Cursor::new(Archive::default().file("f", "1").end());
        let source = self.place.join("nothing").to_string_lossy().into_owned();
        let missing = vec![Mount { kind: "bind".into(), source, options: vec!["rbind".into()] }];
        let applied = self.stream(layer, PLAIN, missing, Whiteouts::Remove).await;
        assert_eq!(class(applied), Class::NotFound);
    }

    /// A registry that goes away must not look like an archive that is damaged, nor like one that ends.
    async fn a_stream_that_breaks_off(self) {
        let archive = Archive::default().file("f", &"x".repeat(2000)).end();
        for at in [0, 100, 1024, archive.len()] {
            for want in [Class::Unavailable, Class::PermissionDenied, Class::Corrupt] {
                let start = Cursor::new(archive[..at].to_vec());
                let stream = start.chain(Fails(Error::new(want, "the registry went away")));
                let mounts = self.bind("root");
                let applied = self.stream(stream, PLAIN, mounts, Whiteouts::Remove).await;
                let error = applied.expect_err("it broke off");
                assert_eq!(error.class(), want, "at {at}: {error}");
                assert!(error.message().contains("the registry went away"), "at {at}: {error}");
            }
        }
    }

    async fn several_at_once(self) {
        let tries = (0..8).map(|number| {
            let (name, layer) = (format!("root{number}"), Archive::default());
            let layer = layer.file("f", &number.to_string().repeat(100_000));
            let suite = &self;
            async move { suite.apply(layer, &name, Whiteouts::Remove).await.map(|_| ()) }
        });
        futures::future::try_join_all(tries).await.expect("apply");
        for number in 0..8 {
            let file = self.dir(&format!("root{number}")).join("f");
            let text = fs::read_to_string(file).expect("read");
            assert!(text == number.to_string().repeat(100_000));
        }
    }
}

/// Bytes that a differ writes.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails as a sink of ours does.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other(Error::exhausted("the disk is full")))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Suite {
    async fn diff(
        &self,
        parent: Vec<Mount>,
        tree: Vec<Mount>,
        media_type: &str,
    ) -> Result<(Vec<u8>, Diffed)> {
        let bytes = Shared::default();
        let out = LayerSink(Box::new(bytes.clone()));
        let diffed =
            self.link.send(Diff { parent, tree, media_type: media_type.into(), out }).await?;
        let bytes = bytes.0.lock().expect("nobody panicked").clone();
        Ok((bytes, diffed))
    }

    async fn changes_make_a_layer(self) {
        let parent = Archive::default().dir("d").file("d/f", "1").file("d/g", "1").file("h", "1");
        for name in ["parent", "tree", "target"] {
            self.apply(parent.clone(), name, Whiteouts::Remove).await.expect("apply");
        }
        let tree = self.dir("tree");
        fs::write(tree.join("d/f"), "other").expect("write");
        fs::remove_file(tree.join("h")).expect("remove");
        fs::create_dir(tree.join("new")).expect("make");
        let large = "0123456789abcdef".repeat(256 << 10);
        fs::write(tree.join("new/large"), &large).expect("write");
        fs::hard_link(tree.join("d/g"), tree.join("new/g")).expect("link");
        let want = listing(&tree);
        for suffix in ["", "+gzip", "+zstd"] {
            let media_type = format!("{PLAIN}{suffix}");
            let write = || self.diff(self.bind("parent"), self.bind("tree"), &media_type);
            let (bytes, diffed) = write().await.expect("diff");
            let (again, _) = write().await.expect("diff");
            assert!(bytes == again, "{media_type}: not the same bytes twice");
            let digest = Digest::from_hash(Algorithm::Sha256, &sha2::Sha256::digest(&bytes));
            assert_eq!((&diffed.digest, diffed.size), (&digest, bytes.len() as u64));
            let target = self.bind("target");
            let applied = self.stream(Cursor::new(bytes), &media_type, target, Whiteouts::Remove);
            assert_eq!(applied.await.expect("apply").diff_id, diffed.diff_id);
            assert!(listing(&self.dir("target")) == want, "{media_type}: not the same tree");
        }
        let target = self.dir("target");
        let inode = |name: &str| fs::metadata(target.join(name)).expect("stat").ino();
        assert_eq!(inode("d/g"), inode("new/g"));
        let (bytes, diffed) =
            self.diff(self.bind("tree"), self.bind("tree"), PLAIN).await.expect("diff");
        assert_eq!((bytes.as_slice(), diffed.size), ([0; 1024].as_slice(), 1024));
        // Without a parent it is all of the tree.
        let (bytes, _) = self.diff(Vec::new(), self.bind("tree"), PLAIN).await.expect("diff");
        let all = self.bind("all");
        self.stream(Cursor::new(bytes), PLAIN, all, Whiteouts::Remove).await.expect("apply");
        assert!(listing(&self.dir("all")) == want);
    }

    async fn layers_that_cannot_be_written(self) {
        fs::write(self.dir("tree").join("f"), "1").expect("write");
        for media_type in ["", "text/plain"] {
            let diffed = self.diff(Vec::new(), self.bind("tree"), media_type).await;
            assert_eq!(class(diffed), Class::InvalidArgument, "{media_type}");
        }
        let missing = self.place.join("nothing").to_string_lossy().into_owned();
        let missing =
            vec![Mount { kind: "bind".into(), source: missing, options: vec!["rbind".into()] }];
        assert_eq!(class(self.diff(Vec::new(), missing, PLAIN).await), Class::NotFound);
        let (parent, tree, media_type) = (Vec::new(), self.bind("tree"), PLAIN.into());
        let full = Diff { parent, tree, media_type, out: LayerSink(Box::new(Full)) };
        let error = self.link.send(full).await.expect_err("it is full");
        assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
        assert!(error.message().contains("the disk is full"), "{error}");
        fs::write(self.dir("tree").join(".wh.f"), "1").expect("write");
        let diffed = self.diff(Vec::new(), self.bind("tree"), PLAIN).await;
        assert_eq!(class(diffed), Class::FailedPrecondition);
    }

    async fn verify(&self, layers: &[Archive], name: &str, is_repair: bool) -> Result<Vec<String>> {
        let layer = |layer: &Archive| VerifyLayer {
            stream: LayerStream(Box::new(Cursor::new(layer.clone().end()))),
            media_type: PLAIN.into(),
        };
        let verify = Verify {
            layers: layers.iter().map(layer).collect(),
            mounts: self.bind(name),
            whiteouts: Whiteouts::Remove,
            is_repair,
        };
        let line = |difference: &Difference| {
            assert_eq!(difference.is_repaired, is_repair, "{difference:?}");
            format!("{}: {}", difference.path.display(), difference.what)
        };
        Ok(self.link.send(verify).await?.iter().map(line).collect())
    }

    async fn damage_is_found_and_repaired(self) {
        let large = "0123456789abcdef".repeat(256 << 10);
        let lower = Archive::default().dir("d").file("d/f", "1").file("d/g", &large);
        let upper = Archive::default().file("d/f", "2").file("d/.wh.h", "").link(b"l", b"d/g");
        self.apply(lower.clone(), "root", Whiteouts::Remove).await.expect("apply");
        self.apply(upper.clone(), "root", Whiteouts::Remove).await.expect("apply");
        let (root, layers) = (self.dir("root"), [upper, lower]);
        assert!(self.verify(&layers, "root", false).await.expect("verify").is_empty());
        let want = listing(&root);
        fs::write(root.join("d/f"), "xyz").expect("write");
        fs::remove_file(root.join("l")).expect("remove");
        let wanted = ["d/f: size, mtime", "l: missing"];
        assert_eq!(self.verify(&layers, "root", false).await.expect("verify"), wanted);
        assert_eq!(self.verify(&layers, "root", true).await.expect("verify"), wanted);
        assert!(listing(&root) == want);
        assert!(self.verify(&layers, "root", false).await.expect("verify").is_empty());
        assert_eq!(class(self.verify(&[], "root", false).await), Class::InvalidArgument);
        let broken = Archive(layers[1].0[..2000].to_vec());
        let layers = [layers[0].clone(), broken];
        assert_eq!(class(self.verify(&layers, "root", false).await), Class::Corrupt);
    }
}
