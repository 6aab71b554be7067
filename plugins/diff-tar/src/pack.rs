//! From an archive to the bytes of a layer: compression, and the digests of both.
//!
//! On one thread, with one level for each form and no name or time in any header: the same archive
//! gives the same bytes.

use std::io::{self, Write};

use capstan_sdk::contract::differ::{Diffed, LayerSink};
use capstan_sdk::{Error, Result};
use flate2::GzBuilder;
use flate2::write::GzEncoder;

use crate::media_type::Compression;
use crate::stream::Tally;
use crate::writer::explain;

/// gzip's own default.
const GZIP_LEVEL: u32 = 6;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// The way out, with what passed it.
struct Counted {
    out: Box<dyn Write + Send>,
    tally: Tally,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.tally.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

enum Encoder {
    Plain(Counted),
    Gzip(GzEncoder<Counted>),
    Zstd(zstd::Encoder<'static, Counted>),
}

/// Takes an archive in.
pub(crate) struct Packer {
    encoder: Encoder,
    archive: Tally,
}

impl Packer {
    /// # Errors
    /// `InvalidArgument`: no media type of a layer.
    pub(crate) fn new(media_type: &str, out: LayerSink) -> Result<Self> {
        let compression = Compression::of_media_type(media_type)?;
        let out = Counted { out: out.0, tally: Tally::default() };
        let encoder = match compression {
            Compression::None => Encoder::Plain(out),
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Encoder::Gzip(GzBuilder::new().mtime(0).write(out, level))
            }
            Compression::Zstd => {
                let start = |error| Error::io("start the zstd encoder", error);
                let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(start)?;
                encoder.include_checksum(true).map_err(start)?;
                Encoder::Zstd(encoder)
            }
        };
        Ok(Self { encoder, archive: Tally::default() })
    }

    /// Ends the layer.
    pub(crate) fn finish(self) -> Result<Diffed> {
        let out = match self.encoder {
            Encoder::Plain(out) => Ok(out),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        let Counted { mut out, tally } = out.map_err(explain)?;
        out.flush().map_err(explain)?;
        let (digest, size) = tally.finish();
        let (diff_id, _) = self.archive.finish();
        Ok(Diffed { digest, size, diff_id })
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.encoder {
            Encoder::Plain(out) => out.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }?;
        self.archive.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Only at the end: in the middle it would change the bytes.
        Ok(())
    }
}
