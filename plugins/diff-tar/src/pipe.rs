//! A stream that is inflated ahead, on a thread of its own, while files are made here.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use capstan_sdk::{Digest, Error, Result};

use crate::archive::Source;
use crate::media_type::Compression;
use crate::stream::{CHUNK, Stream, Tally};

/// Chunks that are inflated here before there is a thread: most layers of most images are no longer than that.
const SHORT: usize = 4;

/// Chunks between the two ends, each made when it is needed. Files are many and small here, few and large there, so now
/// one end is the quicker, now the other: the more chunks wait, the less does an end.
const BUFFERS: usize = 16;

struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// The stream on its thread.
struct Far {
    full: Receiver<Result<Chunk>>,
    empty: Sender<Vec<u8>>,
    thread: JoinHandle<Option<Tally>>,
}

/// What is still to come.
enum Rest {
    /// Read here, after so many chunks.
    Near(Stream, usize),
    Far(Far),
    Nothing,
}

/// The near end of a stream.
pub(crate) struct Pipe {
    rest: Rest,
    chunk: Chunk,
    at: usize,
    /// `None`: the thread counts.
    tally: Option<Tally>,
}

impl Source for Pipe {
    fn peek(&mut self) -> Result<&[u8]> {
        if self.at == self.chunk.filled {
            self.next()?;
        }
        Ok(&self.chunk.bytes()[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Pipe {
    fn new(stream: Stream) -> Self {
        let chunk = Chunk { buffer: vec![0; CHUNK], filled: 0 };
        Self { rest: Rest::Near(stream, 0), chunk, at: 0, tally: Some(Tally::default()) }
    }

    /// Puts the next chunk in the place of one that is read; at the end an empty one.
    fn next(&mut self) -> Result<()> {
        self.rest = match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Near(stream, SHORT..) => Rest::Far(self.send_away(stream)?),
            rest => rest,
        };
        match &mut self.rest {
            Rest::Near(stream, count) => {
                *count += 1;
                self.chunk.filled = stream.fill(&mut self.chunk.buffer)?;
                if self.chunk.filled < CHUNK {
                    self.rest = Rest::Nothing;
                }
            }
            // A closed channel is the end: an error would have come through it.
            Rest::Far(far) => match far.full.recv() {
                Ok(next) => {
                    let old = std::mem::replace(&mut self.chunk, next?);
                    // Nobody takes it any more once the stream has ended.
                    let _ = far.empty.send(old.buffer);
                }
                Err(_) => self.chunk.filled = 0,
            },
            Rest::Nothing => self.chunk.filled = 0,
        }
        self.at = 0;
        if let Some(tally) = &mut self.tally {
            tally.add(self.chunk.bytes());
        }
        Ok(())
    }

    fn send_away(&mut self, stream: Stream) -> Result<Far> {
        let (to_near, full) = channel();
        let (empty, to_far) = channel();
        // Inflating takes longer than making files does, and hashing is best done by the other side.
        let tally = match stream.compression() {
            Compression::None => self.tally.take(),
            Compression::Gzip | Compression::Zstd => None,
        };
        let thread = std::thread::Builder::new()
            .name("inflate".into())
            .spawn(move || pump(stream, tally, &to_near, &to_far))
            .map_err(|error| Error::io("start a thread", error))?;
        Ok(Far { full, empty, thread })
    }

    /// Ends the thread, if there is one. What was counted.
    fn end(self) -> Result<Tally> {
        let Self { rest, tally, .. } = self;
        let far = match rest {
            Rest::Far(Far { full, empty, thread }) => {
                // Wakes it, should it wait.
                drop((full, empty));
                thread.join().map_err(|_| {
                    Error::internal("inflating the layer panicked; the daemon's log has the place")
                })?
            }
            Rest::Near(..) | Rest::Nothing => None,
        };
        Ok(tally.or(far).expect("one end has counted"))
    }
}

/// Runs `work` on the bytes of `stream`, reads what it leaves, and digests all of it.
///
/// # Errors
/// The first one of `work` or of the stream. `Internal`: the stream's thread panicked.
pub(crate) fn with_pipe<T>(
    stream: Stream,
    work: impl FnOnce(&mut Pipe) -> Result<T>,
) -> Result<(T, Digest, u64)> {
    let mut pipe = Pipe::new(stream);
    let result = work(&mut pipe).and_then(|result| {
        while let left @ 1.. = pipe.peek()?.len() {
            pipe.consume(left);
        }
        Ok(result)
    });
    let tally = pipe.end()?;
    let result = result?;
    let (digest, size) = tally.finish();
    Ok((result, digest, size))
}

/// The far end: until the stream ends or fails, or the near end is gone.
fn pump(
    mut stream: Stream,
    mut tally: Option<Tally>,
    full: &Sender<Result<Chunk>>,
    empty: &Receiver<Vec<u8>>,
) -> Option<Tally> {
    // The near end has one.
    let mut made = 1;
    while let Some(mut buffer) = spare(empty, &mut made) {
        let chunk = stream.fill(&mut buffer).map(|filled| Chunk { buffer, filled });
        let mut is_last = true;
        if let Ok(chunk) = &chunk {
            is_last = chunk.filled < chunk.buffer.len();
            if let Some(tally) = &mut tally {
                tally.add(chunk.bytes());
            }
        }
        if full.send(chunk).is_err() || is_last {
            break;
        }
    }
    tally
}

/// A buffer to fill: one that was emptied, or a new one; `None` if the near end is gone.
fn spare(empty: &Receiver<Vec<u8>>, made: &mut usize) -> Option<Vec<u8>> {
    match empty.try_recv() {
        Ok(buffer) => Some(buffer),
        Err(TryRecvError::Empty) if *made < BUFFERS => {
            *made += 1;
            Some(vec![0; CHUNK])
        }
        Err(_) => empty.recv().ok(),
    }
}
