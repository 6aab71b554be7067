//! What other tools make and read: the same digests, the same trees.

use std::fs;

use capstan_integration::{FakeRegistry, Host};

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
    host.ok(&["images", "import", &oci, "--name", "mine:3"]);
    assert_eq!(digest_of(&host, "docker.io/library/mine:3"), made.manifest);
}
