//! Unpacking: what a crash left of an earlier one, what is there already, what is asked for and is not there.

use std::fs;

use capstan_client::schema::Class;
use capstan_client::schema::transfer_capnp::transfer;
use capstan_client::{Client, check};
use capstan_integration::{FakeRegistry, Host, Image, Layer, digest};

/// D57, F-122, F-124: a daemon that is killed while a layer waits for its commit leaves its key; no later unpack meets it,
/// and neither that key nor one that somebody else took for a layer is in the way.
#[test]
fn a_stale_key_does_not_block_an_unpack() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![Layer::new().busybox(), Layer::new().file("f", 0o644, b"x")]);
    let name = registry.offer("app", &image);
    for snapshotter in ["overlay", "native"] {
        let mut host = Host::new();
        let of = ["--snapshotter", snapshotter];
        host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
        let failpoints = host.failpoints();
        fs::create_dir_all(&failpoints).unwrap();
        fs::write(failpoints.join("wish"), "snapshot:filled").unwrap();
        let unpack = ["images", "unpack", of[0], of[1], &name];
        let mut cut = host.command(&unpack).spawn().unwrap();
        host.until("a layer waits for its commit", || failpoints.join("hit").exists());
        host.kill();
        assert!(!cut.wait().unwrap().success());
        fs::remove_file(failpoints.join("hit")).unwrap();
        host.start();

        let chain_ids = image.chain_ids();
        let taken = format!("extract {}", chain_ids[0]);
        host.ok(&["snapshots", of[0], of[1], "prepare", &taken]);
        let top = chain_ids.last().unwrap();
        assert_eq!(host.ok(&unpack).trim(), top);
        let mut want = chain_ids.clone();
        want.push(taken.clone());
        want.sort();
        let listed = || host.ids(&["snapshots", of[0], of[1], "ls"]);
        // What was left goes while the daemon is at work already.
        host.until("what was left is swept", || listed().len() <= want.len());
        assert_eq!(listed(), want, "{snapshotter}");
        let events = || host.ok(&["events", "--since", "0", "/snapshot/"]);
        let before = events();
        assert_eq!(host.ok(&unpack).trim(), top, "what is there is not made again");
        assert_eq!(events(), before);
        let run = ["run", "--rm", of[0], of[1], &name, "cat", "/f"];
        assert_eq!(host.ok(&run), "x");
        host.ok(&["snapshots", of[0], of[1], "rm", &taken]);
        host.assert_no_container();
        assert_eq!(host.ok(&["system", "audit", "--full"]), "");
    }
}

/// F-121, D12: a layer that is not here, and a snapshot that is not, have the class of what is not there.
#[test]
fn diff_missing_blob() {
    let host = Host::new();
    host.ok(&["snapshots", "prepare", "s"]);
    let layer = Layer::new().file("f", 0o644, b"x").into_tar();
    let stored = host.capstan_with_input(&["content", "ingest", "layer"], &layer).stdout;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: transfer::Client = client.open("transfer", "default");
        let apply = async |key: &str, digest: &str, media_type: &str| {
            let mut request = service.apply_request();
            request.get().set_key(key);
            let mut out = request.get().init_layer();
            out.set_media_type(media_type);
            out.set_digest(digest);
            out.set_size(layer.len() as u64);
            let response = client.call(request.send().promise).await?;
            Ok::<_, capstan_client::Error>(check!(response.get()?)?.get_diff_id()?.to_string()?)
        };
        let class = |outcome: Result<String, capstan_client::Error>| outcome.unwrap_err().class();
        let plain = "application/vnd.oci.image.layer.v1.tar";
        let missing = digest(b"nobody has this");
        assert_eq!(class(apply("s", &missing, plain).await), Class::NotFound);
        assert_eq!(class(apply("none", stored.trim(), plain).await), Class::NotFound);
        assert_eq!(class(apply("s", stored.trim(), "text/plain").await), Class::InvalidArgument);
        assert_eq!(class(apply("s", "sha256:12", plain).await), Class::InvalidArgument);
        // None of these is in the way of the right one.
        assert_eq!(apply("s", stored.trim(), plain).await.unwrap(), digest(&layer));
    });
    let written = host.ok(&["snapshots", "diff", "s"]);
    assert!(written.contains("f\0"), "the file is in it");
    host.fails(&["snapshots", "diff", "none"], 3, "NotFound", &["none"]);
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
    assert_eq!(host.ids(&["snapshots", "ls"]), ["s"]);
}

/// F-119, F-126, D55, D58, D59: diffs at once do not meet, and one that fails leaves neither a view nor an ingest.
#[test]
fn diffs_leave_nothing_behind() {
    let host = Host::new();
    let top = |key: &str| {
        let mounts = host.json(&["snapshots", "mounts", key]);
        std::path::PathBuf::from(mounts[0]["source"].as_str().unwrap())
    };
    host.ok(&["snapshots", "prepare", "work"]);
    fs::write(top("work").join("f"), "x").unwrap();
    host.ok(&["snapshots", "commit", "base", "work"]);
    let described: Vec<serde_json::Value> = std::thread::scope(|scope| {
        let diff = || host.json(&["snapshots", "diff", "--descriptor", "base"]);
        let diffs: Vec<_> = (0..8).map(|_| scope.spawn(diff)).collect();
        diffs.into_iter().map(|diff| diff.join().unwrap()).collect()
    });
    for about in &described {
        assert_eq!(about["layer"]["digest"], described[0]["layer"]["digest"], "{described:#?}");
        assert_eq!(about["layer"]["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        assert_eq!(about["diffId"], about["layer"]["digest"], "it is not compressed");
    }
    let layer = described[0]["layer"]["digest"].as_str().unwrap();
    assert_eq!(host.ids(&["content", "ls"]), [layer]);

    host.ok(&["snapshots", "prepare", "bad"]);
    fs::write(top("bad").join(".wh.f"), "no layer can hold this name").unwrap();
    for parent in [&[][..], &["base"]] {
        let diff = [&["snapshots", "diff", "bad"], parent].concat();
        host.fails(&diff, 6, "FailedPrecondition", &["bad", ".wh.f"]);
    }
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
    assert_eq!(host.ids(&["content", "ls"]), [layer]);
    assert_eq!(host.ids(&["snapshots", "ls"]), ["bad", "base"]);
    assert!(host.remains().mounts.is_empty());
}

/// F-086: each change of a snapshot is an event, a view and what failed are none.
#[test]
fn snapshots_tell_what_becomes_of_them() {
    let host = Host::new();
    host.ok(&["snapshots", "prepare", "work"]);
    host.ok(&["snapshots", "commit", "base", "work"]);
    host.ok(&["snapshots", "prepare", "child", "base"]);
    host.ok(&["snapshots", "view", "look", "base"]);
    host.fails(&["snapshots", "prepare", "child", "base"], 4, "AlreadyExists", &["child"]);
    host.fails(&["snapshots", "prepare", "x", "none"], 3, "NotFound", &["none"]);
    host.fails(&["snapshots", "prepare", "x", "child"], 5, "InvalidArgument", &["child"]);
    host.fails(&["snapshots", "commit", "x", "look"], 6, "FailedPrecondition", &["look"]);
    host.fails(&["snapshots", "commit", "x", "base"], 6, "FailedPrecondition", &["base"]);
    host.fails(&["snapshots", "mounts", "base"], 6, "FailedPrecondition", &["base"]);
    host.fails(&["snapshots", "rm", "base"], 6, "FailedPrecondition", &["base"]);
    host.ok(&["snapshots", "rm", "look"]);
    host.ok(&["snapshots", "rm", "child"]);
    host.ok(&["snapshots", "rm", "base"]);
    let told = host.ok(&["--format", "json", "events", "--since", "0", "/snapshot/"]);
    let line = |text: &str| -> String {
        let event: serde_json::Value = serde_json::from_str(text).unwrap();
        let field =
            |name: &str| event["fields"][name].as_str().map(|value| format!(" {name}={value}"));
        let fields: String = ["key", "parent", "name"].into_iter().filter_map(field).collect();
        format!("{}{fields}", event["topic"].as_str().unwrap())
    };
    let lines: Vec<String> = told.lines().map(line).collect();
    assert_eq!(
        lines,
        [
            "/snapshot/prepare key=work parent=",
            "/snapshot/commit key=work name=base",
            "/snapshot/prepare key=child parent=base",
            "/snapshot/remove key=look",
            "/snapshot/remove key=child",
            "/snapshot/remove key=base",
        ]
    );
}
