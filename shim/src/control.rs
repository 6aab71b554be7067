//! The shim's life: connections come and go, and one day it ends.

use std::cell::Cell;
use std::os::unix::net::UnixListener as StdListener;
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use capstan_schema::shim_capnp::shim;
use capstan_schema::{Error, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};

use crate::reap::Reaper;
use crate::server::Server;
use crate::setup::Prepared;
use crate::task::Task;

/// Where a daemon that comes later finds the shim, in the task's directory.
const SOCKET: &str = "shim.sock";

/// How long the last answer may take on its way out.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until the task is deleted, or nobody is there and there is no task.
///
/// # Errors
/// What keeps the shim from serving.
pub(crate) fn run(prepared: Prepared) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(prepared))
}

async fn serve(prepared: Prepared) -> Result<()> {
    let fail = |error| Error::io(format!("listen on {SOCKET}"), error);
    // Relative, so that it is never too long; in a directory that only root can enter.
    let listener = StdListener::bind(SOCKET).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let listener = UnixListener::from_std(listener).map_err(fail)?;
    let daemon = UnixStream::from_std(prepared.daemon).map_err(fail)?;

    let reaper = Reaper::default();
    let task = Task::new(prepared.dir, prepared.record, reaper.clone());
    ignore_signals()?;
    let peers = Rc::new(Peers::default());
    dump_on_signal(&task, &peers)?;
    peers.admit(daemon, &task);
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_own(&stream) => peers.admit(stream, &task),
                Ok(_) => {}
                Err(_) => tokio::time::sleep(FAREWELL).await,
            }
        }
    };
    tokio::select! {
        never = accept => never,
        reaped = reaper.run() => reaped,
        () = alone(&peers, &task) => Ok(()),
        () = task.done.notified() => {
            // The answer to the delete is on its way: the daemon hangs up when it has it.
            let _ = tokio::time::timeout(FAREWELL, peers.all_gone()).await;
            Ok(())
        }
    }
}

/// Resolves when nobody is connected and there is nothing to be kept.
async fn alone(peers: &Peers, task: &Task) {
    loop {
        peers.all_gone().await;
        if task.is_idle() {
            return;
        }
        // A create goes on without its daemon. Until a new daemon comes there is nothing to look for
        // but its end.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The signals that a service manager sends to all of a daemon's processes, and those of somebody who
/// means another process: the shim outlives them.
fn ignore_signals() -> Result<()> {
    const IGNORED: [SignalKind; 5] = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::user_defined2(),
    ];
    for kind in IGNORED {
        let mut signals = signal(kind).map_err(|error| Error::io("take signals", error))?;
        tokio::task::spawn_local(async move { while signals.recv().await.is_some() {} });
    }
    Ok(())
}

/// On SIGUSR1 it says on stderr, which is the daemon's, what it has in hand.
fn dump_on_signal(task: &Rc<Task>, peers: &Rc<Peers>) -> Result<()> {
    let mut signals =
        signal(SignalKind::user_defined1()).map_err(|error| Error::io("take signals", error))?;
    let (task, peers) = (Rc::clone(task), Rc::clone(peers));
    tokio::task::spawn_local(async move {
        while signals.recv().await.is_some() {
            eprintln!(
                "capstan-shim: {}; daemons connected: {}",
                task.describe(),
                peers.count.get()
            );
        }
    });
    Ok(())
}

/// Whether a peer is of the same user. The directory lets nobody else in; this holds even so.
pub(crate) fn is_own(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// Who is connected.
#[derive(Default)]
struct Peers {
    count: Cell<usize>,
    changed: Notify,
}

impl Peers {
    fn admit(self: &Rc<Self>, stream: UnixStream, task: &Rc<Task>) {
        self.count.set(self.count.get() + 1);
        let (peers, task) = (Rc::clone(self), Rc::clone(task));
        tokio::task::spawn_local(async move {
            let (read, write) = stream.into_split();
            let network = twoparty::VatNetwork::new(
                read.compat(),
                write.compat_write(),
                Side::Server,
                capstan_schema::limits(),
            );
            let server: shim::Client = capnp_rpc::new_client(Server(task));
            // How a connection ends says nothing about the task.
            let _ = RpcSystem::new(Box::new(network), Some(server.client)).await;
            peers.count.set(peers.count.get() - 1);
            peers.changed.notify_waiters();
        });
    }

    async fn all_gone(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count.get() == 0 {
                return;
            }
            changed.await;
        }
    }
}
