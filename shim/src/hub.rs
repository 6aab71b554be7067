//! The output of one process on its way to everybody who is to have it: the log, and the clients that
//! are attached.
//!
//! With a log the process never waits: what the log cannot take is counted, and a client that does not
//! keep up is let go. Without one the output is a pipeline: it waits for a reader, and for its only
//! reader as long as that likes.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, Notify};

use crate::log::Log;

/// Docker's stream format: the stream, three zeroes, and the length of what follows, big-endian.
pub(crate) const HEADER: usize = 8;

/// The most that is passed on at once, in bytes.
const CHUNK: usize = 16 << 10;

/// How long a client may take nothing while others wait for it.
const STALL: Duration = Duration::from_secs(10);

/// The same where there is a log, so that the process does not wait for longer.
const STALL_WITH_LOG: Duration = Duration::from_secs(1);

/// Streams as they are numbered in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// stdout, or the terminal.
    Output = 1,
    /// stderr.
    Error = 2,
}

/// A client.
struct Reader {
    number: u64,
    stream: OwnedWriteHalf,
}

/// Where the output of one process meets.
pub(crate) struct Hub {
    log: RefCell<Option<Log>>,
    /// Held while something is passed on, so that frames do not mix.
    readers: Mutex<Vec<Reader>>,
    /// Those who came since.
    arrivals: RefCell<Vec<Reader>>,
    /// The number of the last one.
    last: Cell<u64>,
    /// How many there are of both.
    count: Cell<usize>,
    /// Outputs that have not ended.
    open: Cell<usize>,
    is_ending: Cell<bool>,
    /// Grows with what was passed on.
    delivered: Cell<u64>,
    is_delivering: Cell<bool>,
    /// A reader came or went, an output ended, the process ended.
    changed: Notify,
}

impl Hub {
    /// For so many outputs.
    pub(crate) fn new(log: Option<Log>, outputs: usize) -> Self {
        Self {
            log: RefCell::new(log),
            readers: Mutex::default(),
            arrivals: RefCell::default(),
            last: Cell::new(0),
            count: Cell::new(0),
            open: Cell::new(outputs),
            is_ending: Cell::new(false),
            delivered: Cell::new(0),
            is_delivering: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// Takes a client, which gets all that comes from now on. One that comes when all has ended is
    /// hung up on. Answers its number.
    pub(crate) fn admit(&self, stream: OwnedWriteHalf) -> u64 {
        let number = self.last.get() + 1;
        self.last.set(number);
        if self.open.get() > 0 {
            self.arrivals.borrow_mut().push(Reader { number, stream });
            self.count.set(self.count.get() + 1);
            self.changed.notify_waiters();
        }
        number
    }

    /// A client has hung up.
    pub(crate) async fn dismiss(&self, number: u64) {
        let mut readers = self.readers.lock().await;
        readers.append(&mut self.arrivals.borrow_mut());
        readers.retain(|reader| reader.number != number);
        self.count.set(readers.len());
        self.changed.notify_waiters();
    }

    /// Output that the log did not take, in bytes.
    pub(crate) fn dropped(&self) -> u64 {
        self.log.borrow().as_ref().map_or(0, Log::dropped)
    }

    fn has_log(&self) -> bool {
        self.log.borrow().is_some()
    }

    /// Nobody reads, and there is no log: what is left waits for somebody.
    fn is_unread(&self) -> bool {
        !self.has_log() && self.count.get() == 0
    }

    /// Copies a pipe to its end; once the process has ended, until it is empty, for what outlived the
    /// process may hold it open for ever.
    pub(crate) async fn copy(&self, pipe: AsyncFd<OwnedFd>, stream: Stream) {
        let mut is_last_look = false;
        loop {
            let changed = self.changed.notified();
            if self.is_ending.get() {
                is_last_look = true;
            } else {
                tokio::select! {
                    readable = pipe.readable() => if readable.is_err() { break },
                    () = changed => continue,
                }
            }
            // Made anew each time: an idle shim holds none.
            let mut frame = vec![0; HEADER + CHUNK];
            let read = rustix::io::read(pipe.get_ref(), &mut frame[HEADER..]);
            match read {
                Ok(0) => break,
                Ok(got) => {
                    frame.truncate(HEADER + got);
                    self.deliver(stream, &mut frame).await;
                }
                Err(rustix::io::Errno::AGAIN) if !is_last_look => {
                    // Not readable after all: wait for the next time.
                    if let Ok(mut guard) = pipe.readable().await {
                        guard.clear_ready();
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.output_ended().await;
    }

    /// Passes a frame on, whose first [`HEADER`] bytes are filled in here.
    pub(crate) async fn deliver(&self, stream: Stream, frame: &mut [u8]) {
        let length = frame.len() - HEADER;
        frame[..HEADER].fill(0);
        frame[0] = stream as u8;
        let size = u32::try_from(length).unwrap_or(u32::MAX);
        frame[4..HEADER].copy_from_slice(&size.to_be_bytes());
        if let Some(log) = &mut *self.log.borrow_mut() {
            log.write(stream, &frame[HEADER..]);
        }
        self.is_delivering.set(true);
        let mut readers = loop {
            let changed = self.changed.notified();
            let mut readers = self.readers.lock().await;
            readers.append(&mut self.arrivals.borrow_mut());
            if self.has_log() || !readers.is_empty() {
                break readers;
            }
            drop(readers);
            changed.await;
        };
        let is_pipeline = !self.has_log() && readers.len() == 1;
        let patience = if self.has_log() { STALL_WITH_LOG } else { STALL };
        let mut index = 0;
        while let Some(reader) = readers.get_mut(index) {
            let write = reader.stream.write_all(frame);
            let is_written = match is_pipeline {
                true => write.await.is_ok(),
                false => tokio::time::timeout(patience, write).await.is_ok_and(|done| done.is_ok()),
            };
            if is_written {
                index += 1;
            } else {
                readers.swap_remove(index);
                self.count.set(readers.len() + self.arrivals.borrow().len());
                self.changed.notify_waiters();
            }
        }
        self.is_delivering.set(false);
        self.delivered.set(self.delivered.get() + 1);
    }

    /// One of the outputs has ended; with the last one everybody is hung up on.
    pub(crate) async fn output_ended(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() == 0 {
            self.arrivals.borrow_mut().clear();
            self.readers.lock().await.clear();
            self.count.set(0);
        }
        self.changed.notify_waiters();
    }

    /// The process has ended: pipes are read until they are empty.
    pub(crate) fn set_ending(&self) {
        self.is_ending.set(true);
        self.changed.notify_waiters();
    }

    /// Waits until all output is passed on. Gives up when nobody is there to take it, when there was
    /// none for `silence`, and when nobody takes any for `patience`.
    pub(crate) async fn drained(&self, silence: Duration, patience: Duration) {
        while self.open.get() > 0 && !self.is_unread() {
            let before = self.delivered.get();
            let limit = if self.is_delivering.get() { patience } else { silence };
            let changed = self.changed.notified();
            if tokio::time::timeout(limit, changed).await.is_err() && self.delivered.get() == before
            {
                return;
            }
        }
    }

    /// Ends what is left, unless it waits for a first reader. Answers whether it has ended.
    pub(crate) async fn give_up(&self) -> bool {
        if !self.is_unread() {
            while self.open.get() > 0 {
                self.output_ended().await;
            }
        }
        self.open.get() == 0
    }
}
