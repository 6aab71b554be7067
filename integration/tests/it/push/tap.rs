//! A wire to a registry that is listened to, and can be cut or held.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What happens to the next connection that sends so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It breaks.
    Cut(usize),
    /// Nothing goes through it any more.
    Hold(usize),
}

#[derive(Debug, Default)]
struct State {
    /// `METHOD PATH` of all requests.
    asked: Vec<String>,
    troubles: Vec<Trouble>,
    /// How often there was trouble.
    hits: usize,
    /// Whether a client let go of a connection that was held.
    is_released: bool,
    /// Bytes to the registry.
    sent: usize,
}

/// A port that leads to another one.
pub(crate) struct Tap {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Tap {
    /// Before the registry at an address.
    pub(crate) fn before(registry: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state: Arc<Mutex<State>> = Arc::default();
        let (shared, registry) = (Arc::clone(&state), registry.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&registry) else { continue };
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || back(from, &to));
                let state = Arc::clone(&shared);
                thread::spawn(move || forth(client, &server, &state));
            }
        });
        Self { port, state }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What is to happen, one after the other.
    pub(crate) fn trouble(&self, troubles: &[Trouble]) {
        lock(&self.state).troubles = troubles.iter().rev().copied().collect();
    }

    /// How often it happened.
    pub(crate) fn hits(&self) -> usize {
        lock(&self.state).hits
    }

    /// Whether a client let go of a connection that was held.
    pub(crate) fn is_released(&self) -> bool {
        lock(&self.state).is_released
    }

    /// Bytes to the registry since this was last asked.
    pub(crate) fn take_sent(&self) -> usize {
        std::mem::take(&mut lock(&self.state).sent)
    }

    /// What was asked since this was last asked: `METHOD PATH`.
    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).asked)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn back(mut from: TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// The requests that begin in these bytes. Blobs in these tests have nothing that looks like one.
fn requests(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| line.ends_with(b" HTTP/1.1\r"));
    lines.filter_map(|line| {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?))
    })
}

/// Lets nothing through until the client has gone. It is read all the same: a client's end comes behind its bytes.
fn hold(from: &mut TcpStream) {
    let _ = std::io::copy(from, &mut std::io::sink());
}

fn forth(mut from: TcpStream, mut to: &TcpStream, shared: &Mutex<State>) {
    let (mut count, mut buffer) = (0, vec![0; 64 << 10]);
    while let Ok(got) = from.read(&mut buffer) {
        if got == 0 || to.write_all(&buffer[..got]).is_err() {
            break;
        }
        count += got;
        let mut state = lock(shared);
        state.asked.extend(requests(&buffer[..got]));
        state.sent += got;
        let is_due = |trouble: &Trouble| match trouble {
            Trouble::Cut(at) | Trouble::Hold(at) => count >= *at,
        };
        if !state.troubles.last().is_some_and(is_due) {
            continue;
        }
        state.hits += 1;
        let trouble = state.troubles.pop();
        drop(state);
        if let Some(Trouble::Hold(_)) = trouble {
            hold(&mut from);
            lock(shared).is_released = true;
        }
        break;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
