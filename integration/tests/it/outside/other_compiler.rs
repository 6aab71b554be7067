//! A plugin of another compiler and other dependencies: nothing but C and Cap'n Proto is between it and the daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use capstan_integration::{DockerRegistry, Host};

use super::Status;
use super::new_plugin::new_plugin;
use super::third_party::{place, root, succeed, target};

/// Versions that the workspace does not have, and how it asks for them.
const OTHERS: [(&str, &str, &str); 6] = [
    ("bytes", "\"1.11\"", "1.10.1"),
    ("serde_json", "\"1.0.149\"", "1.0.140"),
    ("tokio", "\"1.54\"", "1.47.1"),
    ("tokio-util", "\"0.7.16\"", "0.7.15"),
    ("toml", "\"1.2\"", "0.9.8"),
    ("tracing", "\"0.1.44\"", "0.1.41"),
];

/// `rustup run nightly`, and what it says that it is; `None` where there is none.
fn nightly() -> Option<String> {
    let output = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// Makes `to` what `from` is. What is the same stays, so that it is not built again.
fn mirror(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            mirror(&entry.path(), &to);
        } else {
            write(&to, &fs::read_to_string(entry.path()).unwrap());
        }
    }
}

fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).unwrap_or_default() != text {
        fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

/// The workspace's manifest with the SDK alone, and other versions.
fn manifest() -> String {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut found = String::new();
    for line in text.lines() {
        let name = line.split([' ', '=']).next().unwrap_or_default();
        let other = OTHERS.iter().find(|(other, ..)| *other == name);
        match other {
            Some((_, version, other)) => {
                assert!(line.contains(version), "{line}: another version; see OTHERS");
                found += &line.replace(version, &format!("\"={other}\""));
            }
            None if name == "members" => found += "members = [\"schema\", \"plugins/sdk\"]",
            None if line.starts_with("[profile") => break,
            None => found += line,
        }
        found.push('\n');
    }
    found
}

#[test]
fn a_plugin_of_another_compiler_with_other_dependencies_works() {
    let Some(version) = nightly() else {
        eprintln!(
            "skipped: a_plugin_of_another_compiler_with_other_dependencies_works: there is no nightly toolchain"
        );
        return;
    };
    let dir = target().join("other-compiler");
    for part in ["schema", "plugins/sdk"] {
        mirror(&root().join(part), &dir.join("capstan").join(part));
    }
    write(&dir.join("capstan/Cargo.toml"), &manifest());
    let fresh = tempfile::tempdir().unwrap();
    succeed(&mut new_plugin("snapshotter", "other", &fresh.path().join("other")));
    let own = fs::read_to_string(fresh.path().join("other/Cargo.toml")).unwrap();
    let (sdk, copy) = (root().join("plugins/sdk"), dir.join("capstan/plugins/sdk"));
    let own = own.replace(sdk.to_str().unwrap(), copy.to_str().unwrap());
    fs::write(fresh.path().join("other/Cargo.toml"), own).unwrap();
    let lock = dir.join("other/Cargo.lock");
    // It has been changed by cargo, and is right.
    let was_built = lock.exists().then(|| fs::read_to_string(&lock).unwrap());
    mirror(&fresh.path().join("other"), &dir.join("other"));
    was_built.iter().for_each(|text| write(&lock, text));
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo", "build", "--quiet", "--lib"]);
    succeed(cargo.current_dir(dir.join("other")).env("CARGO_TARGET_DIR", dir.join("target")));
    let lock = fs::read_to_string(&lock).unwrap();
    for (name, _, version) in OTHERS {
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&entry), "{name} {version} is not what it was built with");
    }

    let registry = DockerRegistry::with(&["busybox"]);
    let image = registry.reference("busybox");
    let host = Host::new();
    let library = place(&host, &dir.join("target/debug/libsnapshotter_other.so"));
    for form in [&[][..], &["--isolated"]] {
        let mut load = vec!["plugins", "load", &library];
        load.extend(form);
        assert_eq!(host.ok(&load), "snapshotter.other\n");
        assert!(Status::of(&host, "snapshotter.other").is_running());
        let inspect = host.ok(&["plugins", "inspect", "snapshotter.other"]);
        assert!(inspect.contains(&format!("rustc {version})")), "{inspect}");
        let run = ["run", "--rm", "--plain-http", "--snapshotter", "other", &image, "echo", "hi"];
        assert_eq!(host.ok(&run), "hi\n");
        host.ok(&["plugins", "unload", "snapshotter.other"]);
    }
    host.assert_no_container();
}
