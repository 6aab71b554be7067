//! Descriptors, beside the stream.
//!
//! Cap'n Proto carries bytes. A descriptor goes ahead on a socket of its own, in a packet with a number, and the
//! message then names the number. Numbers count up from 1 on each side.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use capstan_schema::{Error, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// Descriptors that were sent and not asked for. The other side can make us hold so many and no more:
/// the oldest goes.
const UNCLAIMED: usize = 64;

/// A descriptor is sent before the message that names it, so it is here, or about to be.
const DEADLINE: Duration = Duration::from_secs(5);

/// The way for descriptors between two sides; the default is none.
#[derive(Clone, Debug, Default)]
pub struct Wire(Option<Rc<Socket>>);

#[derive(Debug)]
struct Socket {
    /// Tokio has no type for sockets that keep packets apart; the calls on it are our own.
    socket: UnixStream,
    last: Cell<u64>,
    arrived: RefCell<BTreeMap<u64, OwnedFd>>,
    arrival: Notify,
}

impl Wire {
    /// A way over a socket of type `SOCK_SEQPACKET`. [`Wire::receive`] has to run beside it.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        let fail = |error: std::io::Error| Error::io("open the way for descriptors", error);
        let socket = StdStream::from(socket);
        socket.set_nonblocking(true).map_err(fail)?;
        Ok(Self(Some(Rc::new(Socket {
            socket: UnixStream::from_std(socket).map_err(fail)?,
            last: Cell::new(0),
            arrived: RefCell::default(),
            arrival: Notify::new(),
        }))))
    }

    fn socket(&self) -> Result<&Rc<Socket>> {
        self.0.as_ref().ok_or_else(|| {
            Error::unimplemented(
                "descriptors cannot be sent over this connection; read the bytes instead",
            )
        })
    }

    /// Sends a descriptor; answers the number that it goes under.
    ///
    /// # Errors
    /// `Unimplemented`: there is no way for descriptors. `Unavailable`: the other side is gone.
    pub async fn give(&self, descriptor: impl AsFd) -> Result<u64> {
        let socket = self.socket()?;
        let number = socket.last.get() + 1;
        socket.last.set(number);
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = [descriptor.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            let bytes = number.to_le_bytes();
            let sent = rustix::net::sendmsg(
                &socket.socket,
                &[IoSlice::new(&bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            );
            sent.map_err(std::io::Error::from)
        };
        let sent = socket.socket.async_io(Interest::WRITABLE, send).await;
        sent.map_err(|error| Error::io("send a descriptor", error))?;
        Ok(number)
    }

    /// The descriptor with a number that a message named.
    ///
    /// # Errors
    /// `InvalidArgument`: it did not come, or was asked for before.
    pub async fn take(&self, number: u64) -> Result<OwnedFd> {
        let socket = self.socket()?;
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let arrival = socket.arrival.notified();
            if let Some(descriptor) = socket.arrived.borrow_mut().remove(&number) {
                return Ok(descriptor);
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                return Err(Error::invalid(format!(
                    "descriptor {number} was named and did not come within {DEADLINE:?}"
                )));
            }
        }
    }

    /// Takes in what the other side sends, until it closes.
    pub async fn receive(&self) {
        let Ok(socket) = self.socket() else { return };
        let next = || socket.socket.async_io(Interest::READABLE, || receive(&socket.socket));
        while let Ok(Some((number, descriptor))) = next().await {
            let mut arrived = socket.arrived.borrow_mut();
            arrived.insert(number, descriptor);
            if arrived.len() > UNCLAIMED {
                arrived.pop_first();
            }
            drop(arrived);
            socket.arrival.notify_waiters();
        }
    }
}

/// One packet; `None` at the end, or for one that is no packet of ours.
fn receive(socket: &UnixStream) -> std::io::Result<Option<(u64, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.flatten().next();
    Ok(descriptor.filter(|_| got.bytes == bytes.len()).map(|it| (u64::from_le_bytes(bytes), it)))
}
