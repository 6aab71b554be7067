//! Archives, byte by byte: what no library would write must be written, too.

use std::fs::File;
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::path::Path;

use capstan_diff_tar::{Config, apply};
use capstan_sdk::contract::differ::{Applied, LayerStream, Whiteouts};
use capstan_sdk::{Class, Error, Result};
use rustix::fs::Mode;

pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// When all things in these archives were changed, unless they say otherwise.
pub(crate) const MTIME: i64 = 1_600_000_000;

/// A header block.
#[derive(Clone)]
pub(crate) struct Header(pub(crate) [u8; 512]);

impl Header {
    pub(crate) fn new(type_flag: u8, path: &str, size: u64) -> Self {
        let mut header = Self([0; 512]);
        let path = path.as_bytes();
        assert!(path.len() <= 100, "use Layer::pax for long names");
        header.put(0, path);
        header.octal(100, 8, 0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.octal(124, 12, size);
        header.octal(136, 12, u64::try_from(MTIME).unwrap());
        header.0[156] = type_flag;
        header.put(257, b"ustar\x0000");
        header.octal(329, 8, 0);
        header.octal(337, 8, 0);
        header
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn octal(&mut self, at: usize, width: usize, number: u64) {
        self.put(at, format!("{number:0width$o}\0", width = width - 1).as_bytes());
    }

    fn summed(mut self) -> [u8; 512] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// An archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Layer(pub(crate) Vec<u8>);

impl Layer {
    pub(crate) fn header(mut self, header: Header) -> Self {
        self.0.extend_from_slice(&header.summed());
        self
    }

    /// Data, padded to whole blocks.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(self, type_flag: u8, path: &str, data: &[u8]) -> Self {
        self.header(Header::new(type_flag, path, data.len() as u64)).data(data)
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let records: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
        self.entry(b'x', "PaxHeaders/x", &records)
    }

    pub(crate) fn file(self, path: &str, data: &str) -> Self {
        self.entry(b'0', path, data.as_bytes())
    }

    pub(crate) fn with_mode(self, type_flag: u8, path: &str, mode: u32) -> Self {
        let mut header = Header::new(type_flag, path, 0);
        header.octal(100, 8, mode.into());
        self.header(header)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.with_mode(b'5', path, 0o755)
    }

    fn pointing(self, type_flag: u8, path: &str, target: &str) -> Self {
        if target.len() > 100 {
            let target = target.as_bytes();
            return self.pax(&[("linkpath", target)]).header(Header::new(type_flag, path, 0));
        }
        let mut header = Header::new(type_flag, path, 0);
        header.put(157, target.as_bytes());
        self.header(header)
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.pointing(b'2', path, target)
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.pointing(b'1', path, target)
    }

    pub(crate) fn device(self, type_flag: u8, path: &str, major: u64, minor: u64) -> Self {
        let mut header = Header::new(type_flag, path, 0);
        header.octal(329, 8, major);
        header.octal(337, 8, minor);
        self.header(header)
    }

    /// The whole archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub(crate) fn apply_with(
        &self,
        root: &Path,
        form: Whiteouts,
        config: &Config,
    ) -> Result<Applied> {
        apply_bytes(self.clone().end(), PLAIN, root, form, config)
    }

    pub(crate) fn apply(&self, root: &Path, form: Whiteouts) -> Result<Applied> {
        self.apply_with(root, form, &Config::default())
    }

    /// Applies it in both forms, and wants the same class of error from both.
    pub(crate) fn refused(&self, class: Class) -> Error {
        let [removing, overlay] = [Whiteouts::Remove, Whiteouts::Overlay].map(|form| {
            let root = tempfile::tempdir().unwrap();
            let error = self.apply(root.path(), form).unwrap_err();
            assert_eq!(error.class(), class, "{form:?}: {error}");
            assert!(!error.message().contains('\n'));
            error
        });
        assert_eq!(removing.message(), overlay.message());
        removing
    }
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len = (1..).map(|digits| rest + digits).find(|len| len.to_string().len() + rest == *len);
    let mut record = format!("{} {key}=", len.unwrap()).into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

pub(crate) fn apply_bytes(
    bytes: Vec<u8>,
    media_type: &str,
    root: &Path,
    form: Whiteouts,
    config: &Config,
) -> Result<Applied> {
    apply_in(bytes, media_type, File::open(root).unwrap().into(), form, config)
}

pub(crate) fn apply_in(
    bytes: Vec<u8>,
    media_type: &str,
    root: OwnedFd,
    form: Whiteouts,
    config: &Config,
) -> Result<Applied> {
    // As the daemon has it.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    apply(LayerStream(Box::new(Cursor::new(bytes))), media_type, root, form, config)
}
