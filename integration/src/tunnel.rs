//! A proxy that is reached by https, as companies have them: it connects clients to hosts that only it knows.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Authority;

/// What it was asked by one connection: the first line, and the header `Proxy-Authorization`.
pub type Passed = (String, Option<String>);

/// A running one. Its thread ends with the process.
#[derive(Debug)]
pub struct Tunnel {
    address: SocketAddr,
    passed: Arc<Mutex<Vec<Passed>>>,
}

impl Tunnel {
    /// Who asks for bytes to be passed on (`CONNECT`) gets to `secure`, whoever was named; who asks for a request to be
    /// passed on gets to `plain`.
    pub fn by_https(authority: &Authority, secure: &str, plain: &str) -> Self {
        let passed: Arc<Mutex<Vec<Passed>>> = Arc::default();
        let (shared, tls) = (Arc::clone(&passed), authority.tls());
        let places = [secure.to_owned(), plain.to_owned()];
        let (told, address) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("make a runtime").block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
                let listener = listener.expect("listen on loopback");
                told.send(listener.local_addr().expect("it is bound")).expect("it is waited for");
                while let Ok((stream, _)) = listener.accept().await {
                    let (tls, places, shared) =
                        (Arc::clone(&tls), places.clone(), Arc::clone(&shared));
                    // A peer that hangs up is no matter.
                    tokio::spawn(async move { pass(stream, tls, &places, &shared).await.ok() });
                }
            });
        });
        Self { address: address.recv().expect("it listens"), passed }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked so far, by each connection.
    pub fn passed(&self) -> Vec<Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn pass(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    [secure, plain]: &[String; 2],
    passed: &Mutex<Vec<Passed>>,
) -> io::Result<()> {
    let mut client = TlsAcceptor::from(tls).accept(stream).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let first = text.lines().next().ok_or(ErrorKind::UnexpectedEof)?.to_owned();
    let told = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.to_owned())
    });
    let is_tunnel = first.starts_with("CONNECT ");
    passed.lock().unwrap_or_else(PoisonError::into_inner).push((first, told));
    let mut host = TcpStream::connect(if is_tunnel { secure } else { plain }).await?;
    match is_tunnel {
        true => client.write_all(b"HTTP/1.1 200 Fine\r\n\r\n").await?,
        false => host.write_all(&head).await?,
    }
    client.flush().await?;
    copy_bidirectional(&mut client, &mut host).await.map(drop)
}
