//! Pulls from Debian's registry, and from one that counts.

mod choice;
mod progress;

use std::path::Path;
use std::process::Command;

use capstan_integration::{
    DockerRegistry, FakeRegistry, Fault, Host, Image, Layer, digest, find, noise,
};

/// Every blob that has a name has the bytes of that name.
fn assert_content_is_whole(host: &Host) -> usize {
    let digests = host.ids(&["content", "ls"]);
    for name in &digests {
        let output = host.command(&["content", "get", name]).output().unwrap();
        assert!(output.status.success());
        assert_eq!(&digest(&output.stdout), name);
    }
    digests.len()
}

#[test]
fn an_image_from_dockers_registry_is_whole_and_listed() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    let line = host.ok(&["images", "pull", "--plain-http", &image]);
    assert!(line.starts_with(&image), "{line}");
    let list = host.ok(&["images", "ls"]);
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["REF", "DIGEST", "SIZE", "PLATFORMS"]);
    assert_eq!(rows[1][0], image);
    assert!(rows[1][1].starts_with("sha256:") && line.contains(rows[1][1]), "{list}");
    assert_eq!(assert_content_is_whole(&host), 3, "manifest, configuration and a layer");
    let snapshots = host.ok(&["snapshots", "ls"]);
    assert!(snapshots.starts_with("KEY"), "{snapshots}");
    assert_eq!(snapshots.lines().count(), 2, "{snapshots}");
    assert!(host.ok(&["snapshots", "tree"]).contains("sha256:"));
    let inspect = host.json(&["images", "inspect", &image]);
    assert!(inspect.to_string().contains("/bin/sh"), "{inspect}");

    host.ok(&["images", "rm", &image]);
    assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
    host.fails(&["images", "inspect", &image], 3, "NotFound", &[&image]);
    // What it was made of stays until a collection.
    assert_eq!(assert_content_is_whole(&host), 3);
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 1);
    host.ok(&["gc"]);
    assert_eq!(assert_content_is_whole(&host), 0);
}

/// Ten at once fetch each blob once and unpack once; a pull of what is there fetches nothing.
#[test]
fn ten_pulls_are_one() {
    let registry = FakeRegistry::start();
    let base = Layer::new().busybox();
    let image = Image::new(vec![base, Layer::new().file("top", 0o644, &vec![7; 3 << 20])]);
    let reference = registry.offer("app", &image);
    let host = Host::new();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| host.ok(&["images", "pull", "--plain-http", &reference]));
        }
    });
    for layer in &image.layers {
        assert_eq!(registry.asked_for(layer), 1);
    }
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2);
    host.ok(&["images", "pull", "--plain-http", &reference]);
    for layer in &image.layers {
        assert_eq!(registry.asked_for(layer), 1);
    }
    assert_content_is_whole(&host);
}

/// Whiteouts, opaque directories, replaced directories, hard links and modes, seen from inside.
#[test]
fn layers_come_together_as_the_image_specification_says() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![
        Layer::new()
            .busybox()
            .dir("d")
            .file("d/gone", 0o644, b"1")
            .file("d/kept", 0o640, b"2")
            .dir("o")
            .file("o/old", 0o644, b"3")
            .dir("was-dir")
            .file("was-dir/x", 0o644, b"4")
            .file("set", 0o4755, b"5"),
        Layer::new()
            .file("d/.wh.gone", 0o644, b"")
            .dir("o")
            .file("o/.wh..wh..opq", 0o644, b"")
            .file("o/new", 0o644, b"6")
            .file("was-dir", 0o644, b"now a file"),
    ]);
    let reference = registry.offer("layers", &image);
    for snapshotter in ["overlay", "native"] {
        let host = Host::new();
        let script = "ls d o; cat was-dir; echo; stat -c %a d/kept set";
        let args = [
            "run",
            "--rm",
            "--plain-http",
            "--snapshotter",
            snapshotter,
            &reference,
            "sh",
            "-c",
            script,
        ];
        assert_eq!(host.ok(&args), "d:\nkept\n\no:\nnew\nnow a file\n640\n4755\n", "{snapshotter}");
        host.assert_no_container();
    }
}

/// A connection that breaks is taken up where it broke.
#[test]
fn a_broken_fetch_resumes() {
    let registry = FakeRegistry::start();
    // It does not compress: the blob is as long as the layer.
    let noise = noise(2_000_000, 1);
    let image = Image::new(vec![Layer::new().busybox().file("noise", 0o644, &noise)]);
    let reference = registry.offer("app", &image);
    let blob = image.layers[0].clone();
    registry.set_fault(&blob, Some(Fault::CutEvery(400_000)));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    assert!(registry.asked_for(&blob) > 2);
    let sent = registry.sent_of(&blob);
    let size = image.blobs[&blob].len();
    assert!(sent < size + size / 10, "{sent} bytes were sent for {size}");
    assert_content_is_whole(&host);
}

/// What is in an image stays inside it, however its names are written.
#[test]
fn a_layer_that_escapes_is_refused_and_leaves_nothing() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let canary = host.path("canary");
    std::fs::create_dir(&canary).unwrap();
    let up = "../".repeat(12);
    let absolute = canary.to_str().unwrap().trim_start_matches('/').to_owned();
    let refused = [
        Layer::new().file(&format!("{up}{absolute}/a"), 0o644, b"x"),
        Layer::new().file("dir/../../../b", 0o644, b"x"),
    ];
    for (number, layer) in refused.into_iter().enumerate() {
        let reference = registry.offer(&format!("evil{number}"), &Image::new(vec![layer]));
        let args = ["images", "pull", "--plain-http", &reference];
        host.fails(&args, 10, "Corrupt", &["layer"]);
        assert_nothing_half_made(&host);
    }
    // Links are only followed inside the layer's own root.
    let links = [
        Layer::new().busybox().symlink("out", canary.to_str().unwrap()).file("out/c", 0o644, b"x"),
        Layer::new()
            .busybox()
            .symlink("out", &format!("{up}{absolute}"))
            .file("out/d", 0o644, b"x"),
    ];
    for (number, layer) in links.into_iter().enumerate() {
        let reference = registry.offer(&format!("link{number}"), &Image::new(vec![layer]));
        // Whether it is refused or stays inside: nothing is ever outside.
        host.capstan(&["images", "pull", "--plain-http", &reference]);
    }
    assert!(is_empty(&canary), "something is outside");
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// No name, no snapshot, no mount of a pull that failed. Verified blobs may stay for the next one.
pub(crate) fn assert_nothing_half_made(host: &Host) {
    assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
    assert_eq!(host.ids(&["snapshots", "ls"]), Vec::<String>::new());
    assert_content_is_whole(host);
    assert!(host.remains().mounts.is_empty());
}

/// Ten layers with whiteouts, a replaced directory, links, owners and modes: the tree is the one that
/// umoci makes of the same image, file by file.
#[test]
fn ten_layers_make_the_tree_that_umoci_makes() {
    let registry = DockerRegistry::with(&["big"]);
    let host = Host::new();
    let image = registry.reference("big");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let layout = format!("oci:{}:latest", host.path("layout").display());
    run(Command::new(find("skopeo"))
        .args(["copy", "-q", "--src-tls-verify=false"])
        .args([format!("docker://{image}"), layout]));
    let bundle = host.path("bundle");
    run(Command::new(find("umoci"))
        .args(["unpack", "--image"])
        .arg(format!("{}:latest", host.path("layout").display()))
        .arg(&bundle));
    // All but what is mounted over a container's root. Directories have sizes of their own everywhere.
    let script = "cd \"$0\"; list() { find bin etc opt root sbin usr var \"$@\" -print0 | sort -z; }; \
                  list | xargs -0 stat -c '%n %f %u %g'; \
                  list ! -type d | xargs -0 stat -c '%n %h %s'; \
                  list -type f | xargs -0 sha256sum";
    let busybox = find("busybox");
    let want = run(Command::new(&busybox).args(["sh", "-c", script]).arg(bundle.join("rootfs")));
    let args = ["run", "--rm", "--plain-http", "--net", "private", &image, "sh", "-c", script, "/"];
    let got = host.ok(&args);
    let differs = got.lines().zip(want.lines()).find(|(got, want)| got != want);
    assert_eq!(differs, None);
    assert_eq!(got.lines().count(), want.lines().count());
    assert!(got.lines().count() > 20_000, "so little?");
    host.assert_no_container();
}

/// What a killed daemon left of a fetch, damaged as after a power cut: it is not built upon.
#[test]
fn a_damaged_rest_of_a_fetch_is_fetched_anew() {
    let registry = FakeRegistry::start();
    let noise = noise(2_000_000, 21);
    let image = Image::new(vec![Layer::new().busybox().file("noise", 0o644, &noise)]);
    let reference = registry.offer("app", &image);
    let blob = image.layers[0].clone();
    registry.set_fault(&blob, Some(Fault::CutAfter(1_500_000)));
    let mut host = Host::new();
    let mut pull = host.command(&["images", "pull", "--plain-http", &reference]).spawn().unwrap();
    host.until("the fetch was cut", || registry.sent_of(&blob) >= 1_500_000);
    std::thread::sleep(std::time::Duration::from_millis(100));
    host.kill();
    pull.wait().unwrap();
    let mut damaged = 0;
    for entry in std::fs::read_dir(host.root().join("content.local/ingest")).unwrap() {
        let data = entry.unwrap().path().join("data");
        let mut bytes = std::fs::read(&data).unwrap();
        if bytes.len() > 1_000_000 {
            bytes[700_000..704_096].fill(0);
            std::fs::write(&data, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1, "the layer's ingest is there");
    registry.set_fault(&blob, None);
    host.start();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    assert_content_is_whole(&host);
    let sum = host.ok(&["run", "--rm", "--net", "host", &reference, "sha256sum", "/noise"]);
    assert!(digest(&noise).ends_with(sum.split(' ').next().unwrap()), "{sum}");
}
