//! Layers changed at random, through everything that reads one: no panic, no hang, nothing outside
//! of the root, no unnamed limit, and no more memory than the limits say.
//!
//! `CAPSTAN_ROUNDS` says how many. What fails is printed with its number: the rounds are the same
//! each time.

use std::fs::{self, File};
use std::io::{Cursor, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use capstan_diff_tar::{Config, Parents, settle, verify};
use capstan_sdk::contract::differ::Whiteouts::{self, Overlay, Remove};
use capstan_sdk::contract::differ::{LayerStream, VerifyLayer};
use capstan_sdk::{Class, Result};

use crate::layer::{Header, Layer, PLAIN, apply_bytes};
use crate::mutate::{Random, mutate};
use crate::tree::{Canary, fast_dir};

/// No layer of this size may take longer.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a process may take that reads such layers: zstd's window is 128 MiB of it.
const MAX_MEMORY_KIB: u64 = 512 << 10;

fn rounds() -> u64 {
    std::env::var("CAPSTAN_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn config() -> Config {
    Config {
        max_bytes: 8 << 20,
        max_entries: 500,
        max_depth: 20,
        max_path_bytes: 1000,
        max_pending_bytes: 64 << 10,
        ..Config::default()
    }
}

/// What there is of forms and tricks; `out` leads to the canary.
fn corpus(canary: &str) -> Vec<Vec<u8>> {
    let secret = format!("{canary}/secret");
    let long = "n".repeat(150);
    let sparse =
        |records: &[(&str, &[u8])], data: &str| Layer::default().pax(records).file("s", data);
    let map = format!("{:\0<512}", "1\n0\n4\n");
    let layers = [
        Layer::default()
            .dir("./")
            .dir("a")
            .file("a/b", "text")
            .symlink("link", "a")
            .file("link/x", "1"),
        Layer::default().symlink("out", canary).file("out/x", "1").with_mode(b'5', "out", 0o777),
        Layer::default().symlink("s", &secret).link("l", "s").with_mode(b'0', "l", 0o4777),
        Layer::default().link("l", &secret).link("m", "a/b").file("m", "2"),
        Layer::default().file(".wh.a", "").dir("d").file("d/.wh..wh..opq", "").file("d/x", "1"),
        Layer::default().file("a/.wh.b", "").file(".wh..wh..opq", "").file(".wh..wh.plnk", ""),
        Layer::default()
            .device(b'3', "null", 1, 3)
            .device(b'4', "disk", 8, 0)
            .with_mode(b'6', "p", 0o666),
        Layer::default()
            .pax(&[
                ("path", long.as_bytes()),
                ("mtime", b"-1.5"),
                ("size", b"4"),
                ("uid", b"70000"),
            ])
            .file("x", "1234"),
        Layer::default()
            .pax(&[
                ("SCHILY.xattr.user.x", b"1"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/.."),
                ("LIBARCHIVE.xattr.user.y", b"eA=="),
            ])
            .dir("d"),
        Layer::default()
            .entry(b'L', "././@LongLink", format!("{long}\0").as_bytes())
            .file("x", "1"),
        Layer::default()
            .entry(b'K', "././@LongLink", format!("{secret}\0").as_bytes())
            .symlink("x", "y"),
        Layer::default().entry(b'g', "g", b"13 comment=x\n").file("x", "1"),
        sparse(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", b"4"),
            ],
            &format!("{map}data"),
        ),
        sparse(
            &[
                ("GNU.sparse.size", b"4096"),
                ("GNU.sparse.map", b"0,4,100,0"),
                ("GNU.sparse.numblocks", b"2"),
            ],
            "data",
        ),
        {
            let mut header = Header::new(b'S', "s", 4);
            header.put(257, b"ustar  \0");
            header.octal(386, 12, 100);
            header.octal(398, 12, 4);
            header.octal(483, 12, 1000);
            Layer::default().header(header).data(b"data")
        },
    ];
    layers.into_iter().map(Layer::end).collect()
}

/// The process's largest size so far.
fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn check_outcome<T>(result: &Result<T>, what: &str) {
    let Err(error) = result else { return };
    let is_named = error.message().contains("[plugins.\"differ.tar\"]");
    match error.class() {
        Class::Corrupt | Class::FailedPrecondition => {}
        Class::ResourceExhausted if is_named => {}
        class => panic!("{what}: {class:?}: {error}"),
    }
}

struct Target {
    canary: Canary,
    place: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        let target = Self { canary: Canary::new(), place: fast_dir() };
        for name in ["root", "layer", "parent", "beside"] {
            fs::create_dir(target.place.path().join(name)).unwrap();
        }
        for name in ["root", "parent"] {
            let root = target.place.path().join(name);
            symlink(target.canary.path(), root.join("out")).unwrap();
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/x"), "x").unwrap();
        }
        target
    }

    fn open(&self, name: &str) -> OwnedFd {
        File::open(self.place.path().join(name)).unwrap().into()
    }

    fn root(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join(name)
    }

    fn round(&self, bytes: &[u8], media_type: &str, what: &str) {
        let config = config();
        let started = Instant::now();
        let apply = |form: Whiteouts, root: &Path| {
            apply_bytes(bytes.to_vec(), media_type, root, form, &config)
        };
        check_outcome(&apply(Remove, &self.root("root")), what);
        let applied = apply(Overlay, &self.root("layer"));
        check_outcome(&applied, what);
        if let Ok(applied) = applied {
            let parents = Parents::layers(vec![self.root("parent")]);
            let settled = settle(self.open("layer"), parents, &applied.pending, &config);
            check_outcome(&settled, what);
        }
        for (form, name) in [(Remove, "root"), (Overlay, "layer")] {
            let stream = LayerStream(Box::new(Cursor::new(bytes.to_vec())));
            let layers = vec![VerifyLayer { stream, media_type: media_type.into() }];
            check_outcome(&verify(layers, self.open(name), form, true, &config), what);
        }
        assert!(started.elapsed() < DEADLINE, "{what}: it took {:?}", started.elapsed());
        self.canary.check();
        assert_eq!(fs::read_dir(self.root("beside")).unwrap().count(), 0, "{what}");
        let names = fs::read_dir(self.place.path()).unwrap().count();
        assert_eq!(names, 4, "{what}: something is beside the root");
    }
}

fn fuzz(media_type: &str, seed: u64, pack: impl Fn(&mut Random, Vec<u8>) -> Vec<u8>) {
    let mut random = Random(seed);
    let mut target = Target::new();
    for round in 0..rounds() {
        if round % 64 == 63 {
            target = Target::new();
        }
        let corpus = corpus(target.canary.path());
        let bytes = mutate(&mut random, &corpus);
        let bytes = pack(&mut random, bytes);
        target.round(&bytes, media_type, &format!("{media_type}, seed {seed}, round {round}"));
    }
    assert!(memory_kib() < MAX_MEMORY_KIB, "{} KiB of memory", memory_kib());
}

/// Changes some compressed bytes, too.
fn spoil(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    match random.below(4) {
        0 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        1 => bytes.truncate(random.below(bytes.len())),
        2 => {
            let at = random.below(bytes.len());
            let part = bytes[at..].to_vec();
            bytes.extend_from_slice(&part);
        }
        _ => {}
    }
    bytes
}

#[test]
fn plain_layers() {
    fuzz(PLAIN, 1, |_, bytes| bytes);
}

#[test]
fn gzip_layers() {
    fuzz(&format!("{PLAIN}+gzip"), 2, |random, bytes| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        spoil(random, encoder.finish().unwrap())
    });
}

#[test]
fn zstd_layers() {
    fuzz(&format!("{PLAIN}+zstd"), 3, |random, bytes| {
        spoil(random, zstd::encode_all(bytes.as_slice(), 1).unwrap())
    });
}
