//! A proxy in front of a registry that makes trouble where it is told to, and counts what goes through.
//!
//! Clients see it as the registry itself: what they are told to come back to is its own address.

use std::io::{self, BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use crate::certificates::Authority;
use crate::http::{LOOPBACK, Message, Stream, connect, listen};

/// How long nothing is said when it is to be for ever.
const FOR_EVER: Duration = Duration::from_secs(45);

/// What goes wrong with an exchange.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The connection breaks before this byte of the blob, in the first answer that has it, and so for each of them.
    CutAt(Vec<u64>),
    /// Each answer breaks off after so many bytes.
    CutEvery(u64),
    /// The answer comes later.
    Delay(Duration),
    /// Nothing more comes after so many bytes, and the connection stays open.
    Stall(u64),
    /// The body comes in pieces of so many bytes, with this much time before each.
    Drip(usize, Duration),
    /// This is answered, and the registry is not asked. Headers, and a body.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// The connection breaks before anything is answered.
    Reset,
    /// A header of the answer says something else.
    Header(String, String),
    /// A header of the answer is missing.
    WithoutHeader(String),
    /// The body is so many bytes longer than it should be, and the length says so.
    Longer(usize),
    /// The body is so many bytes shorter than it should be, and the length says so.
    Shorter(usize),
    /// One bit of the body's byte at this offset is another.
    Flip(usize),
    /// This comes in place of the body, with its own length.
    Instead(Vec<u8>),
    /// The client is sent (307) to the same path at another origin, such as `http://127.0.0.1:1`.
    Redirect(String),
    /// A range is answered with all of it.
    NoRanges,
    /// The connection breaks when so many bytes of a request's body went to the registry, of the next one that has more.
    CutRequest(u64),
    /// So many bytes of a request's body go to the registry, of the next one that has more, and no more until the client
    /// has gone.
    HoldRequest(u64),
}

impl Trouble {
    /// How many bytes of a request's body go through, if it is about these.
    fn of_request(&self) -> Option<u64> {
        match self {
            Self::CutRequest(at) | Self::HoldRequest(at) => Some(*at),
            _ => None,
        }
    }
}

/// A trouble for some requests.
#[derive(Debug)]
struct Rule {
    method: String,
    part: String,
    /// How often it is still made.
    left: usize,
    trouble: Trouble,
}

/// What went through.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// GET, HEAD, ...
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The header `Range`.
    pub range: Option<String>,
    /// What was answered; 0 while it is not.
    pub status: u16,
    /// How many bytes of the body were sent back.
    pub sent: u64,
    /// How many bytes of the request's body came to the registry.
    pub brought: u64,
    /// Whether it is over: all was answered (the last bytes are about to be), or it broke off.
    pub is_over: bool,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    exchanges: Vec<Exchange>,
    most_blobs_at_once: usize,
}

/// A running one. Its threads end with the process.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl FaultProxy {
    /// In front of `host:port`, which is reached by plain http.
    pub fn before(upstream: &str) -> Self {
        Self::at(LOOPBACK, upstream, None)
    }

    /// The same, reached by https.
    pub fn by_https(upstream: &str, authority: &Authority) -> Self {
        Self::at(LOOPBACK, upstream, Some(authority))
    }

    /// The same, on another address of this machine.
    pub fn on(address: IpAddr, upstream: &str) -> Self {
        Self::at(address, upstream, None)
    }

    fn at(at: IpAddr, upstream: &str, authority: Option<&Authority>) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let (shared, upstream) = (Arc::clone(&state), upstream.to_owned());
        let address = listen(at, authority.map(Authority::tls), move |stream| {
            serve(stream, &upstream, &shared)
        });
        Self { address, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The reference of an image behind it.
    pub fn reference(&self, image: &str) -> String {
        format!("{}/{image}:latest", self.address)
    }

    /// Makes trouble, `times` times, for requests with this method (or any, if it is empty) and `part` in their path.
    /// Rules that are older go first; one request may meet several.
    pub fn make(&self, times: usize, method: &str, part: &str, trouble: Trouble) {
        let (method, part) = (method.to_owned(), part.to_owned());
        self.state().rules.push(Rule { method, part, left: times, trouble });
    }

    /// Makes no more trouble.
    pub fn behave(&self) {
        self.state().rules.clear();
    }

    /// All that went through so far.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.state().exchanges.clone()
    }

    /// Forgets what went through.
    pub fn forget(&self) {
        let mut state = self.state();
        state.exchanges.clear();
        state.most_blobs_at_once = 0;
    }

    /// All that was asked since this was last called: `METHOD PATH`. The rest is forgotten.
    pub fn take_asked(&self) -> Vec<String> {
        let all = self.exchanges();
        self.forget();
        all.into_iter().map(|one| format!("{} {}", one.method, one.target)).collect()
    }

    /// How often a method was used on paths with `part` in them.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let state = self.state();
        let fits = |one: &&Exchange| one.method == method && one.target.contains(part);
        state.exchanges.iter().filter(fits).count()
    }

    /// How many bytes of a blob, or of all whose path has `part`, were sent back.
    pub fn sent_of(&self, part: &str) -> u64 {
        let state = self.state();
        let fits = |one: &&Exchange| one.method == "GET" && one.target.contains(part);
        state.exchanges.iter().filter(fits).map(|one| one.sent).sum()
    }

    /// How many bytes came to the registry in the bodies of requests.
    pub fn brought(&self) -> u64 {
        self.state().exchanges.iter().map(|one| one.brought).sum()
    }

    /// How many requests for blobs were under way at the same time, at most.
    pub fn most_blobs_at_once(&self) -> usize {
        self.state().most_blobs_at_once
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: &mut Stream, upstream: &str, state: &Mutex<State>) -> io::Result<()> {
    let mut kept: Option<Stream> = None;
    while let Some(mut request) = Message::read_head(client)? {
        let (index, troubles) = begin(state, &request);
        let outcome = match troubles.iter().find(|trouble| trouble.of_request().is_some()) {
            Some(trouble) => break_request(client, upstream, state, index, &request, trouble),
            None => request.read_body(client).and_then(|()| {
                lock(state).exchanges[index].brought = request.body.len() as u64;
                exchange(client, &mut kept, upstream, state, index, request, &troubles)
            }),
        };
        lock(state).exchanges[index].is_over = true;
        if !outcome? {
            return Ok(());
        }
    }
    Ok(())
}

/// Passes a request on as far as the trouble lets it. The connection does not go on.
fn break_request(
    client: &mut Stream,
    upstream: &str,
    state: &Mutex<State>,
    index: usize,
    request: &Message,
    trouble: &Trouble,
) -> io::Result<bool> {
    let mut to = connect(upstream)?;
    let to = to.get_mut();
    to.write_all(&request.head())?;
    let mut left = trouble.of_request().unwrap_or(0);
    while left > 0 {
        let bytes = client.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&bytes[..count])?;
        client.consume(count);
        left -= count as u64;
        lock(state).exchanges[index].brought += count as u64;
    }
    to.flush()?;
    if let Trouble::HoldRequest(_) = trouble {
        // A client's end comes behind its bytes.
        io::copy(client, &mut io::sink())?;
    }
    Ok(false)
}

/// Notes a request; answers its number and what goes wrong with it.
fn begin(state: &Mutex<State>, request: &Message) -> (usize, Vec<Trouble>) {
    let mut state = lock(state);
    let own = |name: &str| request.header(name).map(str::to_owned);
    state.exchanges.push(Exchange {
        method: request.method().into(),
        target: request.target().into(),
        authorization: own("authorization"),
        range: own("range"),
        status: 0,
        sent: 0,
        brought: 0,
        is_over: false,
    });
    let is_blob = |one: &&Exchange| !one.is_over && one.target.contains("/blobs/");
    let blobs = state.exchanges.iter().filter(is_blob).count();
    state.most_blobs_at_once = state.most_blobs_at_once.max(blobs);
    let mut troubles: Vec<Trouble> = Vec::new();
    for rule in &mut state.rules {
        let fits = (rule.method.is_empty() || rule.method == request.method())
            && request.target().contains(&rule.part);
        // Of these, one at a time.
        let is_due = rule.trouble.of_request().is_none_or(|at| {
            request.length() > at && troubles.iter().all(|other| other.of_request().is_none())
        });
        if !fits || rule.left == 0 || !is_due {
            continue;
        }
        match &mut rule.trouble {
            Trouble::CutAt(cuts) => {
                let cut = take_cut(cuts, wanted(request.header("range")));
                troubles.extend(cut.map(Trouble::CutEvery));
            }
            trouble => {
                rule.left -= 1;
                troubles.push(trouble.clone());
            }
        }
    }
    (state.exchanges.len() - 1, troubles)
}

/// Whether the connection is to go on.
fn exchange(
    client: &mut Stream,
    kept: &mut Option<Stream>,
    upstream: &str,
    state: &Mutex<State>,
    index: usize,
    mut request: Message,
    troubles: &[Trouble],
) -> io::Result<bool> {
    let note = |status: u16| lock(state).exchanges[index].status = status;
    for trouble in troubles {
        match trouble {
            Trouble::Delay(time) => sleep(*time),
            Trouble::Reset => return Ok(false),
            Trouble::NoRanges => request.remove("range"),
            Trouble::Answer(status, headers, body) => {
                let mut answer = Message::answer(*status);
                headers.iter().for_each(|(name, value)| answer.set(name, value));
                answer.body.clone_from(body);
                note(*status);
                answer.write(client.get_mut())?;
                return Ok(true);
            }
            Trouble::Redirect(origin) => {
                let mut answer = Message::answer(307);
                answer.set("Location", &format!("{origin}{}", request.target()));
                note(307);
                answer.write(client.get_mut())?;
                return Ok(true);
            }
            _ => {}
        }
    }
    let is_head = request.method() == "HEAD";
    let (mut answer, mut source) = forward(kept, upstream, &mut request)?;
    note(answer.status());
    if is_head || answer.status() == 204 || answer.status() == 304 {
        change_head(&mut answer, troubles);
        client.get_mut().write_all(&answer.head())?;
        client.get_mut().flush()?;
        *kept = Some(source);
        return Ok(true);
    }
    let is_changed = troubles.iter().any(|trouble| {
        matches!(
            trouble,
            Trouble::Longer(_) | Trouble::Shorter(_) | Trouble::Flip(_) | Trouble::Instead(_)
        )
    });
    if answer.is_chunked() || is_changed {
        answer.read_body(&mut source)?;
        change_body(&mut answer, troubles);
        let length = answer.body.len().to_string();
        answer.set("Content-Length", &length);
        let body = std::mem::take(&mut answer.body);
        let mut all = &body[..];
        let is_whole = send(client, &mut answer, &mut all, state, index, troubles)?;
        *kept = Some(source);
        return Ok(is_whole);
    }
    let is_whole = send(client, &mut answer, &mut source, state, index, troubles)?;
    *kept = is_whole.then_some(source);
    Ok(is_whole)
}

/// Asks the registry, on the connection that is there or on a new one.
fn forward(
    kept: &mut Option<Stream>,
    upstream: &str,
    request: &mut Message,
) -> io::Result<(Message, Stream)> {
    if let Some(mut stream) = kept.take()
        && request.write(stream.get_mut()).is_ok()
        && let Ok(Some(answer)) = Message::read_head(&mut stream)
    {
        return Ok((answer, stream));
    }
    let mut stream = connect(upstream)?;
    request.write(stream.get_mut())?;
    let answer = Message::read_head(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((answer, stream))
}

fn change_head(answer: &mut Message, troubles: &[Trouble]) {
    for trouble in troubles {
        match trouble {
            Trouble::Header(name, value) => answer.set(name, value),
            Trouble::WithoutHeader(name) => answer.remove(name),
            _ => {}
        }
    }
}

fn change_body(answer: &mut Message, troubles: &[Trouble]) {
    let body = &mut answer.body;
    for trouble in troubles {
        match trouble {
            Trouble::Longer(count) => body.resize(body.len() + count, b'x'),
            Trouble::Shorter(count) => body.truncate(body.len().saturating_sub(*count)),
            Trouble::Instead(bytes) => body.clone_from(bytes),
            Trouble::Flip(at) => {
                if let Some(byte) = body.get_mut(*at) {
                    *byte ^= 1;
                }
            }
            _ => {}
        }
    }
}

/// Sends an answer whose body comes from `source`, as far as the troubles let it; whether all of it went.
fn send(
    client: &mut Stream,
    answer: &mut Message,
    source: &mut dyn io::BufRead,
    state: &Mutex<State>,
    index: usize,
    troubles: &[Trouble],
) -> io::Result<bool> {
    let length = answer.length();
    let mut end = length;
    let (mut stalls, mut drip) = (false, None);
    for trouble in troubles {
        match trouble {
            Trouble::CutEvery(count) => end = end.min(*count),
            Trouble::Stall(after) if *after < length => (end, stalls) = (end.min(*after), true),
            Trouble::Drip(bytes, time) => drip = Some((*bytes as u64, *time)),
            _ => {}
        }
    }
    change_head(answer, troubles);
    client.get_mut().write_all(&answer.head())?;
    let mut left = end;
    while left > 0 {
        if let Some((_, time)) = drip {
            client.get_mut().flush()?;
            sleep(time);
        }
        let piece = drip.map_or(left, |(bytes, _)| left.min(bytes));
        copy(client, source, piece, state, index, length)?;
        left -= piece;
    }
    client.get_mut().flush()?;
    if stalls {
        sleep(FOR_EVER);
    }
    Ok(end == length)
}

fn copy(
    client: &mut Stream,
    source: &mut dyn io::BufRead,
    mut left: u64,
    state: &Mutex<State>,
    index: usize,
    length: u64,
) -> io::Result<()> {
    while left > 0 {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        {
            // Before they go: with the last of them the client may ask for the next thing.
            let exchange = &mut lock(state).exchanges[index];
            exchange.is_over = exchange.sent + count as u64 == length;
        }
        client.get_mut().write_all(&bytes[..count])?;
        source.consume(count);
        left -= count as u64;
        lock(state).exchanges[index].sent += count as u64;
    }
    Ok(())
}

/// The first and the last byte that a request wants.
fn wanted(range: Option<&str>) -> (u64, u64) {
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (first, last) = range.unwrap_or(("0", ""));
    (first.parse().unwrap_or(0), last.parse().unwrap_or(u64::MAX))
}

/// The next byte to cut at among those that a request wants; it is used up.
fn take_cut(cuts: &mut Vec<u64>, (first, last): (u64, u64)) -> Option<u64> {
    let (index, &cut) = cuts
        .iter()
        .enumerate()
        .filter(|(_, cut)| (first..=last).contains(cut))
        .min_by_key(|(_, cut)| **cut)?;
    cuts.swap_remove(index);
    Some(cut - first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cut_is_made_once() {
        let mut cuts = vec![70, 5, 30];
        assert_eq!(take_cut(&mut cuts, wanted(None)), Some(5));
        assert_eq!(take_cut(&mut cuts, wanted(Some("bytes=5-20"))), None);
        assert_eq!(take_cut(&mut cuts, wanted(Some("bytes=5-"))), Some(25));
        assert_eq!(take_cut(&mut cuts, wanted(Some("bytes=30-"))), Some(40));
        assert_eq!(take_cut(&mut cuts, wanted(Some("bytes=70-"))), None);
    }
}
