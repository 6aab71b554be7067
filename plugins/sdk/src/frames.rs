//! Several streams through one pipe, one after the other: pieces with their lengths before them.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Writes one piece of a stream; an empty one ends the stream.
pub(crate) fn write(mut out: impl Write, piece: &[u8]) -> io::Result<()> {
    let len = u32::try_from(piece.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(piece)
}

/// The streams in a pipe: without an end, and all that come after the last are broken off. Each is to be
/// read after those before it; what was not read of those is passed over.
pub(crate) fn streams<R: Read>(pipe: R) -> impl Iterator<Item = Stream<R>> {
    let pipe = Arc::new(Mutex::new(Pipe { pipe, stream: 0, left: 0 }));
    (0..).map(move |number| Stream { pipe: Arc::clone(&pipe), number })
}

struct Pipe<R> {
    pipe: R,
    /// Which stream is in the pipe now.
    stream: usize,
    /// Bytes of its piece.
    left: usize,
}

impl<R: Read> Pipe<R> {
    /// Finds the next bytes; answers whether there are any of the stream that is in the pipe.
    fn advance(&mut self) -> io::Result<bool> {
        if self.left > 0 {
            return Ok(true);
        }
        let mut len = [0; 4];
        self.pipe.read_exact(&mut len)?;
        self.left = usize::try_from(u32::from_le_bytes(len)).map_err(io::Error::other)?;
        self.stream += usize::from(self.left == 0);
        Ok(self.left > 0)
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<usize> {
        while self.stream < number {
            if self.advance()? {
                let left = self.left as u64;
                let passed = io::copy(&mut (&mut self.pipe).take(left), &mut io::sink())?;
                if passed < left {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.left = 0;
            }
        }
        if self.stream > number || buffer.is_empty() || !self.advance()? {
            return Ok(0);
        }
        let len = buffer.len().min(self.left);
        let got = self.pipe.read(&mut buffer[..len])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got;
        Ok(got)
    }
}

/// One of several streams.
pub(crate) struct Stream<R> {
    pipe: Arc<Mutex<Pipe<R>>>,
    number: usize,
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.read(self.number, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn pipe() -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in ["one", "", "tw", "o", "", "", "four", ""] {
            write(&mut bytes, piece.as_bytes()).unwrap();
        }
        bytes
    }

    #[test]
    fn streams_come_in_order() {
        let text = |mut stream: Stream<_>| {
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        let mut all = streams(Cursor::new(pipe()));
        for want in ["one", "two", "", "four"] {
            assert_eq!(text(all.next().unwrap()).unwrap(), want);
        }
        assert!(text(all.next().unwrap()).is_err(), "there is no fifth");
    }

    #[test]
    fn what_is_not_read_is_passed_over() {
        let mut all = streams(Cursor::new(pipe()));
        let (mut first, mut last) = (all.next().unwrap(), all.nth(2).unwrap());
        let mut byte = [0];
        first.read_exact(&mut byte).unwrap();
        let mut text = String::new();
        last.read_to_string(&mut text).unwrap();
        assert_eq!((byte, text.as_str()), ([b'o'], "four"));
        assert_eq!(first.read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn a_pipe_that_ends_too_early_breaks_off() {
        let pipe = pipe();
        for len in [2, 5, 7, 9, 13] {
            let mut all = streams(Cursor::new(pipe[..len].to_vec()));
            let result = (0..4)
                .try_for_each(|_| io::copy(&mut all.next().unwrap(), &mut io::sink()).map(|_| ()));
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }
}
