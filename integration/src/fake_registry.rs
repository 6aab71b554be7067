//! A registry of ours, which can be wrong: just enough of the distribution specification to be pulled
//! from, and faults to order.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Image;
use crate::image::media_type_of;

/// What goes wrong with a blob.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection breaks before the byte at this offset, each time.
    CutAfter(usize),
    /// Each answer breaks off after so many bytes.
    CutEvery(usize),
    /// The connection breaks before each of these offsets, once.
    CutAt(Vec<usize>),
    /// Nothing comes from the byte at this offset on, and the connection stays.
    HangAt(usize),
    /// These bytes are sent in its place, with their own length.
    Instead(Vec<u8>),
}

#[derive(Debug, Default)]
struct Shelf {
    /// Name and tag to image.
    images: BTreeMap<(String, String), Image>,
    /// Digest to fault.
    faults: BTreeMap<String, Fault>,
    /// Digests that were asked for, in order.
    asked: Vec<String>,
    /// Digest to bytes that were sent.
    sent: BTreeMap<String, usize>,
}

/// A running one. Its thread ends with the process.
#[derive(Debug)]
pub struct FakeRegistry {
    port: u16,
    shelf: Arc<Mutex<Shelf>>,
}

impl FakeRegistry {
    /// On a free port of the loopback.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let shared = Arc::clone(&shelf);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shelf = Arc::clone(&shared);
                // A peer that hangs up is no matter.
                std::thread::spawn(move || serve(&stream, &shelf).ok());
            }
        });
        Self { port, shelf }
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers an image as `NAME:latest`; answers its reference.
    pub fn offer(&self, name: &str, image: &Image) -> String {
        self.offer_as(name, "latest", image)
    }

    /// Offers an image as `NAME:TAG`; answers its reference.
    pub fn offer_as(&self, name: &str, tag: &str, image: &Image) -> String {
        self.shelf().images.insert((name.into(), tag.into()), image.clone());
        format!("{}/{name}:{tag}", self.address())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Offers nothing any more.
    pub fn clear(&self) {
        *self.shelf() = Shelf::default();
    }

    /// Makes a blob go wrong, or right again.
    pub fn set_fault(&self, digest: &str, fault: Option<Fault>) {
        let mut shelf = self.shelf();
        match fault {
            Some(fault) => shelf.faults.insert(digest.into(), fault),
            None => shelf.faults.remove(digest),
        };
    }

    /// How often a digest was asked for.
    pub fn asked_for(&self, digest: &str) -> usize {
        self.shelf().asked.iter().filter(|asked| *asked == digest).count()
    }

    /// How many bytes of it were sent.
    pub fn sent_of(&self, digest: &str) -> usize {
        self.shelf().sent.get(digest).copied().unwrap_or(0)
    }
}

fn serve(stream: &TcpStream, shelf: &Mutex<Shelf>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut offset = 0;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                offset = range.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            }
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !answer(stream, method, path, offset, shelf)? {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Whether the connection is to go on.
fn answer(
    mut to: &TcpStream,
    method: &str,
    path: &str,
    offset: usize,
    shelf: &Mutex<Shelf>,
) -> std::io::Result<bool> {
    if path == "/v2/" {
        write!(to, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}")?;
        return Ok(true);
    }
    let Some((media_type, name, blob, fault)) = look_up(path, shelf) else {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"there is none"}]}"#;
        write!(to, "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len())?;
        to.write_all(body)?;
        return Ok(true);
    };
    let mut hangs = false;
    let (blob, cut) = match fault {
        Some(Fault::Instead(bytes)) => (bytes, None),
        Some(Fault::CutAfter(at)) => (blob, Some(at)),
        Some(Fault::CutEvery(count)) => {
            let end = offset + count;
            let is_inside = end < blob.len();
            (blob, is_inside.then_some(end))
        }
        Some(Fault::CutAt(offsets)) => {
            let next = offsets.into_iter().filter(|at| *at > offset && *at < blob.len()).min();
            (blob, next)
        }
        Some(Fault::HangAt(at)) => {
            hangs = at < blob.len();
            (blob, hangs.then_some(at))
        }
        None => (blob, None),
    };
    let offset = offset.min(blob.len());
    let status = if offset > 0 { "206 Partial Content" } else { "200 OK" };
    write!(
        to,
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {name}\r\n"
    )?;
    if offset > 0 {
        let (last, all) = (blob.len() - 1, blob.len());
        write!(to, "Content-Range: bytes {offset}-{last}/{all}\r\n")?;
    }
    write!(to, "Content-Length: {}\r\n\r\n", blob.len() - offset)?;
    if method == "HEAD" {
        return Ok(true);
    }
    let end = cut.map_or(blob.len(), |cut| cut.clamp(offset, blob.len()));
    to.write_all(&blob[offset..end])?;
    let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
    *shelf.sent.entry(name).or_default() += end.saturating_sub(offset);
    drop(shelf);
    if hangs {
        // Until the peer hangs up.
        let _ = std::io::Read::read(&mut to, &mut [0]);
    }
    Ok(cut.is_none())
}

type Found = (&'static str, String, Vec<u8>, Option<Fault>);

fn look_up(path: &str, shelf: &Mutex<Shelf>) -> Option<Found> {
    let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
    let path = path.strip_prefix("/v2/")?;
    let (name, is_document, key) = match path.split_once("/manifests/") {
        Some((name, key)) => (name, true, key),
        None => {
            let (name, key) = path.split_once("/blobs/")?;
            (name, false, key)
        }
    };
    let image = match shelf.images.get(&(name.to_owned(), key.to_owned())) {
        Some(image) => image,
        None => shelf.images.iter().find_map(|((at, _), image)| {
            (at == name && image.blobs.contains_key(key)).then_some(image)
        })?,
    };
    let digest = if key.contains(':') { key.to_owned() } else { image.manifest.clone() };
    let blob = image.blobs[&digest].clone();
    let media_type = if is_document { media_type_of(&blob) } else { "application/octet-stream" };
    let fault = shelf.faults.get(&digest).cloned();
    shelf.asked.push(digest.clone());
    Some((media_type, digest, blob, fault))
}
