//! Archives as bytes: what is read, what is refused, and what the digest is over.

use std::fs;
use std::io::{self, Cursor, Read, Write as _};

use capstan_diff_tar::{Config, apply};
use capstan_sdk::contract::differ::LayerStream;
use capstan_sdk::contract::differ::Whiteouts::{Overlay, Remove};
use capstan_sdk::{Class, Error};
use flate2::write::GzEncoder;

use crate::layer::{Header, Layer, PLAIN, apply_bytes, record};
use crate::tree::listing;

#[track_caller]
fn check(bytes: Vec<u8>, want: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    let size = bytes.len() as u64;
    let applied = apply_bytes(bytes, PLAIN, root.path(), Remove, &Config::default()).unwrap();
    assert_eq!(listing(root.path()), want);
    assert_eq!(applied.size, size);
}

#[track_caller]
fn refused(bytes: Vec<u8>) -> Error {
    let root = tempfile::tempdir().unwrap();
    let error = apply_bytes(bytes, PLAIN, root.path(), Remove, &Config::default()).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    error
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_end_of_an_archive() {
    let file = Layer::default().file("a", "1");
    let zeros = |blocks: usize| vec![0; blocks * 512];
    check(vec![], &[]);
    check(zeros(2), &[]);
    check(zeros(20), &[]);
    check(file.0.clone(), &["a=1"]);
    check([file.0.clone(), zeros(1)].concat(), &["a=1"]);
    check([file.0.clone(), zeros(2)].concat(), &["a=1"]);
    // What is behind the end belongs to the digest, and to nothing else.
    let hidden = Layer::default().file("b", "2").0;
    check([file.0.clone(), zeros(2), hidden.clone()].concat(), &["a=1"]);
    check([file.0.clone(), zeros(2), b"x".to_vec()].concat(), &["a=1"]);
    refused([file.0.clone(), zeros(1), hidden].concat());
    refused([file.0.clone(), b"x".to_vec()].concat());
    refused([file.0.clone(), zeros(1), b"\0".to_vec()].concat());
    for cut in [1, 100, 511, 512, 1023] {
        refused(file.0[..1024 - cut].to_vec());
    }
}

#[test]
fn the_digest_is_over_the_whole_archive() {
    let plain = [Layer::default().file("a", "1").end(), vec![7; 2_000_000]].concat();
    let media_types = [
        (plain.clone(), PLAIN.to_owned()),
        (gzip(&plain), format!("{PLAIN}+gzip")),
        ([gzip(&plain[..600]), gzip(&plain[600..])].concat(), format!("{PLAIN}+gzip")),
        (zstd::encode_all(plain.as_slice(), 1).unwrap(), format!("{PLAIN}+zstd")),
    ];
    let digests = media_types.map(|(bytes, media_type)| {
        let root = tempfile::tempdir().unwrap();
        let applied =
            apply_bytes(bytes, &media_type, root.path(), Overlay, &Config::default()).unwrap();
        assert_eq!(listing(root.path()), ["a=1"]);
        assert_eq!(applied.size, plain.len() as u64);
        applied.diff_id
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    let empty = [0; 1024];
    let root = tempfile::tempdir().unwrap();
    let applied = apply_bytes(empty.into(), PLAIN, root.path(), Remove, &Config::default());
    // As everybody knows it.
    let want = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(applied.unwrap().diff_id.as_str(), want);
}

#[test]
fn media_type_and_bytes_must_agree() {
    let check = |bytes: &[u8], media_type: &str, want: Class| {
        let root = tempfile::tempdir().unwrap();
        let result =
            apply_bytes(bytes.to_vec(), media_type, root.path(), Remove, &Config::default());
        assert_eq!(result.unwrap_err().class(), want, "{media_type}");
    };
    let plain = Layer::default().file("a", "1").end();
    check(&plain, "application/vnd.oci.image.layer.v1.tar+gzip", Class::Corrupt);
    check(&gzip(&plain), "application/vnd.oci.image.layer.v1.tar", Class::Corrupt);
    check(&gzip(&plain), "application/vnd.docker.image.rootfs.diff.tar", Class::Corrupt);
    check(&gzip(&plain), "application/vnd.oci.image.layer.v1.tar+zstd", Class::Corrupt);
    check(&plain, "application/octet-stream", Class::InvalidArgument);
}

#[test]
fn two_readers_must_not_see_two_archives() {
    let bad = |layer: Layer| refused(layer.end());
    // CVE-2025-62518: the size of the pax header counts; what it covers is data, not headers.
    let inner = Layer::default().file("hidden", "").0;
    let layer = Layer::default()
        .pax(&[("size", b"512")])
        .header(Header::new(b'0', "outer", 0))
        .data(&inner)
        .file("behind", "1");
    let root = tempfile::tempdir().unwrap();
    layer.apply(root.path(), Remove).unwrap();
    assert!(fs::read(root.path().join("outer")).unwrap() == inner);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    // Data behind what has none.
    for type_flag in [b'2', b'3', b'4', b'5', b'6'] {
        bad(Layer::default().entry(type_flag, "x", &inner));
        bad(Layer::default().pax(&[("size", b"512")]).entry(type_flag, "x", b"").data(&inner));
    }
    // A directory by its name, or not.
    bad(Layer::default().file("x/", ""));
    check(Layer::default().entry(0, "x/", b"").end(), &["x/"]);
    check(Layer::default().entry(0, "x", b"1").end(), &["x=1"]);
    // All agree that a hard link has no data.
    let mut link = Header::new(b'1', "l", 1);
    link.put(157, b"x");
    check(
        Layer::default().file("x", "1").header(link).file("y", "2").end(),
        &["l=1", "x=1", "y=2"],
    );
    // Twice the same, or both kinds of extension.
    let name = |layer: Layer| layer.entry(b'L', "x", b"long\0");
    bad(Layer::default().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", ""));
    bad(name(name(Layer::default())).file("x", ""));
    bad(name(Layer::default().pax(&[("path", b"a")])).file("x", ""));
    check(name(Layer::default().pax(&[("mtime", b"1")])).file("x", "").end(), &["long="]);
    // Extensions of nothing.
    bad(Layer::default().pax(&[("path", b"a")]));
    bad(name(Layer::default()));
    // Global headers.
    let global = |key: &str, value: &[u8]| Layer::default().entry(b'g', "g", &record(key, value));
    check(global("comment", b"hello").file("x", "").end(), &["x="]);
    check(global("uid", b"77").file("x", "").end(), &["x="]);
    bad(global("path", b"y").file("x", ""));
    bad(global("size", b"0").file("x", ""));
    bad(Layer::default().entry(b'g', "g", b"12 comment=").file("x", ""));
    bad(Layer::default().pax(&[("path", b"a")]).entry(b'g', "g", b"").file("x", ""));
}

#[test]
fn malformed_extensions_are_never_skipped() {
    for (flag, body) in [
        (b'x', b"garbage".as_slice()),
        (b'x', b"9 path=ab\n"),
        (b'x', b"10 path=a\0\n"),
        (b'x', b"8 size=x\n"),
        (b'g', b"5 a=b"),
        (b'L', b""),
        (b'L', b"\0"),
        (b'L', b"a"),
        (b'L', b"a\0b\0"),
        (b'K', b"a\0b\0"),
    ] {
        refused(Layer::default().entry(flag, "x", body).file("x", "").end());
    }
    refused(Layer::default().header(Header::new(b'x', "x", 2 << 20)).data(&[0; 2 << 20]).end());
}

#[test]
fn malformed_headers_are_refused() {
    let change = |change: &dyn Fn(&mut Header)| {
        let mut header = Header::new(b'0', "x", 0);
        change(&mut header);
        refused(Layer::default().header(header).end());
    };
    change(&|header| header.put(124, b"-0000000001\0"));
    change(&|header| header.put(124, &[0xff; 12]));
    change(&|header| header.put(108, &[0xff; 8]));
    change(&|header| header.put(108, b"\x80\0\0\0\xff\xff\xff\xff"));
    change(&|header| header.put(100, b"rw-r--r-"));
    for flag in [b'7', b'D', b'M', b'V', b'X', b'A', b'N', 1, 0xff] {
        change(&|header| header.0[156] = flag);
    }
    let error = {
        let mut bytes = Layer::default().file("a", "").file("b", "").end();
        bytes[600] ^= 1;
        refused(bytes)
    };
    assert_eq!(
        error.message(),
        "layer archive, header at byte 512: the checksum of the header is wrong"
    );
    refused(Layer::default().device(b'3', "x", 0x1000, 0).end());
    refused(Layer::default().device(b'4', "x", 0, 0x10_0000).end());
    refused(Layer::default().symlink("x", "").end());
}

/// Gives bytes in odd pieces, and then an error.
struct Pieces(Cursor<Vec<u8>>, Option<io::Error>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(97);
        match self.0.read(&mut buffer[..count])? {
            0 => self.1.take().map_or(Ok(0), Err),
            count => Ok(count),
        }
    }
}

#[test]
fn errors_of_the_input_come_out_as_they_went_in() {
    let ours = Error::unavailable("the registry hung up");
    let layer = Layer::default().file("a", &"x".repeat(2000)).end();
    for len in [0, 3, 100, 512, 600, 2000, layer.len()] {
        for bytes in [layer[..len].to_vec(), gzip(&layer[..len])] {
            let media_type = match bytes.first() {
                Some(0x1f) => format!("{PLAIN}+gzip"),
                _ => PLAIN.to_owned(),
            };
            let input = Pieces(Cursor::new(bytes), Some(io::Error::other(ours.clone())));
            let root = tempfile::tempdir().unwrap();
            let result = apply(
                LayerStream(Box::new(input)),
                &media_type,
                fs::File::open(root.path()).unwrap().into(),
                Overlay,
                &Config::default(),
            );
            assert_eq!(result.unwrap_err(), ours, "{len} bytes, {media_type}");
        }
    }
}

#[test]
fn large_files_pass_through_many_buffers() {
    let data: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
    let bytes = gzip(&Layer::default().entry(b'0', "big", &data).file("small", "1").end());
    let root = tempfile::tempdir().unwrap();
    let layer = LayerStream(Box::new(Pieces(Cursor::new(bytes), None)));
    let dir = fs::File::open(root.path()).unwrap();
    apply(layer, &format!("{PLAIN}+gzip"), dir.into(), Remove, &Config::default()).unwrap();
    assert!(fs::read(root.path().join("big")).unwrap() == data);
    assert_eq!(fs::read(root.path().join("small")).unwrap(), b"1");
}
