//! Bad input: one line with the class and what to do, nothing half made, and the same command works
//! once the cause is gone.

use capstan_integration::{DockerRegistry, FakeRegistry, Fault, Host, Image, Layer, digest, gzip};

use crate::pull::assert_nothing_half_made;

const PULL: [&str; 3] = ["images", "pull", "--plain-http"];

fn pull(reference: &str) -> [&str; 4] {
    [PULL[0], PULL[1], PULL[2], reference]
}

/// Short waits between attempts, or these tests would take minutes.
fn impatient() -> Host {
    Host::with_config("[plugins.\"transfer.local\"]\nattempts = 2\nstall_timeout_seconds = 2\n")
}

/// A fault of the registry fails the pull, leaves nothing, and once it is gone the same pull works.
fn check_fault(fault: impl Fn(&Image) -> Fault, code: i32, class: &str) {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![
        Layer::new().busybox(),
        Layer::new().file("big", 0o644, &vec![1; 500_000]),
    ]);
    let reference = registry.offer("app", &image);
    let host = impatient();
    let layer = image.layers[0].clone();
    registry.set_fault(&layer, Some(fault(&image)));
    host.fails(&pull(&reference), code, class, &[&reference]);
    assert_nothing_half_made(&host);
    let run = ["run", "--rm", "--plain-http", &reference, "echo", "fine"];
    host.fails(&run, 125, class, &[]);
    assert_nothing_half_made(&host);
    host.assert_no_container();
    registry.set_fault(&layer, None);
    assert_eq!(host.ok(&run), "fine\n");
    host.assert_no_container();
}

#[test]
fn a_registry_that_breaks_off_in_a_layer() {
    check_fault(|_| Fault::CutAfter(300_000), 7, "Unavailable");
}

#[test]
fn a_layer_with_other_bytes() {
    check_fault(
        |image| Fault::Instead(vec![0; image.blobs[&image.layers[0]].len()]),
        10,
        "Corrupt",
    );
}

#[test]
fn a_layer_that_is_too_short() {
    let short = |image: &Image| {
        let blob = &image.blobs[&image.layers[0]];
        Fault::Instead(blob[..blob.len() / 2].to_vec())
    };
    check_fault(short, 10, "Corrupt");
}

#[test]
fn a_manifest_with_other_bytes() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![Layer::new().busybox()]);
    let host = impatient();
    let reference = registry.offer("app", &image);
    let by_digest = reference.replace(":latest", &format!("@{}", image.manifest));
    registry.set_fault(&image.manifest, Some(Fault::Instead(b"{}".to_vec())));
    host.fails(&pull(&by_digest), 10, "Corrupt", &[]);
    assert_nothing_half_made(&host);
    registry.set_fault(&image.manifest, None);
    host.ok(&pull(&by_digest));
}

/// The blob is what its digest says, and still no layer.
#[test]
fn a_layer_that_is_damaged_gzip_or_no_tar() {
    let tar = Layer::new().busybox().into_tar();
    let mut damaged = gzip(&tar);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let mut cut = gzip(&tar);
    cut.truncate(cut.len() / 2);
    let cases = [
        (damaged, digest(&tar)),
        (cut, digest(&tar)),
        (gzip(b"this is no tar, it is a sentence"), digest(b"this is no tar, it is a sentence")),
        (b"not even gzip".to_vec(), digest(b"not even gzip")),
        // A good layer whose configuration says another diff id.
        (gzip(&tar), digest(b"something else")),
    ];
    let registry = FakeRegistry::start();
    let host = impatient();
    for (number, (blob, diff_id)) in cases.into_iter().enumerate() {
        let image = Image::of_blobs(vec![blob], &[diff_id]);
        let reference = registry.offer(&format!("bad{number}"), &image);
        let output = host.fails(&pull(&reference), 10, "Corrupt", &["layer"]);
        assert!(output.stderr.contains("sha256:"), "which layer? {}", output.stderr);
        assert_nothing_half_made(&host);
    }
    // None of it stands in the way of a good one.
    let good = registry.offer("good", &Image::new(vec![Layer::new().busybox()]));
    assert_eq!(host.ok(&["run", "--rm", "--plain-http", &good, "echo", "fine"]), "fine\n");
}

#[test]
fn an_image_that_nobody_has() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = impatient();
    let none = format!("{}/none:latest", registry.address());
    host.fails(&pull(&none), 3, "NotFound", &["none"]);
    let untagged = registry.reference("busybox").replace(":latest", ":v9");
    host.fails(&pull(&untagged), 3, "NotFound", &["v9"]);
    host.fails(&["run", "--rm", "--plain-http", &none, "true"], 125, "NotFound", &["none"]);
    host.fails(&["run", "--rm", "--pull", "never", &none, "true"], 125, "NotFound", &["none"]);
    for bad in ["", "UPPER/case", "a b", "x@sha256:12", "-x/y", "a//b", "x:"] {
        let output = host.capstan(&["images", "pull", "--plain-http", "--", bad]);
        assert_eq!(output.code, 5, "{bad:?}: {}", output.stderr);
        assert!(output.stderr.starts_with("capstan: InvalidArgument: "), "{}", output.stderr);
    }
    assert_nothing_half_made(&host);
}

#[test]
fn a_registry_that_is_down() {
    let mut registry = DockerRegistry::with(&["busybox"]);
    let host = impatient();
    let reference = registry.reference("busybox");
    registry.kill();
    host.fails(&pull(&reference), 7, "Unavailable", &[&registry.address()]);
    assert_nothing_half_made(&host);
}

#[test]
fn a_registry_that_dies_in_the_middle_of_a_pull() {
    let mut registry = DockerRegistry::with(&["minbase"]);
    let host = impatient();
    let reference = registry.reference("minbase");
    let pull = host.command(&pull(&reference)).spawn().unwrap();
    host.until("bytes arrive", || ingested(&host) > 1 << 20);
    registry.kill();
    let output = pull.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // Local disks are fast: it may have come to its end before.
    if output.status.success() {
        return;
    }
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.starts_with("capstan: Unavailable: "), "{text}");
    assert_nothing_half_made(&host);
    let registry = DockerRegistry::with(&["minbase"]);
    host.ok(&["images", "pull", "--plain-http", &registry.reference("minbase")]);
}

/// Bytes below the content plugin's directory.
fn ingested(host: &Host) -> u64 {
    fn size(dir: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let of = |entry: std::fs::DirEntry| match entry.metadata() {
            Ok(about) if about.is_dir() => size(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        };
        entries.map(of).sum()
    }
    size(&host.root().join("content.local"))
}

/// What is wrong with a command is told with the codes of Docker and podman, and nothing is left.
#[test]
fn a_command_that_is_not_there() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&pull(&image));
    for runtime in ["embedded", "runc", "crun"] {
        let run =
            |command: &str| host.capstan(&["run", "--rm", "--runtime", runtime, &image, command]);
        assert_eq!(run("nope").code, 127, "{runtime}");
        assert_eq!(run("/bin/nope").code, 127, "{runtime}");
        assert_eq!(run("/etc/passwd").code, 126, "{runtime}");
        assert_eq!(run("true").code, 0, "{runtime}");
        let args = ["run", "--name", "kept", "--runtime", runtime, &image, "nope"];
        host.fails(&args, 127, "NotFound", &["\"nope\""]);
        host.assert_no_container();
    }
    host.fails(&["run", "--rm", "--runtime", "never", &image, "true"], 125, "NotFound", &["never"]);
    let args = ["run", "--rm", "--snapshotter", "never", &image, "true"];
    host.fails(&args, 125, "NotFound", &["never"]);
    let mount = "type=bind,src=/does/not/exist,dst=/x";
    let output = host.capstan(&["run", "--rm", "--mount", mount, &image, "true"]);
    assert_eq!(output.code, 125, "{}", output.stderr);
    assert!(output.stderr.contains("/does/not/exist"), "{}", output.stderr);
    let output = host.capstan(&["run", "--rm", "--user", "nobody-here", &image, "true"]);
    assert_eq!(output.code, 125, "{}", output.stderr);
    assert!(output.stderr.contains("nobody-here"), "{}", output.stderr);
    host.assert_no_container();
}

#[test]
fn a_name_that_is_in_use() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["run", "-d", "--plain-http", "--name", "web", &image, "sleep", "1000"]);
    let again = ["run", "-d", "--name", "web", &image, "true"];
    host.fails(&again, 125, "AlreadyExists", &["web"]);
    host.fails(&["containers", "create", "web", &image], 4, "AlreadyExists", &["web"]);
    // The first is none the worse.
    assert_eq!(host.ok(&["tasks", "exec", "web", "echo", "here"]), "here\n");
    host.remove("web");
    host.ok(&again);
    host.until("it has ended", || host.ok(&["tasks", "ls"]).contains("stopped"));
    host.ok(&["tasks", "delete", "web"]);
    host.ok(&["containers", "rm", "web"]);
    for bad in ["", "a/b", "..", "a b", &"x".repeat(300)] {
        let output = host.capstan(&["containers", "create", "--", bad, &image]);
        assert_eq!(output.code, 5, "{bad:?}: {}", output.stderr);
    }
    host.fails(&["containers", "rm", "nobody"], 3, "NotFound", &["nobody"]);
    host.fails(&["tasks", "start", "-d", "nobody"], 3, "NotFound", &["nobody"]);
    host.fails(&["tasks", "start", "nobody"], 125, "NotFound", &["nobody"]);
    host.assert_no_container();
}

#[test]
fn a_daemon_that_is_not_there() {
    let mut host = Host::without_daemon(512);
    let address = host.address();
    let socket = address.strip_prefix("unix://").unwrap();
    host.fails(&["images", "ls"], 7, "Unavailable", &[socket, "start capstand"]);
    host.fails(&["run", "x", "true"], 125, "Unavailable", &[socket]);
    host.fails(&["--address", "tcp://x", "images", "ls"], 5, "InvalidArgument", &["tcp://x"]);
    // A socket that nobody listens on any more.
    host.start();
    host.kill();
    assert!(std::path::Path::new(socket).exists());
    host.fails(&["health"], 7, "Unavailable", &[socket]);
    // It does not stand in the way of the next daemon.
    host.start();
    host.ok(&["health"]);
    let second = std::process::Command::new(capstan_integration::program("capstand"))
        .args(["--config".as_ref(), host.config().as_os_str()])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("Unavailable") && text.contains("another capstand"), "{text}");
    host.ok(&["health"]);
}

/// Another user may not even connect.
#[test]
fn a_socket_that_refuses() {
    let host = Host::new();
    let output = std::process::Command::new(capstan_integration::find("setpriv"))
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(capstan_integration::program("capstan"))
        .args(["images", "ls"])
        .env("CAPSTAN_ADDRESS", host.address())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // The temporary directory of the harness lets nobody else in either: both are EACCES.
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.starts_with("capstan: PermissionDenied: "), "{text}");
}
