//! A process in the foreground: its streams are ours, our signals are its, its status is ours.

use std::time::Duration;

use capstan_client::schema::task_capnp::{exit, process, stdio, task};
use capstan_client::{Error, open_fifo};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::exit::{Failure, Outcome};
use crate::session::{Session, call};
use crate::terminal::{self, RawMode};

/// How long after the end of a process its output may still come: only something that outlived
/// it can hold the stream open so long.
const DRAIN: Duration = Duration::from_secs(2);

/// A task's init process, or an exec.
pub(crate) enum Target {
    Task(task::Client),
    Exec(process::Client),
}

impl Target {
    pub(crate) async fn start(&self, session: &Session) -> Outcome<u32> {
        match self {
            Self::Task(task) => Ok(call!(session, task.start_request()).get()?.get_pid()),
            Self::Exec(process) => Ok(call!(session, process.start_request()).get()?.get_pid()),
        }
    }

    /// Waits for the end and gives it as a failure with the status, or as fine.
    pub(crate) async fn wait(&self, session: &Session) -> Outcome {
        match self {
            Self::Task(task) => {
                let response = call!(session, task.wait_request());
                status(response.get()?.get_exit()?)
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

    async fn close_stdin(&self, session: &Session) -> Outcome {
        match self {
            Self::Task(task) => drop(call!(session, task.close_stdin_request())),
            Self::Exec(process) => drop(call!(session, process.close_stdin_request())),
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

impl Wish {
    pub(crate) fn write(self, mut out: stdio::Builder<'_>) {
        out.reborrow().init_fifos().set_stdin(self.is_interactive);
    }
}

/// The paths that the daemon answered with.
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Starts a process that is ready, and stays with it to its end.
pub(crate) async fn run(session: &Session, target: &Target, paths: &Paths, wish: Wish) -> Outcome {
    let stdout = copier(&paths.stdout, tokio::io::stdout())?;
    let stderr = copier(&paths.stderr, tokio::io::stderr())?;
    // Opened before the start: afterwards the process may be gone, and its streams with it.
    let stdin = match paths.stdin.as_str() {
        "" => None,
        path => Some(
            pipe::OpenOptions::new()
                .open_sender(path)
                .map_err(|error| Error::io(format!("open stream {path}"), error))?,
        ),
    };
    let raw = match wish.has_terminal {
        true => Some(RawMode::enter()?),
        false => None,
    };
    target.start(session).await?;
    if let (true, Some(size)) = (wish.has_terminal, terminal::size()) {
        // Too late for a process that is gone already, and then of no use.
        let _ = target.resize(session, size).await;
    }
    let outcome = tokio::select! {
        outcome = target.wait(session) => outcome,
        failure = pass_signals(session, target, wish.has_terminal) => Err(failure),
        failure = pass_stdin(session, target, stdin) => Err(failure),
    };
    let drained = async {
        for copier in [stdout, stderr].into_iter().flatten() {
            let _ = copier.await;
        }
    };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    drop(raw);
    outcome
}

/// Copies one of the process's streams to one of ours, to its end.
fn copier(
    path: &str,
    mut ours: impl AsyncWrite + Unpin + 'static,
) -> Outcome<Option<JoinHandle<std::io::Result<()>>>> {
    if path.is_empty() {
        return Ok(None);
    }
    let mut theirs = open_fifo(path)?;
    Ok(Some(tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = theirs.read(&mut buffer).await?;
            if got == 0 {
                return ours.flush().await;
            }
            ours.write_all(&buffer[..got]).await?;
            ours.flush().await?;
        }
    })))
}

/// Copies our stdin to the process; returns only when the connection fails.
async fn pass_stdin(session: &Session, target: &Target, stdin: Option<pipe::Sender>) -> Failure {
    if let Some(mut theirs) = stdin {
        let mut ours = tokio::io::stdin();
        let mut buffer = vec![0; 16 << 10];
        // Our end of file, an error, or a process that reads no more: all of them end the stream.
        while let Ok(got @ 1..) = ours.read(&mut buffer).await {
            if theirs.write_all(&buffer[..got]).await.is_err() {
                break;
            }
        }
        drop(theirs);
        // The process may be gone meanwhile: its wait tells.
        let _ = target.close_stdin(session).await;
    }
    std::future::pending().await
}

/// Passes signals on; returns only when they cannot be received.
async fn pass_signals(session: &Session, target: &Target, has_terminal: bool) -> Failure {
    const PASSED: [SignalKind; 6] = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    let install = |kind| signal(kind).map_err(|error| Error::io("install signals", error));
    let mut streams = Vec::new();
    for kind in PASSED {
        match install(kind) {
            Ok(stream) => streams.push((kind, stream)),
            Err(error) => return error.into(),
        }
    }
    let mut resized = match install(SignalKind::window_change()) {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    loop {
        let next = std::future::poll_fn(|cx| {
            for (kind, stream) in &mut streams {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*kind);
                }
            }
            std::task::Poll::Pending
        });
        tokio::select! {
            kind = next => {
                let number = u32::try_from(kind.as_raw_value()).unwrap_or(0);
                // A process that has ended is told by its wait.
                let _ = target.kill(session, number).await;
            }
            _ = resized.recv(), if has_terminal => {
                if let Some(size) = terminal::size() {
                    let _ = target.resize(session, size).await;
                }
            }
        }
    }
}
