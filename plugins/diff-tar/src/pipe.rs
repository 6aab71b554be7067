//! A stream on a thread of its own: it inflates ahead while files are made here.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use capstan_sdk::{Digest, Error, Result};

use crate::archive::Source;
use crate::media_type::Compression;
use crate::stream::{CHUNK, Stream, Tally};

/// One is filled, one is emptied, two wait: more did not make it faster.
const BUFFERS: usize = 4;

struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// The near end of a stream.
pub(crate) struct Pipe {
    full: Receiver<Result<Chunk>>,
    empty: Sender<Vec<u8>>,
    chunk: Chunk,
    at: usize,
    tally: Option<Tally>,
}

impl Source for Pipe {
    fn peek(&mut self) -> Result<&[u8]> {
        if self.at == self.chunk.filled
            // A closed channel is the end: an error would have come through it.
            && let Ok(next) = self.full.recv()
        {
            let old = std::mem::replace(&mut self.chunk, next?);
            self.at = 0;
            if let Some(tally) = &mut self.tally {
                tally.add(self.chunk.bytes());
            }
            // Nobody takes it any more once the stream has ended.
            let _ = self.empty.send(old.buffer);
        }
        Ok(&self.chunk.bytes()[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
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
    let (to_near, full) = sync_channel(BUFFERS);
    let (empty, to_far) = channel();
    for _ in 1..BUFFERS {
        empty.send(vec![0; CHUNK]).expect("its receiver is right here");
    }
    // Inflating takes longer than making files does, and hashing is best done by the other side.
    let (near, far) = match stream.compression() {
        Compression::None => (None, Some(Tally::default())),
        Compression::Gzip | Compression::Zstd => (Some(Tally::default()), None),
    };
    // This is the first buffer that goes back.
    let chunk = Chunk { buffer: vec![0; CHUNK], filled: 0 };
    let mut pipe = Pipe { full, empty, chunk, at: 0, tally: near };
    std::thread::scope(|scope| {
        let far = std::thread::Builder::new()
            .name("inflate".into())
            .spawn_scoped(scope, move || pump(stream, far, &to_near, &to_far))
            .map_err(|error| Error::io("start a thread", error))?;
        let result = work(&mut pipe).and_then(|result| {
            while let left @ 1.. = pipe.peek()?.len() {
                pipe.consume(left);
            }
            Ok(result)
        });
        let near = pipe.tally.take();
        // Wakes the far end, should it wait.
        drop(pipe);
        let far = far.join().map_err(|_| {
            Error::internal("inflating the layer panicked; the daemon's log has the place")
        })?;
        let result = result?;
        let (digest, size) = near.or(far).expect("one end has counted").finish();
        Ok((result, digest, size))
    })
}

/// The far end: until the stream ends or fails, or the near end is gone.
fn pump(
    mut stream: Stream,
    mut tally: Option<Tally>,
    full: &SyncSender<Result<Chunk>>,
    empty: &Receiver<Vec<u8>>,
) -> Option<Tally> {
    while let Ok(mut buffer) = empty.recv() {
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
