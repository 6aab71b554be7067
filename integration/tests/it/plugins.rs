//! Plugins: a panic is contained, a deployment chooses, a failure is skipped.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use capstan_client::schema::health_capnp::health;
use capstan_client::{Class, Client};
use capstan_integration::Host;

/// `(STATE, RESTARTS)` of a plugin in `plugins ls`.
fn state(host: &Host, id: &str) -> (String, u32) {
    let list = host.ok(&["plugins", "ls"]);
    let mut lines = list.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["ID", "STATE", "SOURCE", "VERSION", "RESTARTS"]);
    let row = lines.find(|line| line.split_whitespace().next() == Some(id));
    let row = row.unwrap_or_else(|| panic!("no plugin {id} in\n{list}"));
    let words: Vec<&str> = row.split_whitespace().collect();
    (words[1].to_owned(), words[4].parse().unwrap())
}

/// Asks the test plugin for its health; `panic` makes its actor panic in the call.
async fn poke(client: &Client, what: &str) -> Result<bool, capstan_client::Error> {
    let probe: health::Client = client.open("probe.panic", "");
    let mut request = probe.check_request();
    request.get().set_plugin(what);
    let response = client.call(request.send().promise).await?;
    Ok(capstan_client::check!(response.get()?)?.get_serving())
}

#[test]
fn a_panic_costs_one_call_and_the_plugin_comes_back() {
    let host = Host::new();
    assert_eq!(state(&host, "probe.panic"), ("running".into(), 0));
    let is_over = AtomicBool::new(false);
    let served = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // All the while others are served.
        let others = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                host.ok(&["images", "ls"]);
                host.ok(&["namespaces", "ls"]);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let client = Client::connect(&host.address()).await.unwrap();
            for restarts in 1..=3 {
                assert_eq!(poke(&client, "").await, Ok(true));
                let error = poke(&client, "panic").await.unwrap_err();
                assert_eq!(error.class(), Class::Unavailable, "{error}");
                // On the same connection, with a capability opened anew.
                let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
                while poke(&client, "").await != Ok(true) {
                    assert!(std::time::Instant::now() < deadline, "it did not come back");
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                assert_eq!(state(&host, "probe.panic"), ("running".into(), restarts));
            }
        });
        is_over.store(true, Ordering::Relaxed);
        others.join().unwrap();
    });
    assert!(served.load(Ordering::Relaxed) > 0);
    let others = host.json(&["plugins", "ls"]);
    for plugin in others.as_array().unwrap() {
        let is_probe = plugin["id"] == "probe.panic";
        assert_eq!(plugin["restarts"], if is_probe { 3 } else { 0 }, "{plugin}");
    }
    let inspect = host.ok(&["plugins", "inspect", "probe.panic"]);
    assert!(inspect.contains("as it was told to"), "the panic's words are kept: {inspect}");
}

#[test]
fn a_deployment_chooses_its_plugins() {
    let host = Host::with_config("[select]\ndeny = [\"snapshotter.native\"]\n");
    assert_eq!(state(&host, "snapshotter.native").0, "disabled");
    assert_eq!(state(&host, "snapshotter.overlay").0, "running");
    let args = ["snapshots", "--snapshotter", "native", "ls"];
    host.fails(&args, 7, "Unavailable", &["snapshotter.native"]);
    drop(host);

    // Those that need what is not there are skipped, with the reason; the rest serves.
    let host = Host::with_config("[select]\ndeny = [\"content\"]\n");
    for id in ["images.local", "transfer.local", "containers.local", "tasks.local"] {
        assert_eq!(state(&host, id).0, "skipped", "{id}");
    }
    assert_eq!(state(&host, "namespaces.local").0, "running");
    host.ok(&["namespaces", "ls"]);
    host.fails(&["images", "ls"], 7, "Unavailable", &["images.local", "content"]);
    host.fails(&["health"], 7, "Unavailable", &["images.local"]);
}

#[test]
fn a_plugin_that_fails_to_start_is_skipped_and_the_daemon_boots() {
    let mut host = Host::without_daemon(512);
    // A directory where the database should be a file: no damage, which would be mended.
    let place = host.root().join("metadata.redb");
    std::fs::create_dir_all(place.join("metadata.redb")).unwrap();
    host.start();
    let list = host.json(&["plugins", "ls"]);
    let metadata = list.as_array().unwrap().iter().find(|plugin| plugin["id"] == "metadata.redb");
    let metadata = metadata.unwrap();
    assert_eq!(metadata["state"], "failed", "{metadata}");
    assert_eq!(state(&host, "content.local").0, "skipped");
    assert_eq!(state(&host, "runtime.linux").0, "skipped");
    host.ok(&["version"]);
    let error = host.fails(&["images", "ls"], 7, "Unavailable", &["images.local"]);
    assert!(error.stderr.contains("metadata"), "{}", error.stderr);
}

#[test]
fn a_configuration_that_is_wrong_stops_the_boot_with_the_place() {
    let mut host = Host::without_daemon(64);
    let check = |host: &mut Host, more: &str, parts: &[&str]| {
        host.clear_log();
        host.configure(more);
        let log = host.try_start().expect_err("it must not start");
        for part in parts {
            assert!(log.contains(part), "{more}: no {part:?} in {log}");
        }
    };
    check(&mut host, "nonsense = 1", &["InvalidArgument", "nonsense", "line"]);
    let more = "[plugins.\"content.local\"]\nnonsense = 1";
    check(&mut host, more, &["InvalidArgument", "content.local", "nonsense"]);
    let more = "[plugins.\"nobody.here\"]\nkey = 1";
    check(&mut host, more, &["InvalidArgument", "nobody.here"]);
    check(&mut host, "not toml at all", &["InvalidArgument", "line"]);
    host.configure("");
    host.start();
}

/// A changed configuration is taken by a running daemon, all of it or nothing.
#[test]
fn a_reload_does_what_has_changed_or_nothing() {
    let section =
        |concurrency: &str| format!("[plugins.\"transfer.local\"]\nconcurrency = {concurrency}\n");
    let host = Host::with_config(&section("3"));
    let config = |host: &Host| host.ok(&["plugins", "config", "transfer.local"]);
    let generation = |host: &Host, id: &str| {
        host.json(&["plugins", "inspect", id])["generation"].as_u64().unwrap()
    };
    let others = || {
        let list = host.json(&["plugins", "ls"]);
        let others = list.as_array().unwrap().iter().filter(|it| it["id"] != "transfer.local");
        others.map(|it| it["generation"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let before = others();

    host.configure(&section("5"));
    assert_eq!(host.ok(&["plugins", "reload"]), "transfer.local\n");
    assert!(config(&host).contains("concurrency = 5"), "{}", config(&host));
    assert_eq!((generation(&host, "transfer.local"), others()), (2, before.clone()));
    assert_eq!(host.ok(&["plugins", "reload"]), "", "nothing has changed since");

    let as_before = |more: &str, code: i32, class: &str, parts: &[&str]| {
        host.configure(more);
        let mut all = vec!["all is as before"];
        all.extend(parts);
        host.fails(&["plugins", "reload"], code, class, &all);
        assert!(config(&host).contains("concurrency = 5"));
        assert_eq!((generation(&host, "transfer.local"), others()), (2, before.clone()), "{more}");
    };
    let nonsense = format!("{}nonsense = 1\n", section("6"));
    as_before(&nonsense, 5, "InvalidArgument", &["transfer.local", "nonsense"]);
    as_before("[plugins.\"no.body\"]\nx = 1\n", 5, "InvalidArgument", &["no.body"]);
    as_before("no toml", 5, "InvalidArgument", &["line"]);
    let missing = "[load.\"metrics.none\"]\nlibrary = \"/nowhere/none.so\"\n";
    as_before(missing, 3, "NotFound", &["metrics.none", "/nowhere"]);

    // Denied, it ends, and what requires it says so; admitted again, it has the section of now.
    host.configure("[select]\ndeny = [\"transfer.local\"]\n");
    assert_eq!(host.ok(&["plugins", "reload"]), "transfer.local\n");
    assert_eq!(state(&host, "transfer.local").0, "disabled");
    assert_eq!(state(&host, "containers.local").0, "degraded");
    host.fails(&["plugins", "restart", "transfer.local"], 6, "FailedPrecondition", &["disabled"]);
    host.configure(&section("7"));
    assert_eq!(host.ok(&["plugins", "reload"]), "transfer.local\n");
    assert_eq!(state(&host, "transfer.local").0, "running");
    assert_eq!(state(&host, "containers.local").0, "running");
    assert!(config(&host).contains("concurrency = 7"));
}

/// Who requires what, for people and for graphviz.
#[test]
fn the_graph_shows_every_requirement() {
    let host = Host::new();
    let tree = host.ok(&["plugins", "graph"]);
    assert!(tree.contains("content.local (running)\n`- metadata: metadata.redb\n"), "{tree}");
    let dot = host.ok(&["plugins", "graph", "--dot"]);
    assert!(dot.starts_with("digraph plugins {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("\"content.local\" -> \"metadata.redb\";"), "{dot}");
}
