//! The listener: a unix socket, the credentials of who connects, and a root capability for each.

mod root;

use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use capstan_schema::{Error, Result};
use capstan_sdk::Peer;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};
use tracing::{debug, warn};

use crate::Registry;

/// Connections at the same time. Each costs two descriptors' worth of buffers, about 20 KiB; the
/// limit keeps a peer that leaks them from taking the daemon's descriptors.
const MAX_CONNECTIONS: usize = 1024;

/// sockaddr_un holds 108 bytes with the NUL.
const MAX_PATH: usize = 107;

/// A checked `unix://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath(PathBuf);

impl SocketPath {
    /// `unix:///absolute/path`.
    ///
    /// # Errors
    /// `InvalidArgument`: another scheme, a relative or too long path.
    pub fn parse(address: &str) -> Result<Self> {
        let path =
            address.strip_prefix("unix://").filter(|path| path.starts_with('/')).ok_or_else(
                || Error::invalid(format!("address {address:?}: write unix:///absolute/path")),
            )?;
        if path.len() > MAX_PATH {
            return Err(Error::invalid(format!(
                "address {address:?}: a socket path has at most {MAX_PATH} bytes"
            )));
        }
        Ok(Self(path.into()))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// An open socket. Dropping it closes it and removes its name.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: SocketPath,
    registry: Arc<Registry>,
}

impl Listener {
    /// Binds the socket, mode 0600, in a directory that is made if it is missing (mode 0700): both are for who may connect.
    ///
    /// A socket that an earlier daemon left is replaced; one that answers is not, nor is anything else.
    ///
    /// # Errors
    /// `AlreadyExists`: another daemon listens there, or what is there is no socket. Else what the system says.
    pub async fn bind(path: SocketPath, registry: Arc<Registry>) -> Result<Self> {
        let file = path.as_path();
        let fail = |error| Error::io(format!("listen on {}", file.display()), error);
        if let Some(parent) = file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        match UnixStream::connect(file).await {
            Ok(_) => {
                return Err(Error::already_exists(format!(
                    "another daemon listens on {}; stop it, or use another --address",
                    file.display()
                )));
            }
            // A file that is no socket refuses too.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                if !std::fs::symlink_metadata(file).map_err(fail)?.file_type().is_socket() {
                    return Err(Error::already_exists(format!(
                        "{} is there, and is no socket; remove it, or use another --address",
                        file.display()
                    )));
                }
                std::fs::remove_file(file).map_err(fail)?;
            }
            Err(_) => {}
        }
        let socket = UnixListener::bind(file).map_err(fail)?;
        let listener = Self { socket, path, registry };
        let file = listener.path.as_path();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o600))
            .map_err(|error| Error::io(format!("set the mode of {}", file.display()), error))?;
        Ok(listener)
    }

    /// Accepts connections until the future is dropped; the connections end with it.
    pub async fn serve(&self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.socket.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => self.admit(stream, &mut connections),
                        Err(error) => {
                            // Out of descriptors, most likely: let some connection end first.
                            warn!(%error, "cannot accept a connection");
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                    }
                }
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a connection ended badly");
                    }
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        let peer = match stream.peer_cred() {
            Ok(credentials) => Peer {
                uid: credentials.uid(),
                gid: credentials.gid(),
                pid: credentials.pid().unwrap_or(0),
            },
            Err(error) => {
                warn!(%error, "a peer without credentials was turned away");
                return;
            }
        };
        let registry = Arc::clone(&self.registry);
        connections.spawn_local(async move {
            debug!(?peer, "connected");
            let (read, write) = stream.into_split();
            let network = twoparty::VatNetwork::new(
                buffered(read),
                write.compat_write(),
                Side::Server,
                capstan_schema::limits(),
            );
            let root = root::serve(registry, peer);
            match RpcSystem::new(Box::new(network), Some(root)).await {
                Ok(()) => debug!(?peer, "disconnected"),
                Err(error) => debug!(?peer, %error, "disconnected"),
            }
        });
    }
}

/// capnp reads a message in several small reads: a buffer makes one system call of them.
fn buffered(
    read: tokio::net::unix::OwnedReadHalf,
) -> tokio_util::compat::Compat<tokio::io::BufReader<tokio::net::unix::OwnedReadHalf>> {
    tokio::io::BufReader::new(read).compat()
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path.as_path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unix_paths() {
        assert!(SocketPath::parse("unix:///run/x.sock").is_ok());
        for bad in ["/run/x.sock", "unix://run/x", "tcp://1.2.3.4:5", "", "unix://"] {
            assert!(SocketPath::parse(bad).is_err(), "{bad}");
        }
        assert!(SocketPath::parse(&format!("unix:///{}", "a".repeat(107))).is_err());
    }
}
