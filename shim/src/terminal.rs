//! Terminals: the shim holds the other side of a process's terminal and copies its bytes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use capstan_schema::{Error, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::hub::{HEADER, Hub, Stream};
use crate::nonblocking::{watched, write_all};
use crate::stdio::TerminalEnds;

/// How long a runtime that says it is done may take to hand the terminal over.
const HANDOVER: Duration = Duration::from_secs(5);

/// How long a terminal that others hold open may be silent before it counts as ended.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// A terminal's line is shorter; a burst of output is a few of these.
const BUFFER: usize = 4096;

/// The socket on which a runtime hands a terminal over, in the working directory.
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    name: String,
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.name);
    }
}

impl ConsoleSocket {
    /// `name` is relative to the working directory, so that it is never too long for a socket.
    pub(crate) fn listen(name: String) -> Result<Self> {
        let fail = |error| Error::io(format!("listen on {name}"), error);
        let listener = UnixListener::bind(&name).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        Ok(Self { listener, name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the terminal from a runtime that has ended well, so that it is on its way.
    pub(crate) fn take(self) -> Result<OwnedFd> {
        let fail = |error: io::Error| Error::io("take the terminal from the runtime", error);
        let deadline = Instant::now() + HANDOVER;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Err(Error::internal("the runtime did not hand a terminal over"));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(fail(error)),
            }
        };
        stream.set_nonblocking(false).map_err(fail)?;
        stream.set_read_timeout(Some(HANDOVER)).map_err(fail)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 256];
        let mut buffers = [io::IoSliceMut::new(&mut name)];
        recvmsg(&stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| fail(error.into()))?;
        let mut terminals = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        terminals.next().ok_or_else(|| Error::internal("the runtime handed over no terminal"))
    }
}

/// A terminal whose bytes are copied.
pub(crate) struct Terminal {
    master: Rc<AsyncFd<OwnedFd>>,
    hub: Option<Rc<Hub>>,
    copies: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.abort();
        }
    }
}

impl Terminal {
    /// Begins to copy.
    pub(crate) fn attach(master: OwnedFd, ends: TerminalEnds) -> Result<Self> {
        let fail = |error: io::Error| Error::io("watch the terminal", error);
        let master = Rc::new(watched(master).map_err(fail)?);
        let ours = Rc::clone(&master);
        Ok(match ends {
            TerminalEnds::Fifos { input, output } => {
                let output = tokio::task::spawn_local(copy_output(Rc::clone(&master), output));
                let input = tokio::task::spawn_local(copy_input(ours, input));
                Self { master, hub: None, copies: vec![output, input] }
            }
            TerminalEnds::Kept { input, hub } => {
                input.set_terminal(Rc::clone(&master));
                let output = tokio::task::spawn_local(keep_output(ours, Rc::clone(&hub)));
                Self { master, hub: Some(hub), copies: vec![output] }
            }
        })
    }

    /// Tells the terminal how large it is.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master.get_ref().as_fd(), size)
            .map_err(|error| Error::io("resize the terminal", error))
    }

    /// The process has ended: waits until what it left is copied. It is given back if that still waits
    /// for somebody to read it.
    pub(crate) async fn finish(mut self, patience: Duration) -> Option<Self> {
        // It ends when every holder of the other side is gone; what outlives the process is not
        // waited for.
        let Some(hub) = self.hub.clone() else {
            let _ = tokio::time::timeout(STRAGGLERS, &mut self.copies[0]).await;
            return None;
        };
        hub.drained(STRAGGLERS, patience).await;
        (!hub.give_up().await).then_some(self)
    }
}

/// Copies to the hub until the other side is gone, which a terminal tells as an error.
async fn keep_output(master: Rc<AsyncFd<OwnedFd>>, hub: Rc<Hub>) {
    loop {
        let mut frame = [0; HEADER + BUFFER];
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut frame[HEADER..])?);
        match master.async_io(Interest::READABLE, read).await {
            Ok(0) | Err(_) => return hub.output_ended().await,
            Ok(got) => hub.deliver(Stream::Output, &mut frame[..HEADER + got]).await,
        }
    }
}

/// Reads until the other side is gone, which a terminal tells as an error.
async fn copy_output(master: Rc<AsyncFd<OwnedFd>>, output: Option<File>) {
    let mut sink = output.and_then(|file| watched(file.into()).ok());
    let mut buffer = [0; BUFFER];
    loop {
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut buffer)?);
        match master.async_io(Interest::READABLE, read).await {
            Ok(0) | Err(_) => return,
            Ok(got) => {
                if let Some(fifo) = &sink
                    && write_all(fifo, &buffer[..got]).await.is_err()
                {
                    // Nobody can take it; the process must not stop for that.
                    sink = None;
                }
            }
        }
    }
}

async fn copy_input(master: Rc<AsyncFd<OwnedFd>>, input: Option<File>) {
    let Some(input) = input else { return };
    let Ok(input) = watched(input.into()) else { return };
    let mut buffer = [0; BUFFER];
    loop {
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut buffer)?);
        let Ok(got @ 1..) = input.async_io(Interest::READABLE, read).await else { return };
        if write_all(&master, &buffer[..got]).await.is_err() {
            return;
        }
    }
}
