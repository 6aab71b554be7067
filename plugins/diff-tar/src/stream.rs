//! From the bytes of a layer to the bytes of its archive: decompression, and its limits.
//!
//! Members of gzip and frames of zstd that follow one another are one stream, as RFC 1952, RFC 8878 and
//! Go's readers have it. Anything else behind the last one, zeros among them, refuses the layer, as it
//! does in Go: so there is one reading of the bytes that the digest is of.

use std::io::{self, BufReader, Chain, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use capstan_sdk::contract::differ::LayerStream;
use capstan_sdk::{Algorithm, Digest, Error, Result};
use sha2::{Digest as _, Sha256};

use crate::Config;
use crate::config::exceeded;
use crate::gzip::Members;
use crate::media_type::Compression;

/// 256 KiB: what is read and inflated at once. Measured flat above it; inflating copies 32 KiB of
/// window at each call, so far below it is slower.
pub(crate) const CHUNK: usize = 256 << 10;

/// What is read of the compressed bytes at once: much of it would be memory that a small layer only makes and gives back.
const READ: usize = 64 << 10;

/// Below this the ratio says nothing: a few megabytes of zeros are no bomb.
const RATIO_FLOOR: u64 = 64 << 20;

/// Counts what comes in, and tells errors of the input from errors of the decoders: the former
/// always have our error inside.
struct Tap {
    input: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Ok(count) => {
                    self.count.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = error
                        .downcast::<Error>()
                        .unwrap_or_else(|error| Error::io("read the layer", error));
                    return Err(io::Error::other(error));
                }
            }
        }
    }
}

/// The first bytes, which were read to see what they are, and the rest.
type Input = BufReader<Chain<Cursor<Vec<u8>>, Tap>>;

enum Decoder {
    Plain(Input),
    Gzip(Box<Members<Input>>),
    Zstd(zstd::Decoder<'static, Input>),
}

/// The uncompressed archive.
pub(crate) struct Stream {
    decoder: Decoder,
    compression: Compression,
    size: u64,
    compressed: Arc<AtomicU64>,
    max_bytes: u64,
    max_ratio: u64,
    max_window_bytes: u64,
}

impl Stream {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// `InvalidArgument`: no media type of a layer. `Corrupt`: the bytes disagree with it. Those
    /// of the input.
    pub(crate) fn open(layer: LayerStream, media_type: &str, config: &Config) -> Result<Self> {
        let compression = Compression::of_media_type(media_type)?;
        let compressed = Arc::new(AtomicU64::new(0));
        let mut tap = Tap { input: layer.0, count: Arc::clone(&compressed) };
        let mut start = Vec::new();
        tap.by_ref()
            .take(4)
            .read_to_end(&mut start)
            .map_err(|e| explain(e, compression, config.max_window_bytes))?;
        let found = Compression::of_bytes(&start);
        if found != compression {
            return Err(Error::corrupt(format!(
                "the layer is {found}, but its media type {media_type:?} says {compression}"
            )));
        }
        let input = BufReader::with_capacity(READ, Cursor::new(start).chain(tap));
        let decoder = match compression {
            Compression::None => Decoder::Plain(input),
            Compression::Gzip => Decoder::Gzip(Box::new(Members::new(input))),
            Compression::Zstd => {
                let start = |error| Error::io("start the zstd decoder", error);
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(start)?;
                decoder.window_log_max(config.max_window_bytes.max(1).ilog2()).map_err(start)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self {
            decoder,
            compression,
            size: 0,
            compressed,
            max_bytes: config.max_bytes,
            max_ratio: config.max_ratio,
            max_window_bytes: config.max_window_bytes,
        })
    }

    /// Fills the buffer; less than full means the end, and that the whole input was read.
    ///
    /// # Errors
    /// `Corrupt`: it does not decode, or breaks off. `ResourceExhausted`: a limit. Those of the input.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let read = match &mut self.decoder {
                Decoder::Plain(decoder) => decoder.read(rest),
                Decoder::Gzip(decoder) => decoder.read(rest),
                Decoder::Zstd(decoder) => decoder.read(rest),
            };
            match read.map_err(|error| explain(error, self.compression, self.max_window_bytes))? {
                0 => break,
                count => filled += count,
            }
        }
        self.size += filled as u64;
        self.check_limits()?;
        Ok(filled)
    }

    fn check_limits(&self) -> Result<()> {
        if self.size > self.max_bytes {
            return Err(exceeded("bytes in the layer's archive", "max_bytes", self.max_bytes));
        }
        let compressed = self.compressed.load(Ordering::Relaxed);
        if self.size > RATIO_FLOOR && self.size > compressed.saturating_mul(self.max_ratio) {
            let what = format!("the layer unpacks {compressed} bytes to {} or more", self.size);
            return Err(exceeded(&what, "max_ratio", self.max_ratio));
        }
        Ok(())
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }
}

/// Digest and size of an archive, in the making.
#[derive(Default)]
pub(crate) struct Tally {
    hash: Sha256,
    size: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::from_hash(Algorithm::Sha256, &self.hash.finalize()), self.size)
    }
}

/// An error of the input as it is; any other one means that the bytes do not decode.
fn explain(error: io::Error, compression: Compression, max_window_bytes: u64) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::corrupt(format!("the layer breaks off inside of its {compression} data"))
        }
        // zstd has one text per error and no kinds.
        Err(error) if error.to_string().contains("too much memory") => {
            let what = "bytes in the layer's zstd window (or compress it without --ultra --long)";
            exceeded(what, "max_window_bytes", max_window_bytes)
        }
        Err(error) => Error::corrupt(format!("the layer's {compression} data is damaged: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    const OCI: &str = "application/vnd.oci.image.layer.v1.tar";

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    /// A reader that gives one byte at a time, as a slow network may.
    struct Trickle(Cursor<Vec<u8>>);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            self.0.read(&mut buffer[..count])
        }
    }

    fn read(bytes: &[u8], suffix: &str) -> Result<(Vec<u8>, Digest, u64)> {
        let layer = LayerStream(Box::new(Trickle(Cursor::new(bytes.to_vec()))));
        let mut stream = Stream::open(layer, &format!("{OCI}{suffix}"), &Config::default())?;
        let mut data = Vec::new();
        let mut tally = Tally::default();
        let mut buffer = vec![0; 1000];
        loop {
            let count = stream.fill(&mut buffer)?;
            data.extend_from_slice(&buffer[..count]);
            tally.add(&buffer[..count]);
            if count < buffer.len() {
                let (digest, size) = tally.finish();
                return Ok((data, digest, size));
            }
        }
    }

    #[test]
    fn every_compression_gives_the_same_bytes() {
        let data: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        let want = Digest::from_hash(Algorithm::Sha256, &Sha256::digest(&data));
        let check = |bytes: &[u8], suffix: &str| {
            let (got, digest, size) = read(bytes, suffix).unwrap();
            assert!(got == data, "{suffix}");
            assert_eq!((digest, size), (want.clone(), 20_000), "{suffix}");
        };
        check(&data, "");
        check(&gzip(&data), "+gzip");
        check(&[gzip(&data[..7]), gzip(b""), gzip(&data[7..])].concat(), "+gzip");
        check(&zstd(&data), "+zstd");
        check(&[zstd(&data[..7]), zstd(&data[7..])].concat(), "+zstd");
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        check(&[&skipped[..], &zstd(&data), &skipped].concat(), "+zstd");
    }

    #[test]
    fn nothing_is_an_empty_archive_but_no_compressed_one() {
        assert_eq!(read(b"", "").unwrap().2, 0);
        assert_eq!(read(b"", "+gzip").unwrap_err().class(), Class::Corrupt);
        assert_eq!(read(&gzip(b""), "+gzip").unwrap().2, 0);
        assert_eq!(read(&zstd(b""), "+zstd").unwrap().2, 0);
    }

    #[test]
    fn damage_is_seen() {
        let data: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        let check = |bytes: &[u8], suffix: &str| {
            let error = read(bytes, suffix).unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{error}");
        };
        for (bytes, suffix) in [(gzip(&data), "+gzip"), (zstd(&data), "+zstd")] {
            for end in [4, 5, 20, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
                check(&bytes[..end], suffix);
            }
            check(&[&bytes[..], b"x"].concat(), suffix);
            check(&[&bytes[..], &[0; 512]].concat(), suffix);
            check(&[&bytes[..], &bytes[..8]].concat(), suffix);
            let mut flipped = bytes.clone();
            *flipped.last_mut().unwrap() ^= 1;
            if suffix == "+gzip" {
                check(&flipped, suffix);
            }
        }
        check(&gzip(&data), "");
        check(&zstd(&data), "");
        check(&data, "+gzip");
        check(&data, "+zstd");
        check(&gzip(&data), "+zstd");
    }

    #[test]
    fn limits_name_themselves() {
        let config = Config { max_bytes: 100, ..Config::default() };
        let check = |bytes: Vec<u8>, suffix: &str, config: &Config, names: &str| {
            let layer = LayerStream(Box::new(Cursor::new(bytes)));
            let mut stream = Stream::open(layer, &format!("{OCI}{suffix}"), config).unwrap();
            let mut buffer = vec![0; CHUNK];
            let error = loop {
                match stream.fill(&mut buffer) {
                    Ok(count) => assert!(count == CHUNK, "no limit was tripped"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.class(), Class::ResourceExhausted);
            assert!(error.message().contains(names), "{error}");
        };
        check(vec![0; 101], "", &config, "[plugins.\"differ.tar\"] max_bytes");
        check(gzip(&[0; 101]), "+gzip", &config, "[plugins.\"differ.tar\"] max_bytes");
        let config = Config { max_ratio: 1000, ..Config::default() };
        let bomb = gzip(&vec![0; 80 << 20]);
        check(bomb, "+gzip", &config, "[plugins.\"differ.tar\"] max_ratio");
        let bomb = zstd(&vec![0; 80 << 20]);
        check(bomb, "+zstd", &Config::default(), "[plugins.\"differ.tar\"] max_ratio");
        // A frame header with a window of 256 MiB: descriptor 0, window exponent 18.
        let wide = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3, 0, 0, 0, 0];
        check(
            wide,
            "+zstd",
            &Config::default(),
            "134217728; if the image is trusted, raise [plugins.\"differ.tar\"] max_window_bytes",
        );
        // And one of 128 KiB.
        let wide = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3, 0, 0, 0, 0];
        let config = Config { max_window_bytes: 65_537, ..Config::default() };
        check(wide, "+zstd", &config, "max_window_bytes");
    }

    #[test]
    fn errors_of_the_input_keep_their_class() {
        struct Broken(Option<io::Error>);
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(self.0.take().unwrap_or_else(|| io::ErrorKind::Other.into()))
            }
        }
        let check = |start: &[u8], suffix: &str, error: io::Error, want: Class| {
            let reader = Cursor::new(start.to_vec()).chain(Broken(Some(error)));
            let layer = LayerStream(Box::new(reader));
            let result = Stream::open(layer, &format!("{OCI}{suffix}"), &Config::default())
                .and_then(|mut stream| stream.fill(&mut [0; 100]));
            assert_eq!(result.unwrap_err().class(), want);
        };
        let ours = || io::Error::other(Error::unavailable("the registry is gone"));
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        check(b"", "", ours(), Class::Unavailable);
        check(b"etc/", "", ours(), Class::Unavailable);
        check(&gzip(b"x")[..12], "+gzip", ours(), Class::Unavailable);
        check(&zstd(b"x")[..8], "+zstd", ours(), Class::Unavailable);
        check(&gzip(b"x")[..12], "+gzip", reset(), Class::Unavailable);
        check(b"etc/", "", io::Error::from_raw_os_error(5), Class::Internal);
    }
}
