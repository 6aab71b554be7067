//! What we read in archives that were changed at random is what GNU tar and Python's tarfile read in
//! them (CVE-2025-62518 was a reader that saw other files than the others); or we refuse them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use capstan_sdk::Result;

use crate::Config;
use crate::archive::{Archive, Kind, Source};
use mutate::{Random, mutate};

#[path = "../tests/it/mutate.rs"]
mod mutate;

/// Type, name, and size of each entry.
type Listing = Vec<(u8, Vec<u8>, u64)>;

struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn peek(&mut self) -> Result<&[u8]> {
        Ok(self.0)
    }

    fn consume(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }
}

/// All readers leave slashes at the end to be understood.
fn trimmed(name: &[u8]) -> Vec<u8> {
    let len = name.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
    name[..len].to_vec()
}

fn ours(bytes: &[u8]) -> Result<Listing> {
    let (mut source, config) = (Bytes(bytes), Config::default());
    let mut archive = Archive::new(&mut source, &config);
    let mut listing = Vec::new();
    while let Some(entry) = archive.next()? {
        let (kind, size) = match entry.kind {
            Kind::File { size, .. } => (b'-', size),
            Kind::Directory => (b'd', 0),
            Kind::Symlink(_) => (b'l', 0),
            Kind::Link(_) => (b'h', 0),
            Kind::CharDevice(..) => (b'c', 0),
            Kind::BlockDevice(..) => (b'b', 0),
            Kind::Fifo => (b'p', 0),
        };
        listing.push((kind, trimmed(&entry.path), size));
    }
    Ok(listing)
}

const PYTHON: &str = r#"
import os, sys, tarfile
kinds = {b"0": "-", b"\0": "-", b"S": "-", b"5": "d", b"2": "l", b"1": "h", b"3": "c", b"4": "b", b"6": "p"}
for name in sorted(os.listdir(sys.argv[1])):
    print("archive", name)
    try:
        with tarfile.open(os.path.join(sys.argv[1], name), "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for entry in tar:
                size = entry.size if kinds[entry.type] == "-" else 0
                path = entry.name.rstrip("/").encode("utf-8", "surrogateescape")
                print("entry", kinds[entry.type], size, path.hex() or "-")
    except Exception as error:
        print("failed", repr(error))
"#;

/// What Python's reader finds in each file of a directory, in the order of their names.
fn python(dir: &Path) -> Vec<Listing> {
    let output = Command::new("python3").args(["-c", PYTHON]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found: Vec<Listing> = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "archive" => found.push(Listing::new()),
            // What it found before counts: at the end it complains where others do not.
            "failed" => {}
            _ => {
                let hex = words[3].trim_start_matches('-');
                let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                let name = (0..hex.len()).step_by(2).map(byte).collect();
                let entry = (words[1].as_bytes()[0], name, words[2].parse().unwrap());
                found.last_mut().unwrap().push(entry);
            }
        }
    }
    found
}

/// Lines of GNU tar, less owner, mode and time: type, size and name, where a link's has its target behind it.
fn gnu(file: &Path) -> (bool, Listing) {
    let output = Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner"])
        .args(["--quoting-style=escape", "--file"])
        .arg(file)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let line = |line: &[u8]| {
        let mut rest = line;
        let mut word = || {
            let start = rest.iter().position(|&byte| byte != b' ').unwrap_or(rest.len());
            let len = rest[start..].iter().position(|&byte| byte == b' ');
            let len = len.unwrap_or(rest.len() - start);
            let word = &rest[start..start + len];
            rest = &rest[(start + len + 1).min(rest.len())..];
            word
        };
        let (mode, _owner, size, _date, _time) = (word(), word(), word(), word(), word());
        let size = std::str::from_utf8(size).unwrap().parse().unwrap_or(0);
        let kind = mode.first().copied().unwrap_or_default();
        (kind, unescaped(rest), if kind == b'-' { size } else { 0 })
    };
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    (output.status.success(), lines.map(line).collect())
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let (byte, len) = match &text[at..] {
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'a', ..] => (7, 2),
            [b'\\', b'b', ..] => (8, 2),
            [b'\\', b'f', ..] => (12, 2),
            [b'\\', b'r', ..] => (b'\r', 2),
            [b'\\', b'v', ..] => (11, 2),
            [b'\\', b'0'..=b'7', ..] => {
                let digits = std::str::from_utf8(&text[at + 1..at + 4]).unwrap();
                (u8::try_from(u32::from_str_radix(digits, 8).unwrap()).unwrap(), 4)
            }
            [b'\\', other, ..] => (*other, 2),
            [other, ..] => (*other, 1),
            [] => unreachable!(),
        };
        out.push(byte);
        at += len;
    }
    out
}

fn is_line_of(got: &(u8, Vec<u8>, u64), want: &(u8, Vec<u8>, u64)) -> bool {
    let arrow: &[u8] = match want.0 {
        b'l' => b" -> ",
        b'h' => b" link to ",
        _ => return (got.0, trimmed(&got.1), got.2) == *want,
    };
    let name = got.1.strip_prefix(want.1.as_slice());
    let rest = name.map(|rest| &rest[rest.iter().take_while(|&&byte| byte == b'/').count()..]);
    got.0 == want.0 && rest.is_some_and(|rest| rest.starts_with(arrow))
}

fn shown(listing: &Listing) -> String {
    let entry = |(kind, name, size): &(u8, Vec<u8>, u64)| {
        let name = &name[..name.len().min(60)];
        format!("{} {} {size}", char::from(*kind), name.escape_ascii())
    };
    listing.iter().map(entry).collect::<Vec<_>>().join(", ")
}

/// Archives of one small tree, in all formats of GNU tar.
fn corpus() -> Vec<Vec<u8>> {
    let tree = tempfile::tempdir().unwrap();
    let at = |name: &str| tree.path().join(name);
    fs::create_dir(at("a")).unwrap();
    fs::write(at("a/b"), "text").unwrap();
    fs::hard_link(at("a/b"), at("a/c")).unwrap();
    symlink("a/b", at("link")).unwrap();
    fs::write(at("block"), [b'x'; 1024]).unwrap();
    let pack = |arguments: &[&str]| {
        let mut command = Command::new("tar");
        command.arg("--create").arg("--directory").arg(tree.path());
        let output =
            command.args(arguments).args(["--sort=name", "--file=-", "."]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        // Without the padding behind the end.
        let len = output.stdout.iter().rposition(|&byte| byte != 0).unwrap_or(0);
        output.stdout[..(len + 1).next_multiple_of(512) + 1024].to_vec()
    };
    let mut corpus = vec![pack(&["--format=v7"]), pack(&["--format=ustar"])];
    let long = format!("{}/{}", "l".repeat(90), "m".repeat(150));
    fs::create_dir(at(&long[..90])).unwrap();
    fs::write(at(&long), "long").unwrap();
    symlink("t".repeat(120), at("far")).unwrap();
    let holes = fs::File::create(at("holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"data", 500_000).unwrap();
    for format in ["gnu", "oldgnu", "pax"] {
        corpus.push(pack(&[&format!("--format={format}"), "--sparse"]));
    }
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        corpus.push(pack(&["--format=pax", "--sparse", &version]));
    }
    corpus
}

#[test]
fn what_is_accepted_is_what_others_read() {
    let rounds = std::env::var("CAPSTAN_ROUNDS").ok().and_then(|text| text.parse().ok());
    let corpus = corpus();
    let mut random = Random(4);
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut accepted = Vec::new();
    for (round, bytes) in corpus.iter().cloned().enumerate() {
        accepted.push((round, ours(&bytes).unwrap()));
        fs::write(dir.path().join(format!("{round:08}")), bytes).unwrap();
    }
    for round in corpus.len()..rounds.unwrap_or(3000) {
        let bytes = mutate(&mut random, &corpus);
        if let Ok(listing) = ours(&bytes) {
            fs::write(dir.path().join(format!("{round:08}")), bytes).unwrap();
            accepted.push((round, listing));
        }
    }
    assert!(accepted.len() > 100, "{} archives are too few", accepted.len());
    let python = python(dir.path());
    let mut wrong = Vec::new();
    for ((round, want), theirs) in accepted.iter().zip(python) {
        if theirs != *want {
            wrong.push(format!("{round}: Python: {}\n  ours: {}", shown(&theirs), shown(want)));
        }
        let (_, theirs) = gnu(&dir.path().join(format!("{round:08}")));
        let is_same = theirs.len() == want.len()
            && theirs.iter().zip(want).all(|(got, want)| is_line_of(got, want));
        if !is_same {
            wrong.push(format!("{round}: GNU tar: {}\n  ours: {}", shown(&theirs), shown(want)));
        }
    }
    if !wrong.is_empty() && std::env::var_os("CAPSTAN_KEEP").is_some() {
        eprintln!("{}", dir.keep().display());
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), accepted.len(), wrong.join("\n"));
}
