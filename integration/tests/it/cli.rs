//! The contract of the command line: columns, JSON, quiet lists, exit codes.

use capstan_integration::{DockerRegistry, Host};

#[test]
fn tables_have_the_columns_of_the_contract() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["run", "-d", "--plain-http", "--name", "c", &image, "sleep", "1000"]);
    let cases = [
        (&["plugins", "ls"][..], &["ID", "STATE", "SOURCE", "VERSION", "RESTARTS"][..]),
        (&["images", "ls"], &["REF", "DIGEST", "SIZE", "PLATFORMS"]),
        (&["content", "ls"], &["DIGEST", "SIZE", "AGE", "LABELS"]),
        (&["snapshots", "ls"], &["KEY", "PARENT", "KIND"]),
        (&["containers", "ls"], &["ID", "IMAGE", "RUNTIME"]),
        (&["tasks", "ls"], &["ID", "PID", "STATUS"]),
        (&["tasks", "ps", "c"], &["PID", "EXEC"]),
        (&["namespaces", "ls"], &["NAME", "LABELS"]),
        (&["events", "--since", "0"], &["CURSOR", "TIME", "NAMESPACE", "TOPIC", "EVENT"]),
    ];
    for (args, columns) in cases {
        let text = host.ok(args);
        let header: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(&header[..columns.len()], columns, "{args:?}");
        assert!(text.lines().count() > 1, "{args:?}: {text}");
        if args[0] == "events" {
            continue;
        }
        let list = host.json(args);
        let list = list.as_array().unwrap_or_else(|| panic!("{args:?}: no array"));
        assert_eq!(list.len(), text.lines().count() - 1, "{args:?}");
        if args[1] == "ls" {
            let ids = host.ids(args);
            let firsts: Vec<&str> = text.lines().skip(1).map(first).collect();
            assert_eq!(ids, firsts, "{args:?}");
        }
    }
    for args in [
        &["version"][..],
        &["info"],
        &["health"],
        &["images", "inspect", &image],
        &["containers", "inspect", "c"],
        &["containers", "spec", "c"],
        &["plugins", "inspect", "content.local"],
    ] {
        assert!(host.json(args).is_object(), "{args:?}");
        assert!(!host.ok(args).is_empty(), "{args:?}");
    }
    let spec: serde_json::Value = serde_json::from_str(&host.ok(&["oci", "spec", &image])).unwrap();
    assert_eq!(spec["process"]["args"][0], "/bin/sh", "{spec}");
    host.remove("c");
    // An empty list is a header, an empty array, and no lines.
    assert_eq!(host.ok(&["tasks", "ls"]).lines().count(), 1);
    assert_eq!(host.json(&["tasks", "ls"]), serde_json::json!([]));
    assert_eq!(host.ok(&["tasks", "ls", "-q"]), "");
    host.assert_no_container();
}

fn first(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

#[test]
fn events_tell_a_life_in_order() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["run", "--rm", "--plain-http", "--name", "c", &image, "true"]);
    let text = host.ok(&["events", "--since", "0"]);
    let topics: Vec<&str> =
        text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3)).collect();
    let mut at = 0;
    for topic in [
        "/images/create",
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/containers/delete",
    ] {
        let found = topics[at..].iter().position(|seen| *seen == topic);
        at += found.unwrap_or_else(|| panic!("no {topic} behind {at} in {topics:#?}")) + 1;
    }
    // From a cursor on there is only what came later.
    let cursor = text.lines().last().map(first).unwrap();
    assert_eq!(host.ok(&["events", "--since", cursor]).lines().count(), 1);
    let filtered = host.ok(&["events", "--since", "0", "/tasks/"]);
    assert!(filtered.lines().skip(1).all(|line| line.contains("/tasks/")), "{filtered}");
}

#[test]
fn usage_errors_are_code_2_and_help_is_fine() {
    let host = Host::without_daemon(64);
    for args in
        [&["nonsense"][..], &["images"], &["images", "pull"], &["run", "--rm", "--pull", "x"], &[]]
    {
        assert_eq!(host.capstan(args).code, 2, "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["images", "pull", "--help"], &["--version"]]
    {
        let output = host.capstan(args);
        assert_eq!(output.code, 0, "{args:?}");
        assert!(!output.stdout.is_empty());
    }
    let timeout = host.capstan(&["--timeout", "never", "info"]);
    assert_eq!(timeout.code, 2, "{}", timeout.stderr);
}

#[test]
fn content_is_read_byte_by_byte() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let manifest = host.json(&["images", "ls"])[0]["target"]["digest"].as_str().unwrap().to_owned();
    let text = host.ok(&["content", "get", &manifest]);
    assert_eq!(capstan_integration::digest(text.as_bytes()), manifest);
    let none = format!("sha256:{}", "0".repeat(64));
    host.fails(&["content", "get", &none], 3, "NotFound", &[&none]);
    host.fails(&["content", "get", "sha256:12"], 5, "InvalidArgument", &["sha256:12"]);
}

/// `capstan events | head`, and what is like it: whoever reads our output may leave.
#[test]
fn a_reader_that_leaves_is_no_error() {
    let host = Host::new();
    let bytes = vec![b'x'; 4 << 20];
    let blob = host.capstan_with_input(&["content", "ingest", "big"], &bytes).stdout;
    for args in [
        &["events", "--follow", "--since", "0"][..],
        &["--format", "json", "events", "--follow", "--since", "0"],
        &["content", "get", blob.trim()],
        &["plugins", "ls"],
        &["--format", "json", "plugins", "ls"],
        &["version"],
        &["--help"],
    ] {
        let mut child = host.command(args).spawn().unwrap();
        drop(child.stdout.take());
        // Those who follow see it when there is something to say.
        host.ok(&["namespaces", "create", "some"]);
        host.ok(&["namespaces", "rm", "some"]);
        host.ok(&["leases", "create", "--id", "l"]);
        host.ok(&["leases", "rm", "l"]);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{args:?}");
    }
}
