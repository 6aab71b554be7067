//! Debian's docker-registry on a free port of the loopback, as open or as closed as a test wants it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::certificates::{Authority, Identity, SERVER_NAMES};
use crate::token_server::{ISSUER, SERVICE};
use crate::{TokenServer, find, fixtures};

/// Who may use a registry that wants to know who it is.
pub const USER: &str = "tester";

/// The password. A canary too: it is to be seen nowhere.
pub const PASSWORD: &str = "canary-password-7d3a";

/// The password as bcrypt has it, by which the registry knows it.
const PASSWORD_HASH: &str = "$2y$05$tlhlQ47wuPXdY2usisblbOW6Rx.W3blNU6/iLpZZngYG8I4AU2d5e";

/// What a registry asks of its clients; nothing at first.
#[derive(Debug, Default)]
pub struct Guard<'a> {
    authority: Option<&'a Authority>,
    wants_client: bool,
    has_password: bool,
    tokens: Option<&'a TokenServer>,
    is_read_only: bool,
}

impl<'a> Guard<'a> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// To come by https, and to trust this root.
    #[must_use]
    pub fn https(self, authority: &'a Authority) -> Self {
        Self { authority: Some(authority), ..self }
    }

    /// To show a certificate of that root, too.
    #[must_use]
    pub fn client_certificate(self) -> Self {
        Self { wants_client: true, ..self }
    }

    /// The password of [`USER`].
    #[must_use]
    pub fn password(self) -> Self {
        Self { has_password: true, ..self }
    }

    /// A token of this server.
    #[must_use]
    pub fn tokens(self, server: &'a TokenServer) -> Self {
        Self { tokens: Some(server), ..self }
    }

    /// To change nothing.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { is_read_only: true, ..self }
    }

    /// Its part of the registry's configuration.
    fn write(&self, dir: &Path, server: Option<&Identity>) -> String {
        let mut text = String::new();
        if let (Some(authority), Some(server)) = (self.authority, server) {
            text.push_str(&format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                server.certificate.display(),
                server.key.display()
            ));
            if self.wants_client {
                text.push_str(&format!("    clientcas: [{}]\n", authority.root().display()));
            }
        }
        if self.has_password {
            let file = dir.join("htpasswd");
            fs::write(&file, format!("{USER}:{PASSWORD_HASH}\n")).expect("write a password");
            text.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
                file.display()
            ));
        }
        if let Some(tokens) = self.tokens {
            text.push_str(&format!(
                "auth:\n  token:\n    realm: {}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
                 rootcertbundle: {}\n",
                tokens.realm(),
                tokens.signer().display()
            ));
        }
        text
    }
}

/// A running one; it ends when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    port: u16,
    _dir: TempDir,
    /// Where its images are, if it is its own.
    storage: Option<TempDir>,
}

impl DockerRegistry {
    /// With the images of [`fixtures`] that are named here, made first if they are not there yet.
    pub fn with(images: &[&str]) -> Self {
        Self::serve(&fixtures::storage(images))
    }

    /// With nothing in it, for everybody, and with a storage of its own.
    pub fn empty() -> Self {
        let storage = tempfile::Builder::new().prefix("storage-").tempdir();
        let storage = storage.expect("make a directory");
        let mut registry = Self::serve(storage.path());
        registry.storage = Some(storage);
        registry
    }

    /// With a storage directory, for everybody.
    pub fn serve(storage: &Path) -> Self {
        Self::guarded(storage, &Guard::new())
    }

    /// With a storage directory, for those who may.
    pub fn guarded(storage: &Path, guard: &Guard<'_>) -> Self {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir().expect("make a directory");
        let server = guard.authority.map(|root| root.server(SERVER_NAMES));
        let is_read_only = guard.is_read_only;
        let guard = guard.write(dir.path(), server.as_ref());
        for _ in 0..20 {
            let port = free_port();
            let config = dir.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\n  delete: {{ enabled: true }}\n  \
                 maintenance: {{ readonly: {{ enabled: {is_read_only} }} }}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{guard}",
                storage.display()
            );
            fs::write(&config, text).expect("write the registry's configuration");
            let mut process = Command::new(find("docker-registry"))
                .arg("serve")
                .arg(&config)
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("start docker-registry");
            if is_up(&mut process, port) {
                return Self { process, port, _dir: dir, storage: None };
            }
        }
        panic!("docker-registry does not come up");
    }

    /// Its storage, for another registry, if it is one of its own.
    pub fn storage(&self) -> &Path {
        self.storage.as_ref().expect("it is somebody else's").path()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of one of its images.
    pub fn reference(&self, image: &str) -> String {
        format!("{}/{image}:latest", self.address())
    }

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on loopback");
    listener.local_addr().expect("it is bound").port()
}

fn is_up(process: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if process.try_wait().expect("look at docker-registry").is_some() {
            // Somebody else took the port.
            return false;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
    false
}
