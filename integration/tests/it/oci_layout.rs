//! Image layouts in directories: ours and those of other tools, and hostile ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use capstan_integration::{FakeRegistry, Host};

use crate::archive::{digest_of, image, succeed};

/// The names that an index has, in its order.
fn names(layout: &Path) -> Vec<String> {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let name = |image: &serde_json::Value| {
        image["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned()
    };
    index["manifests"].as_array().unwrap().iter().map(name).collect()
}

fn tree(dir: &Path) -> Vec<String> {
    let out = succeed("find", &[&dir.display().to_string(), "-printf", "%P %s\n"]);
    let mut lines: Vec<String> =
        String::from_utf8(out).unwrap().lines().map(ToOwned::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn other_tools_read_what_is_exported() {
    let registry = FakeRegistry::start();
    let (one, two) = (image(21), image(22));
    let pulled = [registry.offer("app", &one), registry.offer("other", &two)];
    let host = Host::new();
    for name in &pulled {
        host.ok(&["images", "pull", "--plain-http", name]);
    }
    let names_of = [pulled[0].clone(), pulled[0].replace(":latest", ":two")];
    host.ok(&["images", "tag", &pulled[1], &names_of[1]]);
    let layout = host.path("layout");
    let at = layout.display().to_string();
    // It is made, and added to: the same name is replaced, another appended.
    host.ok(&["images", "export", &format!("{at}/"), &names_of[0]]);
    host.ok(&["images", "export", &at, &names_of[1]]);
    host.ok(&["images", "export", &at, &names_of[0]]);
    assert_eq!(names(&layout), ["two", "latest"]);
    let inspect = |tag: &str| {
        let raw = succeed("skopeo", &["inspect", "--raw", &format!("oci:{at}:{tag}")]);
        capstan_integration::digest(&raw)
    };
    assert_eq!((inspect("latest"), inspect("two")), (one.manifest.clone(), two.manifest.clone()));
    for (tag, seed) in [("latest", 21), ("two", 22)] {
        let bundle = host.path(tag);
        let image = format!("{at}:{tag}");
        succeed("umoci", &["unpack", "--image", &image, &bundle.display().to_string()]);
        let noise = fs::read(bundle.join("rootfs/d/noise")).unwrap();
        assert_eq!(noise, capstan_integration::noise(300_000, seed));
    }
    // All of it is there and nothing else: no drafts, no manifest.json.
    let lines = tree(&layout);
    let files = lines.iter().filter(|line| line.starts_with("blobs/sha256/")).count();
    assert_eq!(
        files,
        one.blobs.keys().chain(two.blobs.keys()).collect::<std::collections::BTreeSet<_>>().len()
    );
    assert_eq!(lines.len(), files + 5, "{lines:?}");

    // And back, into another daemon.
    let other = Host::new();
    other.ok(&["images", "import", &at]);
    for (name, image) in names_of.iter().zip([&one, &two]) {
        assert_eq!(digest_of(&other, name), image.manifest);
        assert!(other.ok(&["run", "--rm", "--net", "host", name, "echo", "fine"]).contains("fine"));
    }
}

#[test]
fn what_other_tools_write_is_imported() {
    let registry = FakeRegistry::start();
    let made = image(23);
    let name = registry.offer("app", &made);
    let host = Host::new();
    let layout = host.path("skopeo");
    let at = layout.display().to_string();
    let from = format!("docker://{name}");
    let copy = |to: String| {
        succeed("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &to]);
    };
    copy(format!("oci:{at}:example.com/from/skopeo:1"));
    // What stands beside a layout is not looked at.
    symlink("/etc/passwd", layout.join("secret")).unwrap();
    host.ok(&["images", "import", &at]);
    assert_eq!(digest_of(&host, "example.com/from/skopeo:1"), made.manifest);
    assert!(
        host.ok(&["run", "--rm", "--net", "host", "example.com/from/skopeo:1", "echo", "fine"])
            .contains("fine")
    );
    // umoci's own, with a tag that names no image; ours goes beside it.
    let umoci = host.path("umoci");
    let dir = umoci.display().to_string();
    succeed("umoci", &["init", "--layout", &dir]);
    succeed("umoci", &["new", "--image", &format!("{dir}:empty")]);
    host.ok(&["images", "export", &dir, "example.com/from/skopeo:1"]);
    assert_eq!(names(&umoci), ["empty", "1"]);
    let list = String::from_utf8(succeed("umoci", &["list", "--layout", &dir])).unwrap();
    let mut list: Vec<&str> = list.lines().collect();
    list.sort_unstable();
    assert_eq!(list, ["1", "empty"]);
}

#[test]
fn what_is_no_layout_is_left_alone() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image(24));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &name]);
    let full = host.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "1").unwrap();
    let at = full.display().to_string();
    host.fails(&["images", "export", &at, &name], 6, "FailedPrecondition", &["not empty", &at]);
    host.fails(&["images", "import", &at], 5, "InvalidArgument", &["oci-layout", &at]);
    assert_eq!(tree(&full).len(), 2);
    // Nothing is made for an image that is not here, nor where no directory is.
    let none = host.path("none");
    let at = format!("{}/", none.display());
    host.fails(&["images", "export", &at, "127.0.0.1:1/none:1"], 3, "NotFound", &["none"]);
    assert!(!none.exists());
    let deep = format!("{at}deep/");
    host.fails(&["images", "export", &deep, &name], 3, "NotFound", &["deep"]);

    // Links in a layout lead nowhere.
    let layout = host.path("layout");
    let at = layout.display().to_string();
    host.ok(&["images", "export", &format!("{at}/"), &name]);
    let blob = fs::read_dir(layout.join("blobs/sha256")).unwrap().next().unwrap().unwrap().path();
    let moved = host.path("moved");
    fs::rename(&blob, &moved).unwrap();
    symlink(&moved, &blob).unwrap();
    let part = blob.display().to_string();
    host.fails(&["images", "import", &at], 5, "InvalidArgument", &["symbolic link", &part]);
    // Exporting again puts a file in the link's place and does not write through it.
    fs::write(&moved, "canary").unwrap();
    host.ok(&["images", "export", &at, &name]);
    assert_eq!(fs::read_to_string(&moved).unwrap(), "canary");
    host.ok(&["images", "import", &at]);
    // A blob that is not what its name says makes no image where the right one is not known.
    fs::write(&blob, "wrong").unwrap();
    let other = Host::new();
    let digest = blob.file_name().unwrap().to_string_lossy().into_owned();
    other.fails(&["images", "import", &at], 10, "Corrupt", &[&digest]);
    assert_eq!(other.ids(&["images", "ls"]), Vec::<String>::new());
    // A directory in the place of the blobs' that is a link.
    let elsewhere = host.path("elsewhere");
    fs::rename(layout.join("blobs"), &elsewhere).unwrap();
    symlink(&elsewhere, layout.join("blobs")).unwrap();
    let before = tree(&elsewhere);
    host.fails(&["images", "export", &at, &name], 5, "InvalidArgument", &["blobs"]);
    assert_eq!(tree(&elsewhere), before);
}
