//! Clients that attach to a process: a socket for each process, and frames on it (task.capnp).

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::rc::Rc;

use capstan_schema::{Error, Result};
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::control::is_own;
use crate::hub::{HEADER, Hub};
use crate::nonblocking::write_all;

/// The number of stdin in frames.
const STDIN: u8 = 0;

/// The most that a client may send in one frame, in bytes.
const MAX_FRAME: usize = 64 << 10;

/// Where stdin of a process goes.
enum Target {
    /// The terminal does not exist yet.
    Awaited,
    Pipe(Rc<AsyncFd<OwnedFd>>),
    Terminal(Rc<AsyncFd<OwnedFd>>),
    Closed,
}

/// The stdin of one process, which all its clients write to.
pub(crate) struct Input {
    target: RefCell<Target>,
    changed: Notify,
}

impl Input {
    fn new(target: Target) -> Rc<Self> {
        Rc::new(Self { target: RefCell::new(target), changed: Notify::new() })
    }

    /// Nobody can write.
    pub(crate) fn closed() -> Rc<Self> {
        Self::new(Target::Closed)
    }

    /// The writing end of a pipe.
    pub(crate) fn pipe(pipe: AsyncFd<OwnedFd>) -> Rc<Self> {
        Self::new(Target::Pipe(Rc::new(pipe)))
    }

    /// A terminal that comes later.
    pub(crate) fn awaited() -> Rc<Self> {
        Self::new(Target::Awaited)
    }

    /// The terminal is there.
    pub(crate) fn set_terminal(&self, master: Rc<AsyncFd<OwnedFd>>) {
        let mut target = self.target.borrow_mut();
        if matches!(*target, Target::Awaited) {
            *target = Target::Terminal(master);
            self.changed.notify_waiters();
        }
    }

    /// A pipe is closed, so that its reader sees the end; a terminal has no end.
    pub(crate) fn close(&self) {
        let mut target = self.target.borrow_mut();
        if matches!(*target, Target::Pipe(_)) {
            *target = Target::Closed;
        }
    }

    /// Writes all, as fast as the process reads. What comes too late is lost, as it is with a pipe.
    async fn write_all(&self, bytes: &[u8]) {
        let fd = loop {
            let changed = self.changed.notified();
            match &*self.target.borrow() {
                Target::Awaited => {}
                Target::Pipe(fd) | Target::Terminal(fd) => break Rc::clone(fd),
                Target::Closed => return,
            }
            changed.await;
        };
        let _ = write_all(&fd, bytes).await;
    }
}

/// Takes clients until it is dropped.
pub(crate) struct Doorman(JoinHandle<()>);

impl Drop for Doorman {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Doorman {
    /// Listens on `path`, which is relative to the working directory so that it is never too long.
    pub(crate) fn listen(path: &str, hub: &Rc<Hub>, input: &Rc<Input>) -> Result<Self> {
        let fail = |error| Error::io(format!("listen on {path}"), error);
        let listener = StdListener::bind(path).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let listener = UnixListener::from_std(listener).map_err(fail)?;
        let (hub, input) = (Rc::clone(hub), Rc::clone(input));
        Ok(Self(tokio::task::spawn_local(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) if is_own(&stream) => admit(stream, &hub, &input),
                    Ok(_) => {}
                    // Too many open files, mostly: it passes.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                }
            }
        })))
    }
}

fn admit(stream: UnixStream, hub: &Rc<Hub>, input: &Rc<Input>) {
    let (mut theirs, ours) = stream.into_split();
    let number = hub.admit(ours);
    let (hub, input) = (Rc::clone(hub), Rc::clone(input));
    tokio::task::spawn_local(async move {
        take_input(&mut theirs, &input).await;
        // A write to it that waits ends here.
        let _ = rustix::net::shutdown(theirs.as_ref(), rustix::net::Shutdown::Both);
        hub.dismiss(number).await;
    });
}

/// Passes a client's frames on, until it hangs up or sends what is no frame of ours.
async fn take_input(stream: &mut OwnedReadHalf, input: &Input) {
    loop {
        let mut header = [0; HEADER];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let [kind, _, _, _, a, b, c, d] = header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if kind != STDIN || length > MAX_FRAME {
            return;
        }
        if length == 0 {
            input.close();
            continue;
        }
        let mut bytes = vec![0; length];
        if stream.read_exact(&mut bytes).await.is_err() {
            return;
        }
        input.write_all(&bytes).await;
    }
}
