//! Filters of lists, labels, tags, and the check of images.

use std::process::Stdio;

use capstan_integration::{FakeRegistry, Host, Image, Layer};

#[test]
fn list_filters() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &image]);
    for number in 0..300 {
        host.ok(&["images", "tag", &image, &format!("localhost/t:{number:03}")]);
    }
    for (id, label) in [("web-1", "env=prod"), ("web-2", "env=test"), ("db", "env=prod")] {
        host.ok(&["containers", "create", "--label", label, id, &image, "true"]);
    }
    host.ok(&["run", "-d", "--name", "task", &image, "sleep", "1000"]);
    host.ok(&["namespaces", "create", "n1", "team=a"]);
    host.ok(&["namespaces", "create", "n2", "team=b"]);
    host.ok(&["images", "label", "localhost/t:007", "kind=spy", "a.b/c=x y"]);

    let check = |noun: &str, filters: &[&str], want: &[&str]| {
        let mut args = vec![noun, "ls"];
        args.extend(filters);
        assert_eq!(host.ids(&args), want, "{args:?}");
        let rows = host.ok(&args).lines().count() - 1;
        assert_eq!(rows, want.len(), "{args:?}");
    };
    check("containers", &["labels.env==prod"], &["db", "web-1"]);
    check("containers", &["labels.env==prod,id~=^web"], &["web-1"]);
    check("containers", &["labels.env!=prod"], &["task", "web-2"]);
    check("containers", &["id==db", "id==web-2"], &["db", "web-2"]);
    check("containers", &["rootfs"], &[]);
    check("containers", &["labels.nothing"], &[]);
    assert_eq!(host.ids(&["containers", "ls", "runtime.name,image"]).len(), 4);
    check("images", &["labels.kind==spy"], &["localhost/t:007"]);
    check("images", &["labels.\"a.b/c\"==\"x y\",name~=t"], &["localhost/t:007"]);
    // More than a page is looked at for one match at the end.
    check("images", &["name==localhost/t:299"], &["localhost/t:299"]);
    assert_eq!(host.ids(&["images", "ls", "name~=^localhost/t:"]).len(), 300);
    assert_eq!(host.ids(&["images", "ls", "name~=[02468]$"]).len(), 150);
    check("namespaces", &["labels.team==b"], &["n2"]);
    check("namespaces", &["name!=default,labels.team"], &["n1", "n2"]);
    check("tasks", &["status==running"], &["task"]);
    check("tasks", &["status==stopped"], &[]);
    let digests = host.ids(&["content", "ls"]);
    check("content", &[&format!("digest==\"{}\"", digests[0])], &[&digests[0]]);
    let committed = host.ids(&["snapshots", "ls", "kind==committed"]);
    assert!(!committed.is_empty());
    let active = host.ids(&["snapshots", "ls", "kind==active,parent"]);
    assert_eq!(active, ["db", "task", "web-1", "web-2"]);
    for noun in ["containers", "images", "namespaces", "tasks", "content", "snapshots"] {
        let place = "filters: parse error: [a >|=|< b]: unsupported operator \"=\"";
        host.fails(&[noun, "ls", "a=b"], 5, "InvalidArgument", &[place]);
        host.fails(&[noun, "ls", "a~=("], 5, "InvalidArgument", &["bad regular expression"]);
    }
    for id in ["web-1", "web-2", "db"] {
        host.ok(&["containers", "rm", id]);
    }
    host.remove("task");
    host.assert_no_container();
}

#[test]
fn ingests_are_filtered_by_name() {
    let host = Host::new();
    let names = ["layer-1", "layer-2", "manifest"];
    // Each waits for more.
    let mut writers = names.map(|name| {
        host.command(&["content", "ingest", name]).stdin(Stdio::piped()).spawn().unwrap()
    });
    host.until("all are begun", || host.ids(&["content", "active"]).len() == names.len());
    let active = |filters: &[&str]| host.ids(&[&["content", "active"], filters].concat());
    assert_eq!(active(&[]), ["layer-1", "layer-2", "manifest"]);
    assert_eq!(active(&["ref~=^lay"]), ["layer-1", "layer-2"]);
    assert_eq!(active(&["ref==manifest", "ref==layer-2"]), ["layer-2", "manifest"]);
    assert_eq!(active(&["ref~=e,ref!=layer-1"]), ["layer-2", "manifest"]);
    assert_eq!(active(&["ref==layer"]), Vec::<String>::new());
    let json = host.json(&["content", "active", "ref~=2$"]);
    assert_eq!((json[0]["ref"].as_str(), json[1].as_null()), (Some("layer-2"), Some(())));
    let place = "filters: parse error: [a >|=|< b]: unsupported operator \"=\"";
    host.fails(&["content", "active", "a=b"], 5, "InvalidArgument", &[place]);
    for writer in &mut writers {
        drop(writer.stdin.take());
        assert!(writer.wait().unwrap().success());
    }
    assert_eq!(active(&[]), Vec::<String>::new());
}

/// A daemon that has nothing says so, and what is not there can be neither changed nor removed, nor is there an event of it
/// (INVENTORY.md 9: D06, D07, D09, D15 to D17, D37).
#[test]
fn what_is_not_there_is_not_found_and_nothing_comes_of_it() {
    let host = Host::new();
    let missing = format!("sha256:{}", "0".repeat(64));
    // The first of all calls: nothing was ever written.
    host.fails(&["namespaces", "rm", "nothing"], 3, "NotFound", &["nothing"]);
    host.fails(&["namespaces", "label", "nothing", "a=b"], 3, "NotFound", &["nothing"]);
    let begun = host.ok(&["events", "--since", "0"]);
    for args in [
        ["content", "rm", &missing],
        ["content", "abort", "nothing"],
        ["images", "rm", "nothing"],
        ["snapshots", "rm", "nothing"],
        ["containers", "rm", "nothing"],
        ["tasks", "delete", "nothing"],
        ["leases", "rm", "nothing"],
    ] {
        let other = [&["--namespace", "never"], &args[..]].concat();
        for args in [&args[..], &other] {
            // The class is said once (F-231).
            let said = host.fails(args, 3, "NotFound", &[args[args.len() - 1]]).stderr;
            let said = said.to_lowercase().replace(' ', "");
            assert_eq!(said.matches("notfound").count(), 1, "{args:?}: {said}");
        }
    }
    for noun in ["content", "images", "snapshots", "containers", "tasks", "leases"] {
        assert_eq!(host.ids(&[noun, "ls"]), Vec::<String>::new(), "{noun}");
        let never = host.ids(&["--namespace", "never", noun, "ls"]);
        assert_eq!(never, Vec::<String>::new(), "{noun} of a namespace that is not there");
    }
    assert!(
        !host.ids(&["namespaces", "ls"]).iter().any(|name| name == "never" || name == "nothing")
    );
    assert_eq!(host.ok(&["events", "--since", "0"]), begun);
}

#[test]
fn images_are_tagged_labelled_and_checked() {
    let registry = FakeRegistry::start();
    let image = Image::new(vec![Layer::new().busybox(), Layer::new().file("f", 0o644, b"x")]);
    let reference = registry.offer("app", &image);
    let mut host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    host.ok(&["images", "tag", &reference, "mine"]);
    // A short name is completed.
    let name = &*host.ids(&["images", "ls", "name~=/mine:latest$"])[0];
    let target = |name: &str| host.json(&["images", "inspect", name])["image"]["target"].clone();
    assert_eq!(target(name), target(&reference));
    host.fails(&["images", "tag", "nothing", "x"], 3, "NotFound", &[]);
    host.fails(&["images", "label", "nothing", "a=b"], 3, "NotFound", &[]);

    host.ok(&["images", "label", "mine", "a=1", "b=2"]);
    host.ok(&["images", "label", "mine", "a=", "c=3"]);
    host.stop();
    host.start();
    let labels = |host: &Host| host.json(&["images", "inspect", "mine"])["image"]["labels"].clone();
    assert_eq!(labels(&host), serde_json::json!({ "b": "2", "c": "3" }));
    // A pull of the same name does not lose them.
    host.ok(&["images", "label", &reference, "kept=yes"]);
    host.ok(&["images", "pull", "--plain-http", &reference]);
    let image_of = host.json(&["images", "inspect", &reference]);
    assert_eq!(image_of["image"]["labels"]["kept"], "yes");
    let events = host.ok(&["events", "--since", "0"]);
    assert!(events.contains("/images/update"), "{events}");

    let table = host.ok(&["images", "check"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert_eq!(table.matches(" complete ").count(), 2, "{table}");
    // A blob whose record goes is missed, by each name that needs it.
    let layer = &image.layers[1];
    host.ok(&["content", "rm", layer]);
    let output = host.capstan(&["images", "check", "mine"]);
    assert_eq!(output.code, 6, "{}", output.stderr);
    assert!(output.stdout.contains("incomplete") && output.stdout.contains(&**layer));
    assert!(output.stderr.contains(name), "{}", output.stderr);
    host.fails(&["images", "check", "nothing"], 3, "NotFound", &[]);
    host.ok(&["images", "pull", "--plain-http", &reference]);
    host.ok(&["images", "check", "mine"]);
}

/// Changes of one record at the same time all happen.
#[test]
fn labels_set_at_once_are_all_kept() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &image]);
    host.ok(&["containers", "create", "--label", "first=1", "c", &image, "true"]);
    let before = host.json(&["containers", "inspect", "c"]);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (host, image) = (&host, &image);
            scope.spawn(move || {
                let label = format!("l{number}={number}");
                host.ok(&["containers", "label", "c", &label]);
                host.ok(&["images", "label", image, &label]);
            });
        }
    });
    let after = host.json(&["containers", "inspect", "c"]);
    assert_eq!(after["labels"].as_object().unwrap().len(), 17, "{}", after["labels"]);
    let image = host.json(&["images", "inspect", &image]);
    assert_eq!(image["image"]["labels"].as_object().unwrap().len(), 16);
    for field in ["createdAtUnixNs", "spec", "image", "runtime", "snapshotKey"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert!(after["updatedAtUnixNs"].as_i64() > before["updatedAtUnixNs"].as_i64());
    host.fails(&["containers", "label", "nothing", "a=b"], 3, "NotFound", &[]);
    host.ok(&["containers", "rm", "c"]);
    host.assert_no_container();
}
