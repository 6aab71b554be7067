//! Instances of a plugin from outside: two sockets, and something that serves at the other end.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use capstan_schema::{Class, Error, Result};
use capstan_sdk::outside::Session;
use capstan_sdk::{Context, Factory, LocalFuture, Manifest, Running, abi};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    socketpair,
};
use tokio::sync::oneshot;

use super::library::{self, Library};
use super::process::{Process, number};
use super::verify::Image;

/// How long a plugin may take to say what it is.
const DESCRIBE: Duration = Duration::from_secs(10);
/// How long the thread of an instance before may take to end. One that hangs is left behind.
const THREAD: Duration = Duration::from_secs(2);

/// What serves a plugin.
pub(super) enum Origin {
    /// A library, on a thread of this process.
    Library { image: Rc<Image> },
    /// A library, in a process of its own.
    Isolated { program: PathBuf, image: Rc<Image>, limit: u64 },
    /// A program.
    Command { argv: Vec<String>, limit: u64 },
    /// Somebody who listens.
    Socket(PathBuf),
}

/// The factory. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outside(Rc<Inner>);

struct Inner {
    origin: Origin,
    /// Of the plugin, or of its file.
    name: String,
    /// One that was asked what it is, and is not started yet.
    spare: RefCell<Option<Live>>,
    library: Cell<Option<Library>>,
    /// Whether the image itself was loaded; another load needs a copy of it.
    is_image_used: Cell<bool>,
    /// Ends when the thread of the last instance has.
    thread: RefCell<Option<oneshot::Receiver<i32>>>,
    unwinds: Cell<bool>,
    /// Instances that were started and did not end.
    started: Cell<u32>,
}

/// The other end, alive.
struct Live {
    session: Session,
    body: Body,
}

enum Body {
    Thread(Option<oneshot::Receiver<i32>>),
    Process(Box<Process>),
    /// The connection that the sockets were sent over; it is closed with the session.
    Peer {
        _connection: UnixStream,
        pid: u32,
    },
}

fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::io("make sockets for a plugin", error))
}

impl Outside {
    pub(super) fn new(origin: Origin, name: &str) -> Self {
        Self(Rc::new(Inner {
            origin,
            name: name.into(),
            spare: RefCell::default(),
            library: Cell::default(),
            is_image_used: Cell::new(false),
            thread: RefCell::default(),
            unwinds: Cell::new(true),
            started: Cell::new(0),
        }))
    }

    /// Whether a panic in it can be caught, as it told when it was loaded.
    pub(super) fn unwinds(&self) -> bool {
        self.0.unwinds.get()
    }

    /// What it says that it is.
    pub(super) async fn describe(&self) -> Result<Manifest> {
        let mut live = self.take().await?;
        let manifest = live.ask(live_describe).await?;
        if let Body::Process(process) = &live.body {
            self.0.unwinds.set(!process.said(library::ABORTS));
        }
        self.spare(live);
        Ok(manifest)
    }

    async fn take(&self) -> Result<Live> {
        let spare = self.0.spare.take();
        if let Some(live) = spare.filter(Live::is_alive) {
            return Ok(live);
        }
        self.open().await
    }

    /// Keeps one for the next start, unless it was only asked something beside an instance that runs.
    fn spare(&self, live: Live) {
        if self.0.started.get() == 0 {
            self.0.spare.replace(Some(live));
        }
    }

    async fn open(&self) -> Result<Live> {
        let (stream, their_stream) = pair(SocketType::STREAM)?;
        let (descriptors, their_descriptors) = pair(SocketType::SEQPACKET)?;
        let body = match &self.0.origin {
            Origin::Library { image } => {
                Body::Thread(Some(self.spawn(image, their_stream, their_descriptors).await?))
            }
            Origin::Isolated { program, image, limit } => {
                let (variable, image) = library::arguments(image);
                let argv = [program.to_string_lossy().into_owned(), "plugin-host".into()];
                let environment = [(library::ENVIRONMENT, variable)];
                let process = self.execute(
                    &argv,
                    &environment,
                    Some(image),
                    *limit,
                    &their_stream,
                    &their_descriptors,
                );
                Body::Process(Box::new(process?))
            }
            Origin::Command { argv, limit } => {
                let process =
                    self.execute(argv, &[], None, *limit, &their_stream, &their_descriptors);
                Body::Process(Box::new(process?))
            }
            Origin::Socket(path) => connect(path, &their_stream, &their_descriptors)?,
        };
        Ok(Live { session: Session::new(stream, descriptors)?, body })
    }

    /// Serves the library on a thread.
    async fn spawn(
        &self,
        image: &Rc<Image>,
        stream: OwnedFd,
        descriptors: OwnedFd,
    ) -> Result<oneshot::Receiver<i32>> {
        let before = self.0.thread.take();
        if let Some(mut before) = before
            && tokio::time::timeout(THREAD, &mut before).await.is_err()
        {
            tracing::warn!(plugin = self.0.name, "a thread of it hangs, and is left behind");
            // It may hold locks of the library: the next instance gets a library of its own.
            self.0.library.set(None);
        }
        let library = match self.0.library.get() {
            Some(library) => library,
            None => {
                let library = if self.0.is_image_used.replace(true) {
                    let copy = image.duplicate();
                    let copy = copy.map_err(|error| Error::io("copy a library", error))?;
                    Library::load(copy.memory())?
                } else {
                    Library::load(image.memory())?
                };
                self.0.library.set(Some(library));
                library
            }
        };
        let (end, ended) = oneshot::channel();
        // 15 bytes is what the system takes for a thread's name.
        let name = self.0.name[..self.0.name.floor_char_boundary(15)].to_owned();
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let _ = end.send(library.run(stream, descriptors));
            })
            .map_err(|error| Error::io("start a thread for a plugin", error))?;
        Ok(ended)
    }

    fn execute(
        &self,
        argv: &[String],
        environment: &[(&str, String)],
        image: Option<i32>,
        limit: u64,
        stream: &OwnedFd,
        descriptors: &OwnedFd,
    ) -> Result<Process> {
        let sockets = [number(stream), number(descriptors)];
        let mut environment = environment.to_vec();
        environment
            .push((capstan_sdk::outside::ENVIRONMENT, format!("{},{}", sockets[0], sockets[1])));
        let pass: Vec<i32> = sockets.into_iter().chain(image).collect();
        Process::start(argv, &environment, &pass, limit, &self.0.name)
    }

    async fn start(self, section: toml::Table, context: Context) -> Result<Running> {
        let mut live = self.take().await?;
        let mut exports = live.started(&context, &section).await?;
        exports.care.pid = match &live.body {
            Body::Thread(_) => None,
            Body::Process(process) => Some(process.pid()),
            Body::Peer { pid, .. } => Some(*pid),
        };
        let mut guard = Guard::new(self, live);
        let actor = tokio::task::spawn_local(async move { guard.live.ended().await });
        Ok(Running { exports, actor })
    }
}

impl Factory for Outside {
    fn describe(&self) -> LocalFuture<'static, Result<Option<Manifest>>> {
        let this = self.clone();
        Box::pin(async move { Ok(Some(Outside::describe(&this).await?)) })
    }

    fn complete(&self, section: toml::Table) -> LocalFuture<'static, Result<toml::Table>> {
        let this = self.clone();
        Box::pin(async move {
            let mut live = this.take().await?;
            let completed = live.completed(&section).await?;
            this.spare(live);
            Ok(completed)
        })
    }

    fn start(
        &self,
        section: toml::Table,
        context: Context,
    ) -> LocalFuture<'static, Result<Running>> {
        Box::pin(self.clone().start(section, context))
    }

    fn rest(&self) {
        self.0.spare.take();
    }

    fn is_patient(&self) -> bool {
        matches!(self.0.origin, Origin::Socket(_))
    }
}

/// An instance that was started. It leaves the end of its thread to the next one, when it is dropped.
struct Guard {
    factory: Outside,
    live: Live,
}

impl Guard {
    fn new(factory: Outside, live: Live) -> Self {
        factory.0.started.set(factory.0.started.get() + 1);
        Self { factory, live }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.factory.0.started.set(self.factory.0.started.get() - 1);
        if let Body::Thread(thread) = &mut self.live.body {
            self.factory.0.thread.replace(thread.take());
        }
    }
}

fn live_describe(session: &Session) -> LocalFuture<'_, Result<Manifest>> {
    Box::pin(session.describe())
}

impl Live {
    /// Asks with a deadline. If the other side broke off, the reason of its end is the error.
    async fn ask<T>(
        &mut self,
        question: impl for<'a> FnOnce(&'a Session) -> LocalFuture<'a, Result<T>>,
    ) -> Result<T> {
        let answer = tokio::time::timeout(DESCRIBE, question(&self.session)).await;
        match answer {
            Ok(Err(error)) if error.class() == Class::Unavailable => Err(self.explain(error).await),
            Ok(answer) => answer,
            Err(_) => Err(Error::unavailable(format!("it did not answer within {DESCRIBE:?}"))),
        }
    }

    async fn completed(&mut self, section: &toml::Table) -> Result<toml::Table> {
        let section = section.clone();
        self.ask(|session| Box::pin(async move { session.complete(&section).await })).await
    }

    /// Without a deadline: the supervisor has one.
    async fn started(
        &mut self,
        context: &Context,
        section: &toml::Table,
    ) -> Result<capstan_sdk::Exports> {
        match self.session.start(context, section).await {
            Err(error) if error.class() == Class::Unavailable => Err(self.explain(error).await),
            started => started,
        }
    }

    /// The reason for which the other side broke off: what a host of a library said, or how a process ended.
    async fn explain(&mut self, error: Error) -> Error {
        let Body::Process(process) = &mut self.body else { return error };
        match tokio::time::timeout(THREAD, process.ended()).await {
            Ok(reason) => process.refusal().unwrap_or_else(|| Error::unavailable(reason)),
            Err(_) => error,
        }
    }

    fn is_alive(&self) -> bool {
        !self.session.has_ended()
    }

    /// Waits for its end; answers why.
    async fn ended(&mut self) -> String {
        match &mut self.body {
            Body::Thread(thread) => {
                let reason = self.session.ended().await;
                let Some(end) = thread.as_mut() else { return reason };
                let code = tokio::time::timeout(Duration::from_millis(100), end).await;
                if code.is_ok() {
                    // It has ended, and the next instance need not wait for that.
                    *thread = None;
                }
                match code {
                    Ok(Ok(abi::PANICKED)) => "a panic went through its thread".into(),
                    _ => reason,
                }
            }
            Body::Process(process) => tokio::select! {
                reason = process.ended() => reason,
                reason = self.session.ended() => {
                    // Why the process ended says more than that its stream did, but it may live on.
                    let patience = Duration::from_millis(200);
                    let ended = tokio::time::timeout(patience, process.ended()).await;
                    match ended {
                        Ok(how) if reason == "it closed its stream" => how,
                        _ => reason,
                    }
                }
            },
            Body::Peer { .. } => self.session.ended().await,
        }
    }
}

/// Sends the two sockets to somebody who listens.
fn connect(path: &Path, stream: &OwnedFd, descriptors: &OwnedFd) -> Result<Body> {
    let at = |error: std::io::Error| {
        Error::unavailable(format!("connect to {}: {error}", path.display()))
    };
    let mut connection = UnixStream::connect(path).map_err(at)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let both = [stream.as_fd(), descriptors.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&both));
    let sent =
        rustix::net::sendmsg(&connection, &[IoSlice::new(b"1")], &mut control, SendFlags::NOSIGNAL);
    sent.map_err(|error| at(error.into()))?;
    connection.flush().map_err(at)?;
    let peer = rustix::net::sockopt::socket_peercred(&connection);
    let pid = peer.ok().and_then(|peer| u32::try_from(peer.pid.as_raw_pid()).ok());
    Ok(Body::Peer { _connection: connection, pid: pid.unwrap_or_default() })
}
