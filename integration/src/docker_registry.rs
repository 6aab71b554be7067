//! Debian's docker-registry on a free port of the loopback.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{find, fixtures};

/// A running one; it ends when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl DockerRegistry {
    /// With the images of [`fixtures`] that are named here, made first if they are not there yet.
    pub fn with(images: &[&str]) -> Self {
        Self::serve(&fixtures::storage(images))
    }

    /// With a storage directory.
    pub fn serve(storage: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir().expect("make a directory");
        for _ in 0..20 {
            let port = free_port();
            let config = dir.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
                storage.display()
            );
            std::fs::write(&config, text).expect("write the registry's configuration");
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
                return Self { process, port, _dir: dir };
            }
        }
        panic!("docker-registry does not come up");
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
