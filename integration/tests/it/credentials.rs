//! Credentials where they are less often wanted: for a blob that is fetched again, and for a part of a registry only.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use capstan_integration::{DockerRegistry, Guard, Host, PASSWORD, USER};
use serde_json::json;
use tempfile::TempDir;

use crate::distribution::{small, transfer_section};

/// A registry with a password and with an image under two names, and a daemon that knows nothing.
struct World {
    host: Host,
    registry: DockerRegistry,
    /// The daemon's own file.
    file: PathBuf,
    _storage: TempDir,
}

impl World {
    fn new() -> Self {
        let storage = tempfile::Builder::new().prefix("storage-").tempdir().unwrap();
        let open = DockerRegistry::serve(storage.path());
        for name in ["team/app", "other/app"] {
            small(90).push_to(&open.address(), name, "latest");
        }
        drop(open);
        let registry = DockerRegistry::guarded(storage.path(), &Guard::new().password());
        let mut host = Host::without_daemon(1024);
        let hosts = host.path("certs.d");
        fs::create_dir_all(&hosts).unwrap();
        host.configure(&transfer_section(&hosts, ""));
        host.start();
        Self { host, registry, file: hosts.join("auth.json"), _storage: storage }
    }
}

#[test]
fn a_damaged_blob_is_fetched_again_as_the_client_says() {
    let world = World::new();
    let (host, address) = (&world.host, world.registry.address());
    let name = world.registry.reference("team/app");
    let login = ["login", "--plain-http", "--user", USER, "--password-stdin", &address];
    let log_in = || assert_eq!(host.capstan_with_input(&login, PASSWORD.as_bytes()).code, 0);
    log_in();
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let layer = small(90).layers.pop().unwrap();
    let file = host.root().join("content.local/blobs").join(layer.replace(':', "/"));
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, bytes).unwrap();

    host.ok(&["logout", &address]);
    let output = host.capstan(&["system", "heal", "--full"]);
    assert!(output.code == 10 && output.stdout.contains("PermissionDenied"), "{output:?}");
    log_in();
    host.ok(&["system", "heal", "--full"]);
    host.ok(&["system", "audit", "--full"]);
    assert!(!host.log().contains(PASSWORD), "a secret is in the log");
}

#[test]
fn a_login_of_the_daemon_may_be_for_some_repositories() {
    let world = World::new();
    let address = world.registry.address();
    let auths = json!({ "auths": {
        &*address: { "username": USER, "password": "wrong" },
        format!("{address}/team"): { "username": USER, "password": PASSWORD },
    } });
    fs::write(&world.file, auths.to_string()).unwrap();
    fs::set_permissions(&world.file, fs::Permissions::from_mode(0o600)).unwrap();
    let pull = |name: &str| {
        let name = world.registry.reference(name);
        ["images", "pull", "--plain-http", "--no-unpack", &name].map(str::to_owned)
    };
    let run = |args: [String; 5]| world.host.capstan(&args.each_ref().map(String::as_str));
    let output = run(pull("team/app"));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = run(pull("other/app"));
    assert_eq!(output.code, 8, "{}", output.stderr);
}
