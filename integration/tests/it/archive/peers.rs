//! What other tools make and read: the same digests, the same trees.

use std::fs;
use std::process::{Child, Command, Stdio};

use capstan_integration::{FakeRegistry, Host, find};

use super::{digest_of, image, noise_of, succeed};

#[test]
fn skopeo_and_umoci_read_what_is_exported() {
    let registry = FakeRegistry::start();
    let made = image(11);
    let name = registry.offer("app", &made);
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &name]);
    let file = host.path("app.tar").display().to_string();
    host.ok(&["images", "export", &file, &name]);
    let manifest = succeed("skopeo", &["inspect", "--raw", &format!("oci-archive:{file}")]);
    assert_eq!(capstan_integration::digest(&manifest), made.manifest);
    // As `docker load` does it: by manifest.json.
    let config =
        succeed("skopeo", &["inspect", "--config", "--raw", &format!("docker-archive:{file}")]);
    let config_digest = capstan_integration::digest(&config);
    assert!(made.blobs.contains_key(&config_digest), "{}", String::from_utf8_lossy(&config));
    let layout = host.path("layout");
    fs::create_dir(&layout).unwrap();
    let at = layout.display().to_string();
    succeed("tar", &["-xf", &file, "-C", &at]);
    let bundle = host.path("bundle");
    succeed(
        "umoci",
        &["unpack", "--image", &format!("{at}:latest"), &bundle.display().to_string()],
    );
    let noise = fs::read(bundle.join("rootfs/d/noise")).unwrap();
    assert_eq!(noise, capstan_integration::noise(300_000, 11));
    assert!(!bundle.join("rootfs/d/gone").exists());
}

#[test]
fn what_skopeo_writes_is_imported() {
    let registry = FakeRegistry::start();
    let made = image(12);
    let name = registry.offer("app", &made);
    let host = Host::new();
    let oci = host.path("oci.tar").display().to_string();
    let docker = host.path("docker.tar").display().to_string();
    let from = format!("docker://{name}");
    let copy = |to: String| {
        succeed("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &to]);
    };
    copy(format!("oci-archive:{oci}:example.com/from/skopeo:1"));
    copy(format!("docker-archive:{docker}:example.com/from/docker:2"));
    host.ok(&["images", "import", &oci]);
    assert_eq!(digest_of(&host, "example.com/from/skopeo:1"), made.manifest);
    host.ok(&["images", "import", &docker]);
    let (one, two) = ("example.com/from/skopeo:1", "example.com/from/docker:2");
    assert_eq!(noise_of(&host, one), noise_of(&host, two));
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2, "both have the same layers");
    // One without a name in it gets the one that is asked for.
    copy(format!("oci-archive:{oci}"));
    host.ok(&["images", "import", &oci, "--name", "example.com/mine:3"]);
    assert_eq!(digest_of(&host, "example.com/mine:3"), made.manifest);
}

/// Debian's containerd, on a host's disk.
pub(crate) struct Containerd {
    process: Child,
    socket: String,
}

impl Containerd {
    pub(crate) fn start(host: &Host) -> Self {
        let socket = host.path("containerd.sock").display().to_string();
        let config = host.path("containerd.toml");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \
             \"io.containerd.snapshotter.v1.aufs\"]\n[grpc]\n  address = {socket:?}\n",
            host.path("peer/root"),
            host.path("peer/state"),
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(host.path("containerd.log")).unwrap();
        let process = Command::new(find("containerd"))
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let peer = Self { process, socket };
        host.until("containerd answers", || {
            let args = ["-a", &peer.socket, "version"];
            Command::new(find("ctr")).args(args).output().unwrap().status.success()
        });
        peer
    }

    /// `ctr images`.
    fn ctr(&self, args: &[&str]) -> String {
        self.of("images", args)
    }

    /// `ctr NOUN`.
    pub(crate) fn of(&self, noun: &str, args: &[&str]) -> String {
        let mut all = vec!["-a", &self.socket, "-n", "test", noun];
        all.extend(args);
        String::from_utf8(succeed("ctr", &all)).unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}

#[test]
fn containerd_and_we_read_each_other() {
    let registry = FakeRegistry::start();
    let made = image(13);
    let name = registry.offer("app", &made);
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &name]);
    let ours = host.path("ours.tar").display().to_string();
    host.ok(&["images", "export", &ours, &name]);
    let docker = host.path("docker.tar").display().to_string();
    let to = format!("docker-archive:{docker}:example.com/from/docker:2");
    succeed("skopeo", &["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}"), &to]);
    let theirs = host.path("theirs.tar").display().to_string();
    let peer = Containerd::start(&host);
    peer.ctr(&["import", "--no-unpack", &ours]);
    let list = peer.ctr(&["ls"]);
    let line = list.lines().find(|line| line.starts_with(&name)).expect("it has the name");
    assert!(line.contains(&made.manifest), "{list}");
    peer.ctr(&["export", &theirs, &name]);
    peer.ctr(&["import", "--no-unpack", &docker]);
    let list = peer.ctr(&["ls"]);
    drop(peer);

    let other = Host::new();
    other.ok(&["images", "import", &theirs]);
    assert_eq!(digest_of(&other, &name), made.manifest);
    assert_eq!(noise_of(&other, &name), noise_of(&host, &name));
    // A manifest that both have to make: it is the same.
    other.ok(&["images", "import", &docker]);
    let digest = digest_of(&other, "example.com/from/docker:2");
    let line = list.lines().find(|line| line.starts_with("example.com/from/docker:2"));
    assert!(line.expect("it has the name").contains(&digest), "{digest} is not in {list}");
}
