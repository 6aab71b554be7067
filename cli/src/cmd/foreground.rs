//! A process in the foreground: its streams are ours, our signals are its, its status is ours.

use std::convert::Infallible;
use std::task::Poll;

use capnp::capability::{Promise, Response};
use capstan_client::schema::task_capnp::{exit, process, task};
use capstan_client::{AttachedInput, AttachedOutput, Error, Output};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Failure, Outcome};
use crate::session::{Session, call};
use crate::terminal::{self, RawMode};

/// A task's init process, or an exec.
pub(crate) enum Target {
    Task(task::Client),
    Exec(process::Client),
}

/// The end of a task, asked for.
type TaskEnd = Promise<Response<task::wait_results::Owned>, capnp::Error>;

impl Target {
    pub(crate) async fn start(&self, session: &Session) -> Outcome<u32> {
        match self {
            Self::Task(task) => Ok(call!(session, task.start_request()).get()?.get_pid()),
            Self::Exec(process) => Ok(call!(session, process.start_request()).get()?.get_pid()),
        }
    }

    /// Asks for the end of a task, which may be before its start: a container that goes with its task
    /// may be gone when its start is answered.
    pub(crate) fn begin_wait(&self) -> Option<TaskEnd> {
        match self {
            Self::Task(task) => Some(task.wait_request().send().promise),
            Self::Exec(_) => None,
        }
    }

    /// Waits for the end and gives it as a failure with the status, or as fine.
    pub(crate) async fn wait(&self, session: &Session, begun: Option<TaskEnd>) -> Outcome {
        match self {
            Self::Task(task) => {
                let end = begun.unwrap_or_else(|| task.wait_request().send().promise);
                let response = session.client.call(end).await?;
                status(capstan_client::check!(response.get()?)?.get_exit()?)
            }
            Self::Exec(process) => {
                let response = call!(session, process.wait_request());
                status(response.get()?.get_exit()?)
            }
        }
    }

    async fn kill(&self, session: &Session, number: u32) -> Outcome {
        match self {
            Self::Task(task) => {
                let mut request = task.kill_request();
                request.get().set_signal(number);
                call!(session, request);
            }
            Self::Exec(process) => {
                let mut request = process.kill_request();
                request.get().set_signal(number);
                call!(session, request);
            }
        }
        Ok(())
    }

    async fn resize(&self, session: &Session, (columns, rows): (u16, u16)) -> Outcome {
        match self {
            Self::Task(task) => {
                let mut request = task.resize_request();
                request.get().set_columns(columns);
                request.get().set_rows(rows);
                call!(session, request);
            }
            Self::Exec(process) => {
                let mut request = process.resize_request();
                request.get().set_columns(columns);
                request.get().set_rows(rows);
                call!(session, request);
            }
        }
        Ok(())
    }
}

/// An end as an outcome: 0 is fine.
pub(crate) fn status(exit: exit::Reader<'_>) -> Outcome {
    let lost = exit.get_lost()?.to_str()?;
    if !lost.is_empty() {
        return Err(Error::internal(format!("the exit status is lost: {lost}")).into());
    }
    match u8::try_from(exit.get_status()).unwrap_or(255) {
        0 => Ok(()),
        status => Err(Failure::Status(status)),
    }
}

/// What the user wants of the streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) is_interactive: bool,
    pub(crate) has_terminal: bool,
}

/// What to do with a process that is ready, or runs.
pub(crate) struct Foreground<'a> {
    pub(crate) target: Target,
    /// Where to attach; empty where there are no streams.
    pub(crate) attach: &'a str,
    pub(crate) wish: Wish,
    pub(crate) detach_keys: DetachKeys,
    /// It is started first.
    pub(crate) is_new: bool,
}

/// How it came that we are not attached any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parted {
    /// The process ended well. (Another end is a failure with its status.)
    Ended,
    /// The user typed the detach keys.
    Detached,
}

impl Foreground<'_> {
    /// Stays with the process to its end, or until the user detaches.
    pub(crate) async fn run(self, session: &Session) -> Outcome<Parted> {
        let Self { target, attach, wish, detach_keys, is_new } = self;
        // Only a person types keys; in other input their bytes may well occur.
        let (raw, detach_keys) = match wish.has_terminal && wish.is_interactive {
            true => (Some(RawMode::enter()?), detach_keys),
            false => (None, DetachKeys::default()),
        };
        // The input is held to the end: letting it go means to leave.
        let (output, mut input) = match attach {
            "" => (None, None),
            path => {
                let (output, input) = capstan_client::attach(path).await?;
                (Some(tokio::task::spawn_local(show(output))), Some(input))
            }
        };
        let size = terminal::size().filter(|_| wish.has_terminal);
        if let Some(size) = size {
            // An exec has no terminal before it is started; then it is told below.
            let _ = target.resize(session, size).await;
        }
        let end = target.begin_wait();
        // Before the process can do anything that would make somebody send one.
        let mut signals = Signals::install()?;
        if is_new {
            start(session, &target, &mut signals).await?;
            if let (Target::Exec(_), Some(size)) = (&target, size) {
                // Too late for a process that is gone already, and then of no use.
                let _ = target.resize(session, size).await;
            }
        }
        let outcome = tokio::select! {
            outcome = target.wait(session, end) => outcome.map(|()| Parted::Ended),
            never = pass_signals(session, &target, wish.has_terminal, &mut signals) => match never {},
            parted = pass_stdin(input.as_mut(), wish.is_interactive, detach_keys) => Ok(parted),
        };
        let is_ended = matches!(outcome, Ok(Parted::Ended) | Err(Failure::Status(_)));
        if let Some(output) = output.filter(|_| is_ended) {
            // The shim hangs up when all is told.
            if let Ok(Err(failure)) = output.await {
                return Err(failure);
            }
        }
        drop((raw, input));
        outcome
    }
}

/// Copies the process's output to ours, to its end.
async fn show(mut output: AttachedOutput) -> Outcome {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(piece) = output.next().await? {
        match piece {
            Output::Stdout(bytes) => {
                stdout.write_all(&bytes).await?;
                stdout.flush().await?;
            }
            Output::Stderr(bytes) => {
                stderr.write_all(&bytes).await?;
                stderr.flush().await?;
            }
        }
    }
    Ok(())
}

/// Copies our stdin to the process; returns only when the user detaches.
async fn pass_stdin(
    input: Option<&mut AttachedInput>,
    is_interactive: bool,
    mut keys: DetachKeys,
) -> Parted {
    if let Some(theirs) = input.filter(|_| is_interactive) {
        let mut ours = tokio::io::stdin();
        let mut buffer = vec![0; 16 << 10];
        loop {
            // Our end of file, an error, or a process that reads no more: all of them end the stream.
            let Ok(got @ 1..) = ours.read(&mut buffer).await else {
                let _ = theirs.close_stdin().await;
                break;
            };
            let (typed, is_detached) = keys.take(&buffer[..got]);
            if theirs.send(&typed).await.is_err() {
                break;
            }
            if is_detached {
                return Parted::Detached;
            }
        }
    }
    // The process may be gone meanwhile: its wait tells.
    std::future::pending().await
}

/// The flag for them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DetachFlag {
    /// Keys that detach from the terminal; empty for none
    #[arg(
        long,
        value_name = "KEYS",
        default_value = DetachKeys::DEFAULT,
        value_parser = DetachKeys::parse
    )]
    pub(crate) detach_keys: DetachKeys,
}

/// The keys that detach from a terminal; what is typed of them is held back until it is clear whether
/// all of them follow.
#[derive(Clone, Debug, Default)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Docker's: Ctrl-P, then Ctrl-Q.
    pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

    /// Parses `ctrl-p,ctrl-q`, `ctrl-x,d`; empty: none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let key = |word: &str| match word.as_bytes() {
            [byte @ 0x21..=0x7e] => Some(*byte),
            [b'c', b't', b'r', b'l', b'-', byte] => match byte {
                b'a'..=b'z' => Some(byte - b'a' + 1),
                b'@' | b'[' | b'\\' | b']' | b'^' | b'_' => Some(byte - b'@'),
                _ => None,
            },
            _ => None,
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        let keys: Option<Vec<u8>> = words.map(key).collect();
        let keys = keys.ok_or_else(|| {
            format!("{text:?}: write keys like {:?}, or nothing for none", Self::DEFAULT)
        })?;
        Ok(Self { keys, matched: 0 })
    }

    /// What of the input is for the process, and whether the keys were typed.
    fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut typed = Vec::with_capacity(bytes.len());
        if self.keys.is_empty() {
            typed.extend_from_slice(bytes);
            return (typed, false);
        }
        for &byte in bytes {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (typed, true);
                }
                continue;
            }
            typed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                typed.push(byte);
            }
        }
        (typed, false)
    }
}

/// The signals that are passed on, and that of a terminal that has another size.
struct Signals {
    passed: Vec<(SignalKind, Signal)>,
    resized: Signal,
}

impl Signals {
    /// From here on they do not end us any more.
    fn install() -> Result<Self, Error> {
        const PASSED: [SignalKind; 6] = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let install = |kind| signal(kind).map_err(|error| Error::io("install signals", error));
        let passed = PASSED.into_iter().map(|kind| Ok((kind, install(kind)?)));
        let resized = install(SignalKind::window_change())?;
        Ok(Self { passed: passed.collect::<Result<_, Error>>()?, resized })
    }

    /// The number of the next one that is to be passed on.
    async fn next(passed: &mut [(SignalKind, Signal)]) -> u32 {
        std::future::poll_fn(|cx| {
            for (kind, stream) in &mut *passed {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(u32::try_from(kind.as_raw_value()).unwrap_or(0));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Starts the process. A signal that comes meanwhile is its own once it runs; with a second one nobody wants to wait
/// for that.
async fn start(session: &Session, target: &Target, signals: &mut Signals) -> Outcome {
    let mut early = None;
    let started = target.start(session);
    tokio::pin!(started);
    loop {
        tokio::select! {
            outcome = &mut started => {
                outcome?;
                break;
            }
            number = Signals::next(&mut signals.passed) => if early.replace(number).is_some() {
                return Err(Error::aborted("the start was broken off by a signal").into());
            },
        }
    }
    if let Some(number) = early {
        // One that has ended already is told by its wait.
        let _ = target.kill(session, number).await;
    }
    Ok(())
}

/// Passes signals on, for ever.
async fn pass_signals(
    session: &Session,
    target: &Target,
    has_terminal: bool,
    signals: &mut Signals,
) -> Infallible {
    loop {
        tokio::select! {
            number = Signals::next(&mut signals.passed) => {
                // A process that has ended is told by its wait.
                let _ = target.kill(session, number).await;
            }
            _ = signals.resized.recv(), if has_terminal => {
                if let Some(size) = terminal::size() {
                    let _ = target.resize(session, size).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_parsed() {
        let keys = |text: &str| DetachKeys::parse(text).ok().map(|keys| keys.keys);
        assert_eq!(keys("ctrl-p,ctrl-q"), Some(vec![16, 17]));
        assert_eq!(keys("ctrl-x,d"), Some(vec![24, b'd']));
        assert_eq!(keys("ctrl-]"), Some(vec![29]));
        assert_eq!(keys(""), Some(vec![]));
        for bad in ["ctrl-", "ctrl-P", "pp", "a,", ",", "ctrl-pp", "\u{e9}"] {
            assert_eq!(keys(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_the_keys_is_passed_on() {
        let check = |pieces: &[&[u8]], want: &[u8], is_detached: bool| {
            let mut keys = DetachKeys::parse(DetachKeys::DEFAULT).unwrap();
            let mut all = Vec::new();
            let mut detached = false;
            for piece in pieces {
                let (typed, done) = keys.take(piece);
                all.extend(typed);
                detached |= done;
            }
            assert_eq!((all.as_slice(), detached), (want, is_detached), "{pieces:?}");
        };
        check(&[b"ls\n"], b"ls\n", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"a\x10", b"\x11"], b"a", true);
        check(&[b"\x10x"], b"\x10x", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x11"], b"\x11", false);
    }
}
