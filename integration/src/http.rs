//! As much of HTTP/1.1 as the servers and proxies of tests need: messages with a body of a known length, by blocking
//! threads, with or without TLS; and requests by hand.

use std::io::{self, BufRead as _, BufReader, Error, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How long a peer may be silent: a test that hangs is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// The loopback.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A connection, whatever is below it.
pub(crate) trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// A connection that can be read by lines. What is written goes to `get_mut`.
pub(crate) type Stream = BufReader<Box<dyn Wire>>;

/// Serves each connection to a free port of an address by a thread of its own; answers the place. All of them end with
/// the process.
pub(crate) fn listen(
    at: IpAddr,
    tls: Option<Arc<ServerConfig>>,
    serve: impl Fn(&mut Stream) -> io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener =
        TcpListener::bind((at, 0)).unwrap_or_else(|error| panic!("listen on {at}: {error}"));
    let address = listener.local_addr().expect("it is bound");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (serve, tls) = (Arc::clone(&serve), tls.clone());
            std::thread::spawn(move || {
                // A peer that hangs up is no matter.
                let _ = accept(stream, tls).and_then(|mut stream| serve(&mut stream));
            });
        }
    });
    address
}

fn accept(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let wire: Box<dyn Wire> = match tls {
        None => Box::new(stream),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(Error::other)?;
            Box::new(StreamOwned::new(connection, stream))
        }
    };
    Ok(BufReader::with_capacity(64 << 10, wire))
}

/// A connection to an address.
pub(crate) fn connect(address: &str) -> io::Result<Stream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::with_capacity(64 << 10, Box::new(stream)))
}

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line, in its words: `GET /path HTTP/1.1`, or `HTTP/1.1 200 OK`.
    first: String,
    headers: Vec<(String, String)>,
    /// What came behind the head.
    pub body: Vec<u8>,
}

impl Message {
    /// A request.
    pub(crate) fn request(method: &str, target: &str) -> Self {
        Self { first: format!("{method} {target} HTTP/1.1"), ..Self::default() }
    }

    /// An answer.
    pub(crate) fn answer(status: u16) -> Self {
        Self { first: format!("HTTP/1.1 {status} so"), ..Self::default() }
    }

    /// Reads a head; `None` is the end of the connection.
    pub(crate) fn read_head(stream: &mut Stream) -> io::Result<Option<Self>> {
        let mut message = Self::default();
        if stream.read_line(&mut message.first)? == 0 {
            return Ok(None);
        }
        message.first.truncate(message.first.trim_end().len());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Some(message));
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            message.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads the body, whose length or pieces the head tells.
    pub(crate) fn read_body(&mut self, stream: &mut Stream) -> io::Result<()> {
        if !self.is_chunked() {
            let length = self.length();
            self.body = vec![0; usize::try_from(length).map_err(Error::other)?];
            return stream.read_exact(&mut self.body);
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(Error::other)?;
            let begin = self.body.len();
            self.body.resize(begin + size, 0);
            stream.read_exact(&mut self.body[begin..])?;
            // What is behind each piece, and behind the last one.
            stream.read_line(&mut String::new())?;
            if size == 0 {
                self.remove("transfer-encoding");
                return Ok(());
            }
        }
    }

    /// Reads a head and its body.
    pub(crate) fn read(stream: &mut Stream) -> io::Result<Option<Self>> {
        let Some(mut message) = Self::read_head(stream)? else { return Ok(None) };
        message.read_body(stream)?;
        Ok(Some(message))
    }

    /// The head as it goes over the wire, with whatever length it tells.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Writes all of it, with the length of the body that it has.
    pub(crate) fn write(&mut self, to: &mut dyn Write) -> io::Result<()> {
        self.set("Content-Length", &self.body.len().to_string());
        // In one piece, so that it is in one packet.
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes)?;
        to.flush()
    }

    fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_default()
    }

    /// Of a request.
    pub(crate) fn method(&self) -> &str {
        self.word(0)
    }

    /// Of a request: the path with its query.
    pub(crate) fn target(&self) -> &str {
        self.word(1)
    }

    /// Of an answer.
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    /// What a header says.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    /// The length that it tells.
    pub(crate) fn length(&self) -> u64 {
        self.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

/// Asks by plain http, as one types it; answers with the body. `address` is `host:port`.
pub fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Message {
    let exchange = || -> io::Result<Message> {
        let mut stream = connect(address)?;
        let mut request = Message::request(method, path);
        request.set("Host", address);
        request.set("Connection", "close");
        for (name, value) in headers {
            request.set(name, value);
        }
        request.body = body.to_vec();
        request.write(stream.get_mut())?;
        let answer = Message::read_head(&mut stream)?;
        let mut answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        if method != "HEAD" {
            answer.read_body(&mut stream)?;
        }
        Ok(answer)
    };
    exchange().unwrap_or_else(|error| panic!("{method} http://{address}{path}: {error}"))
}

/// What stands for a character in a query: `%2F` is a slash.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = std::str::from_utf8(&digits).unwrap_or("00");
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
