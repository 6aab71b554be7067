//! Namespaces: made, labelled, removed; who chooses one, and what is refused.

use std::process::Stdio;

use capstan_client::schema::Class;
use capstan_client::schema::namespace_capnp::namespaces;
use capstan_client::schema::snapshot_capnp::snapshotter;
use capstan_client::{Client, check};
use capstan_integration::{FakeRegistry, Host, Image, Layer, digest};

/// `NAME LABELS` of each.
fn table(host: &Host) -> Vec<String> {
    let table = host.ok(&["namespaces", "ls"]);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    table.lines().skip(1).map(words).collect()
}

/// F-065, F-066, F-068, F-069.
#[test]
fn namespaces_are_made_labelled_and_removed() {
    let host = Host::new();
    host.ok(&["namespaces", "create", "ns1", "a=b", "c=d"]);
    host.ok(&["namespaces", "create", "ns2"]);
    assert_eq!(table(&host), ["ns1 a=b,c=d", "ns2"]);
    host.ok(&["namespaces", "label", "ns1", "a=", "e=f"]);
    assert_eq!(table(&host), ["ns1 c=d,e=f", "ns2"]);
    host.fails(&["namespaces", "create", "ns1", "x=y"], 4, "AlreadyExists", &["ns1"]);
    assert_eq!(table(&host)[0], "ns1 c=d,e=f", "what failed changed nothing");
    for bad in ["foo_bar", "foo..bar", "foo.", "a/b", "", "a:-b", &"a".repeat(77)] {
        host.fails(&["namespaces", "create", bad], 5, "InvalidArgument", &["namespace"]);
    }
    // Those after one that fails go, too.
    let output = host.capstan(&["namespaces", "rm", "ns1", "none", "ns2"]);
    assert_eq!((output.code, output.stdout.as_str()), (3, "ns1\nns2\n"), "{}", output.stderr);
    assert_eq!(table(&host), Vec::<String>::new());
    host.ok(&["namespaces", "create", "ns1"]);
    assert_eq!(table(&host), ["ns1"], "it is a new one, without the labels of the old one");
    let events = host.ok(&["-n", "ns1", "events", "--since", "0"]);
    let count = |topic: &str| events.matches(topic).count();
    assert_eq!(
        (count("/namespaces/create"), count("/namespaces/update"), count("/namespaces/delete")),
        (2, 1, 1),
        "{events}"
    );
}

/// D15: what was never made is not there, and a look does not make it.
#[test]
fn an_unknown_namespace_is_not_found() {
    let host = Host::new();
    host.ok(&["namespaces", "create", "known", "a=b"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: namespaces::Client = client.open("namespaces", "");
        let get = async |name: &str| {
            let mut request = service.get_request();
            request.get().set_name(name);
            let response = client.call(request.send().promise).await?;
            let found = check!(response.get()?)?.get_namespace()?.get_name()?.to_string()?;
            Ok::<_, capstan_client::Error>(found)
        };
        assert_eq!(get("known").await.unwrap(), "known");
        for _ in 0..2 {
            assert_eq!(get("unknown").await.unwrap_err().class(), Class::NotFound);
        }
        assert_eq!(get("un_known").await.unwrap_err().class(), Class::InvalidArgument);
    });
    assert_eq!(host.ids(&["namespaces", "ls"]), ["known"]);
}

fn inside<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["-n", "full"], args].concat()
}

/// F-067: whatever is in it keeps it, and is named.
#[test]
fn a_namespace_with_something_in_it_stays() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    let stays = |what: &str| {
        let rm = ["namespaces", "rm", "full"];
        host.fails(&rm, 6, "FailedPrecondition", &["full", "not empty", what]);
        assert!(host.ids(&["namespaces", "ls"]).contains(&"full".to_owned()));
    };
    let goes = || {
        host.ok(&["namespaces", "rm", "full"]);
        assert!(!host.ids(&["namespaces", "ls"]).contains(&"full".to_owned()));
    };
    host.ok(&inside(&["snapshots", "prepare", "s"]));
    stays("snapshotter.overlay");
    host.ok(&inside(&["snapshots", "rm", "s"]));
    goes();
    host.ok(&inside(&["leases", "create", "--id", "l"]));
    stays("leases");
    host.ok(&inside(&["leases", "rm", "l"]));
    goes();
    let blob = host.capstan_with_input(&inside(&["content", "ingest", "c"]), b"x").stdout;
    stays("content");
    host.ok(&inside(&["content", "rm", blob.trim()]));
    goes();
    host.ok(&inside(&["images", "pull", "--plain-http", &image]));
    host.ok(&inside(&["containers", "create", "c", &image, "true"]));
    stays("containers");
    host.ok(&inside(&["containers", "rm", "c"]));
    host.ok(&["gc"]);
    stays("content");
    // Of an image that was pulled nothing but its name is left: that is enough.
    for blob in host.ids(&inside(&["content", "ls"])) {
        host.ok(&inside(&["content", "rm", &blob]));
    }
    for layer in host.ids(&inside(&["snapshots", "ls"])) {
        host.ok(&inside(&["snapshots", "rm", &layer]));
    }
    stays("images");
    host.ok(&inside(&["images", "rm", &image]));
    host.ok(&["gc"]);
    goes();
    host.assert_no_container();
}

/// F-070, F-071, F-073: the flag beats the variable, the variable the default; the name is checked by whatever it is
/// given to.
#[test]
fn who_chooses_the_namespace() {
    let host = Host::new();
    for (namespace, key) in [("default", "d"), ("x", "in-x"), ("y", "in-y")] {
        host.ok(&["-n", namespace, "snapshots", "prepare", key]);
    }
    let list = |variable: Option<&str>, args: &[&str]| {
        let mut command = host.command(&[args, &["snapshots", "ls", "-q"]].concat());
        if let Some(variable) = variable {
            command.env("CAPSTAN_NAMESPACE", variable);
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{variable:?} {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(list(None, &[]), "d");
    assert_eq!(list(Some("x"), &[]), "in-x");
    assert_eq!(list(Some("x"), &["-n", "y"]), "in-y");
    assert_eq!(list(Some("x"), &["--namespace", "default"]), "d");
    for noun in ["containers", "images", "snapshots", "content", "tasks", "leases"] {
        host.fails(&["-n", "", noun, "ls"], 6, "FailedPrecondition", &["needs a namespace"]);
        for bad in ["foo_bar", "foo..bar"] {
            host.fails(&["-n", bad, noun, "ls"], 5, "InvalidArgument", &["namespace"]);
        }
    }
}

/// F-073, D95: a capability is of the namespace that it was opened in; none is opened without one.
#[test]
fn a_capability_is_of_one_namespace() {
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let open = |namespace: &str| client.open::<snapshotter::Client>("snapshotter", namespace);
        let prepare = async |service: &snapshotter::Client, key: &str| {
            let mut request = service.prepare_request();
            request.get().set_key(key);
            let response = client.call(request.send().promise).await?;
            check!(response.get()?).map(drop)
        };
        let (a, b, none) = (open("a"), open("b"), open(""));
        prepare(&a, "one").await.unwrap();
        prepare(&b, "one").await.unwrap();
        assert_eq!(prepare(&a, "one").await.unwrap_err().class(), Class::AlreadyExists);
        assert_eq!(prepare(&none, "one").await.unwrap_err().class(), Class::FailedPrecondition);
        prepare(&a, "two").await.unwrap();
    });
    let keys = |namespace: &str| host.ids(&["-n", namespace, "snapshots", "ls"]);
    assert_eq!((keys("a"), keys("b")), (vec!["one".into(), "two".into()], vec!["one".into()]));
    assert_eq!(keys("default"), Vec::<String>::new());
}

/// F-135: ids of containers have the rule of namespaces.
#[test]
fn ids_that_are_none_make_nothing() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &image]);
    let words = "letters and digits";
    let long = "a".repeat(77);
    for (bad, why) in ["foo..bar", "foo_bar", "-foo", "foo-", "a/b", "..", "a:-b"]
        .map(|bad| (bad, words))
        .into_iter()
        .chain([(long.as_str(), "at most 76")])
    {
        let create = ["containers", "create", "--", bad, &image, "true"];
        host.fails(&create, 5, "InvalidArgument", &["container id", why]);
        let name = format!("--name={bad}");
        let run = ["run", "--rm", &name, &image, "true"];
        host.fails(&run, 125, "InvalidArgument", &["container id", why]);
    }
    let longest = &long[..76];
    host.ok(&["containers", "create", longest, &image, "true"]);
    assert_eq!(host.ids(&["containers", "ls"]), [longest]);
    host.ok(&["containers", "rm", longest]);
    host.assert_no_container();
}

/// An ingest has no record: of a namespace that is not there, or not any more, nobody asked for its ingests, and their bytes
/// stayed for ever.
#[test]
fn ingests_of_no_namespace_are_collected() {
    let host = Host::with_config("[plugins.\"content.local\"]\nkeep_ingests_seconds = 1\n");
    let ingests = || std::fs::read_dir(host.root().join("content.local/ingest")).unwrap().count();
    let bytes = vec![1; 3 << 20];
    let mut writer = host.command(&["-n", "never", "content", "ingest", "big"]);
    let mut writer = writer.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(writer.stdin.as_mut().unwrap(), &bytes).unwrap();
    host.until("it is begun", || ingests() == 1);
    assert_eq!(host.ids(&["namespaces", "ls"]), Vec::<String>::new());
    // While somebody writes it, it is not garbage, however old.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    host.ok(&["gc"]);
    assert_eq!(ingests(), 1);
    writer.kill().unwrap();
    writer.wait().unwrap();
    // One of a namespace that is there is that one's, and a fresh one can be resumed.
    host.ok(&["namespaces", "create", "there"]);
    let told = |args: &[&str]| host.ok(args).matches("ingest/big").count();
    host.until("nobody writes it any more", || told(&["gc", "--dry-run"]) == 1);
    assert_eq!(ingests(), 1, "a dry run does nothing");
    assert_eq!(told(&["gc"]), 1);
    assert_eq!(ingests(), 0);
    assert_eq!(told(&["gc"]), 0);
    assert_eq!(host.ok(&["system", "audit", "--full"]), "");
    // The name is free.
    let again = host.capstan_with_input(&["-n", "never", "content", "ingest", "big"], &bytes);
    assert_eq!(again.stdout.trim(), digest(&bytes), "{}", again.stderr);
}
