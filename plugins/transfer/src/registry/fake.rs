//! A registry for tests: HTTP by hand, so that it can be wrong in every way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// On which connection, counted from 0.
    pub(super) connection: usize,
    /// How many requests came before.
    pub(super) number: usize,
    pub(super) method: String,
    /// To a proxy it is a whole URL.
    pub(super) path: String,
    /// As much of it as came.
    pub(super) body: Vec<u8>,
    /// By lower-case name.
    headers: BTreeMap<String, String>,
    /// Whether the connection breaks before all of the body came.
    is_cut: bool,
}

impl Asked {
    /// A header, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Its body, where that is text.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("it is text")
    }

    /// The offset in `Range: bytes=N-`.
    fn offset(&self) -> usize {
        let range = self.header("range").strip_prefix("bytes=").unwrap_or("0-");
        range.strip_suffix('-').expect("an open range").parse().expect("a number")
    }
}

/// What is sent back.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    head: String,
    body: Vec<u8>,
    /// The length that is claimed, where [`Framing::Length`] is.
    length: usize,
    framing: Framing,
    then: Then,
    /// The time before it.
    after: Duration,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunks,
    /// The last chunk, which says that it is the last, is missing.
    OpenChunks,
    /// By the end of the connection.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Keep,
    Close,
    Hang,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let head = format!("HTTP/1.1 {status} Said\r\n");
        let length = body.len();
        let (framing, then, after) = (Framing::Length, Then::Keep, Duration::ZERO);
        Self { head, body, length, framing, then, after }
    }

    /// No reply at all: the connection is closed.
    pub(super) fn nothing() -> Self {
        Self { head: String::new(), ..Self::new(0, "").close() }
    }

    /// The rest of `blob` from the offset that is asked for, as a good registry gives it.
    pub(super) fn part(asked: &Asked, blob: &[u8]) -> Self {
        let offset = asked.offset();
        if offset == 0 {
            return Self::new(200, blob);
        }
        let range = format!("bytes {offset}-{}/{}", blob.len() - 1, blob.len());
        Self::new(206, &blob[offset..]).with("Content-Range", &range)
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Sends the first bytes of the body, then closes.
    pub(super) fn cut(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self.close()
    }

    /// Sends the first bytes of the body, then nothing, for ever.
    pub(super) fn hang(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self.then = Then::Hang;
        self
    }

    /// What it answers is done at once, and told later.
    pub(super) fn later(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    pub(super) fn close(mut self) -> Self {
        self.then = Then::Close;
        self
    }

    pub(super) fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    fn head_only(&self) -> Vec<u8> {
        format!("{}Content-Length: {}\r\n\r\n", self.head, self.length).into_bytes()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone().into_bytes();
        if bytes.is_empty() {
            return bytes;
        }
        match self.framing {
            Framing::Length => bytes.extend(format!("Content-Length: {}\r\n", self.length).bytes()),
            Framing::Chunks | Framing::OpenChunks => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n");
            }
            Framing::Nothing => {}
        }
        bytes.extend(b"\r\n");
        if matches!(self.framing, Framing::Length | Framing::Nothing) {
            bytes.extend(&self.body);
            return bytes;
        }
        for chunk in self.body.chunks(4) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        if self.framing == Framing::Chunks {
            bytes.extend(b"0\r\n\r\n");
        }
        bytes
    }
}

/// A registry, a token server or a proxy on a port of its own, until the test's runtime ends.
#[derive(Debug)]
pub(super) struct Fake {
    /// `127.0.0.1:PORT`.
    pub(super) host: String,
    log: Arc<Mutex<Vec<Asked>>>,
    cuts: Cuts,
}

/// Of how many bytes the next bodies are taken, before the connection breaks.
type Cuts = Arc<Mutex<VecDeque<usize>>>;

impl Fake {
    pub(super) async fn serve(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, reply).await
    }

    /// By https.
    pub(super) async fn serve_tls(
        tls: ServerConfig,
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(TlsAcceptor::from(Arc::new(tls))), reply).await
    }

    async fn start(
        tls: Option<TlsAcceptor>,
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::default());
        let cuts = Cuts::default();
        let fake = Self { host, log: Arc::clone(&log), cuts: Arc::clone(&cuts) };
        let reply = Arc::new(reply);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (log, reply, tls) = (Arc::clone(&log), Arc::clone(&reply), tls.clone());
                let cuts = Arc::clone(&cuts);
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, connection, log, cuts, reply).await,
                        // A client that does not like it closes: that is its right.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, connection, log, cuts, reply).await;
                            }
                        }
                    }
                });
            }
        });
        fake
    }

    /// A proxy that connects to `to`, whatever it is asked; with `refuses` it says that instead.
    pub(super) async fn tunnel(to: &str, refuses: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::<Vec<Asked>>::default());
        let fake = Self { host, log: Arc::clone(&log), cuts: Cuts::default() };
        let to = to.to_owned();
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let (to, log) = (to.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    let asked =
                        read(&mut stream, connection, &log, &Cuts::default()).await.unwrap();
                    assert_eq!(asked.method, "CONNECT");
                    if let Some(status) = refuses {
                        stream.write_all(status.as_bytes()).await.unwrap();
                        return;
                    }
                    stream.write_all(b"HTTP/1.1 200 Fine\r\nVia: us\r\n\r\n").await.unwrap();
                    let mut other = TcpStream::connect(to).await.unwrap();
                    // It ends when one of them does, in whichever way.
                    let _ = copy_bidirectional(&mut stream, &mut other).await;
                });
            }
        });
        fake
    }

    /// Breaks the connections of the next requests with bodies after so many bytes of these. They are seen, and not
    /// answered.
    pub(super) fn cut_bodies(&self, bytes: &[usize]) {
        self.cuts.lock().unwrap().extend(bytes);
    }

    /// All requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// `path range` of all requests so far.
    pub(super) fn asked_for(&self) -> Vec<String> {
        let line = |asked: &Asked| format!("{} {}", asked.path, asked.header("range"));
        self.asked().iter().map(|asked| line(asked).trim().to_owned()).collect()
    }
}

async fn answer<R: Fn(&Asked) -> Reply>(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    log: Arc<Mutex<Vec<Asked>>>,
    cuts: Cuts,
    reply: Arc<R>,
) {
    while let Some(asked) = read(&mut stream, connection, &log, &cuts).await {
        let reply = reply(&asked);
        if asked.is_cut {
            return;
        }
        let bytes = match asked.method.as_str() {
            "HEAD" => reply.head_only(),
            _ => reply.to_bytes(),
        };
        tokio::time::sleep(reply.after).await;
        // The client may have closed: that is its right.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.flush().await;
        match reply.then {
            Then::Keep => {}
            Then::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Then::Hang => std::future::pending().await,
        }
    }
}

/// One request; `None` at the end.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    connection: usize,
    log: &Mutex<Vec<Asked>>,
    cuts: &Cuts,
) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let cut = if length > 0 { cuts.lock().unwrap().pop_front() } else { None };
    let mut body = vec![0; cut.unwrap_or(length).min(length)];
    stream.read_exact(&mut body).await.ok()?;
    let mut log = log.lock().unwrap();
    let (number, is_cut) = (log.len(), cut.is_some());
    let asked = Asked { connection, number, method, path, body, headers, is_cut };
    log.push(asked.clone());
    Some(asked)
}
