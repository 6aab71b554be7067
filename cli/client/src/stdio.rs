//! The client's ends of a process's streams.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use capstan_schema::{Error, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};

/// Opens the reading end of a FIFO that a shim made. It does not wait for a writer.
///
/// # Errors
/// `NotFound`: the task is gone.
pub fn open_fifo(path: &str) -> Result<pipe::Receiver> {
    pipe::OpenOptions::new()
        .open_receiver(Path::new(path))
        .map_err(|error| Error::io(format!("open stream {path}"), error))
}

/// The header of a frame: the stream, three zeroes, the length (task.capnp, "Attaching").
const HEADER: usize = 8;

/// The most that goes into one frame, in bytes.
const MAX_FRAME: usize = 16 << 10;

/// The longest frame that is believed, in bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// stdout, or the terminal.
    Stdout(Vec<u8>),
    /// stderr.
    Stderr(Vec<u8>),
}

/// The output of a process to which a client is attached.
#[derive(Debug)]
pub struct AttachedOutput(OwnedReadHalf);

/// The input of a process to which a client is attached. Dropping it leaves the process: the output ends.
#[derive(Debug)]
pub struct AttachedInput(OwnedWriteHalf);

/// Attaches to a process by the path that `TaskInfo.attach` or `Task.exec` gave.
///
/// # Errors
/// `NotFound`: the process is gone. `PermissionDenied`.
pub async fn attach(path: &str) -> Result<(AttachedOutput, AttachedInput)> {
    let fail = |error| Error::io(format!("attach to {path}"), error);
    let path = Path::new(path);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("attach to {}: it is no path", path.display())));
    };
    // The path of a socket may have 107 bytes: by way of the directory it is always short.
    let dir = std::fs::File::open(dir).map_err(fail)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let (output, input) = UnixStream::connect(short).await.map_err(fail)?.into_split();
    Ok((AttachedOutput(output), AttachedInput(input)))
}

impl AttachedOutput {
    /// The next piece; `None` at the end of the output.
    ///
    /// Cancel safety: none; a call that is dropped may have taken half a frame.
    ///
    /// # Errors
    /// `Corrupt`: that is no frame. Else what the system says.
    pub async fn next(&mut self) -> Result<Option<Output>> {
        let fail = |error| Error::io("read what the process writes", error);
        let mut header = [0; HEADER];
        match self.0.read_exact(&mut header).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            read => read.map_err(fail)?,
        };
        let [stream, _, _, _, a, b, c, d] = header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_OUTPUT {
            return Err(Error::corrupt(format!("a frame of {length} bytes from the shim")));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await.map_err(fail)?;
        match stream {
            1 => Ok(Some(Output::Stdout(bytes))),
            2 => Ok(Some(Output::Stderr(bytes))),
            other => Err(Error::corrupt(format!("a frame of stream {other} from the shim"))),
        }
    }
}

impl AttachedInput {
    /// Sends input; an empty one does nothing.
    ///
    /// # Errors
    /// What the system says, where the process is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(MAX_FRAME) {
            self.frame(piece).await?;
        }
        Ok(())
    }

    /// Ends the input: the process reads end of file. The output goes on.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn close_stdin(&mut self) -> Result<()> {
        self.frame(&[]).await
    }

    async fn frame(&mut self, bytes: &[u8]) -> Result<()> {
        let mut frame = vec![0; HEADER];
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        frame[4..].copy_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(bytes);
        let written = self.0.write_all(&frame).await;
        written.map_err(|error| Error::io("send input to the process", error))
    }
}
