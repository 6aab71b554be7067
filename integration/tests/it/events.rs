//! Events: all that happens is told once, in order, to whom it concerns; who does not read holds nobody up.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::rc::Rc;

use capstan_client::schema::event_capnp::{events, subscription};
use capstan_client::schema::task_capnp::tasks;
use capstan_client::{Client, Error, check};
use capstan_integration::process::open_descriptors;
use capstan_integration::{Disk, FakeRegistry, Host, Image, Layer, make_rootfs};
use serde_json::Value;

/// What `events` tells from the beginning on, with these arguments more.
fn told(host: &Host, more: &[&str]) -> Vec<Value> {
    let text = host.ok(&[&["--format", "json", "events", "--since", "0"], more].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same in a namespace.
fn told_in(host: &Host, namespace: &str, more: &[&str]) -> Vec<Value> {
    let args = ["-n", namespace, "--format", "json", "events", "--since", "0"];
    let text = host.ok(&[&args, more].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn topic(event: &Value) -> &str {
    event["topic"].as_str().unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// F-221: each step of a run, with its time and what it is about.
#[test]
fn a_run_is_told_step_by_step() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &image]);
    let cursor = told(&host, &[]).last().unwrap()["cursor"].to_string();
    let clock = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        i64::try_from(since.unwrap().as_nanos()).unwrap()
    };
    let begun = clock();
    assert_eq!(host.capstan(&["run", "--rm", "--name", "c", &image, "sh", "-c", "exit 3"]).code, 3);
    let ended = clock();
    let text = host.ok(&["--format", "json", "events", "--since", &cursor]);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let topics: Vec<&str> = events.iter().map(topic).collect();
    assert_eq!(
        topics,
        [
            "/snapshot/prepare",
            "/containers/create",
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete",
            "/containers/delete",
            "/snapshot/remove",
        ],
        "{text}"
    );
    let number = |event: &Value, key: &str| event[key].as_i64().unwrap();
    for pair in events.windows(2) {
        assert_eq!(number(&pair[0], "cursor") + 1, number(&pair[1], "cursor"));
        assert!(number(&pair[0], "timeUnixNs") <= number(&pair[1], "timeUnixNs"), "{text}");
    }
    for event in &events {
        assert_eq!(event["namespace"], "default", "{event}");
        assert!((begun..=ended).contains(&number(event, "timeUnixNs")), "{event}");
        let key = if topic(event).starts_with("/snapshot/") { "key" } else { "id" };
        assert!(event["fields"][key].as_str().unwrap().contains('c'), "{event}");
    }
    let [_, container, create, start, exit, delete, ..] = &events[..] else { unreachable!() };
    assert_eq!(container["fields"]["image"], image);
    assert_eq!(create["fields"]["pid"], start["fields"]["pid"]);
    assert_eq!(exit["fields"]["exitStatus"], "3", "{exit}");
    assert_eq!(delete["fields"]["exitStatus"], "3", "{delete}");
}

/// F-222: every topic that there is, but for three that need a machine in trouble or CRIU.
#[test]
fn every_topic_is_told() {
    let registry = FakeRegistry::start();
    let image = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    for args in [
        &["namespaces", "create", "other"][..],
        &["namespaces", "label", "other", "a=b"],
        &["namespaces", "rm", "other"],
        &["images", "pull", "--plain-http", &image],
        &["images", "label", &image, "a=b"],
        &["containers", "create", "c", &image, "sleep", "1000"],
        &["containers", "label", "c", "a=b"],
        &["tasks", "start", "-d", "c"],
        &["tasks", "update", "--pids-limit", "100", "c"],
        &["tasks", "pause", "c"],
        &["tasks", "resume", "c"],
        &["tasks", "exec", "c", "true"],
        &["tasks", "kill", "-s", "KILL", "c"],
    ] {
        host.ok(args);
    }
    host.capstan(&["tasks", "wait", "c"]);
    host.ok(&["tasks", "delete", "c"]);
    host.ok(&["containers", "rm", "c"]);
    host.ok(&["leases", "create", "--id", "l"]);
    host.ok(&["leases", "rm", "l"]);
    host.ok(&["snapshots", "prepare", "s"]);
    host.ok(&["snapshots", "commit", "base", "s"]);
    host.ok(&["snapshots", "rm", "base"]);
    let blob = host.capstan_with_input(&["content", "ingest", "b"], b"x").stdout;
    host.ok(&["content", "label", blob.trim(), "a=b"]);
    host.ok(&["content", "rm", blob.trim()]);
    host.ok(&["images", "rm", &image]);
    host.ok(&["gc"]);
    let events = told(&host, &["--all-namespaces"]);
    let topics: BTreeSet<&str> = events.iter().map(topic).collect();
    let want = [
        "/containers/create",
        "/containers/delete",
        "/containers/update",
        "/content/create",
        "/content/delete",
        "/content/update",
        "/gc/collect",
        "/images/create",
        "/images/delete",
        "/images/update",
        "/leases/create",
        "/leases/delete",
        "/namespaces/create",
        "/namespaces/delete",
        "/namespaces/update",
        "/snapshot/commit",
        "/snapshot/prepare",
        "/snapshot/remove",
        "/tasks/create",
        "/tasks/delete",
        "/tasks/exec-added",
        "/tasks/exec-exit",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/start",
        "/tasks/update",
    ];
    assert_eq!(topics, BTreeSet::from(want));
    host.assert_no_container();
}

/// F-223: who listens in a namespace hears of that one; filters are beginnings of topics.
#[test]
fn a_namespace_hears_of_itself() {
    let host = Host::new();
    let listen = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--format", "json", "events", "--follow", "--since", "0"]);
        host.command(&all).spawn().unwrap()
    };
    let listeners = [listen(&["-n", "other"]), listen(&["-n", "mine"])];
    for (namespace, key) in [("mine", "a"), ("mine", "b"), ("third", "c")] {
        host.ok(&["-n", namespace, "snapshots", "prepare", key]);
    }
    host.ok(&["-n", "mine", "leases", "create", "--id", "l"]);
    let keys = |namespace: &str, more: &[&str]| {
        let events = told_in(&host, namespace, more);
        let name = |event: &Value| {
            let fields = &event["fields"];
            fields["key"].as_str().or(fields["id"].as_str()).map(str::to_owned)
        };
        events.iter().filter_map(name).collect::<Vec<_>>()
    };
    assert_eq!(keys("mine", &[]), ["a", "b", "l"]);
    assert_eq!(keys("third", &[]), ["c"]);
    assert_eq!(keys("other", &[]), Vec::<String>::new());
    assert_eq!(keys("other", &["--all-namespaces"]), ["a", "b", "c", "l"]);
    assert_eq!(keys("mine", &["/leases/"]), ["l"]);
    assert_eq!(keys("mine", &["/leases/", "/snapshot/"]), ["a", "b", "l"]);
    assert_eq!(keys("mine", &["/none/"]), Vec::<String>::new());
    // And those who listened meanwhile heard the same.
    let [other, mut mine] = listeners;
    let (mut heard, mut lines) = (String::new(), BufReader::new(mine.stdout.take().unwrap()));
    while !heard.contains("/leases/create") {
        assert_ne!(lines.read_line(&mut heard).unwrap(), 0, "{heard}");
    }
    // What they must not hear would be there by now.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let [other, _] = [other, mine].map(|mut listener| {
        listener.kill().unwrap();
        String::from_utf8(listener.wait_with_output().unwrap().stdout).unwrap()
    });
    lines.read_to_string(&mut heard).unwrap();
    let mine = heard;
    assert_eq!(other, "");
    assert_eq!(mine.matches("/snapshot/prepare").count(), 2, "{mine}");
    assert_eq!(mine.matches("/leases/create").count(), 1, "{mine}");
    assert!(!mine.contains("third"), "{mine}");
}

async fn subscribe(client: &Client) -> Result<subscription::Client, Error> {
    let service: events::Client = client.open("events", "default");
    let mut request = service.subscribe_request();
    request.get().set_from_now(true);
    request.get().init_filters(1).set(0, "/test/");
    let response = client.call(request.send().promise).await?;
    Ok(check!(response.get()?)?.get_subscription()?)
}

async fn publish(client: &Client, number: usize) -> Result<(), Error> {
    let service: events::Client = client.open("events", "default");
    let mut request = service.publish_request();
    request.get().set_topic("/test/thing");
    let mut field = request.get().init_fields(1).get(0);
    field.set_key("number");
    field.set_value(number.to_string());
    let response = client.call(request.send().promise).await?;
    check!(response.get()?).map(drop)
}

/// Reads so many numbers.
async fn read(
    client: &Client,
    subscription: &subscription::Client,
    count: usize,
) -> Result<Vec<usize>, Error> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let mut request = subscription.next_request();
        request.get().set_wait_millis(20_000);
        let response = client.call(request.send().promise).await?;
        let reply = check!(response.get()?)?;
        assert_eq!(reply.get_missed(), 0);
        let events = reply.get_events()?;
        assert!(!events.is_empty(), "nothing comes behind {} events", seen.len());
        for event in events {
            let value = event.get_fields()?.get(0).get_value()?.to_string()?;
            seen.push(value.parse().expect("a number"));
        }
    }
    Ok(seen)
}

/// F-224, F-225, F-227, D71, D88, D89, D90: more events than any queue of the seed held, with readers that stand still.
#[test]
fn a_reader_that_stands_still_holds_nobody_up() {
    const EVENTS: usize = 5000;
    const LANES: usize = 50;
    let host = Host::new();
    host.ok(&["health"]);
    let descriptors = open_descriptors(host.daemon_pid());
    // It fills its pipe, and then waits for somebody who reads that.
    let follow = ["--format", "json", "events", "--follow", "--since", "0", "/test/"];
    let mut stuck = host.command(&follow).stdout(Stdio::piped()).spawn().unwrap();
    run(async {
        let client = Rc::new(Client::connect(&host.address()).await.unwrap());
        // Many at once, each on a connection of its own, of which one reads, and so do two on one connection.
        let mut idle = Vec::new();
        for _ in 0..LANES {
            let client = Client::connect(&host.address()).await.unwrap();
            let subscription = subscribe(&client).await.unwrap();
            idle.push((client, subscription));
        }
        let readers = [subscribe(&client).await.unwrap(), subscribe(&client).await.unwrap()];
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..LANES {
            let client = Rc::clone(&client);
            lanes.spawn_local(async move {
                for number in (lane..EVENTS).step_by(LANES) {
                    publish(&client, number).await.unwrap();
                }
            });
        }
        let first = read(&client, &readers[0], EVENTS).await.unwrap();
        while let Some(lane) = lanes.join_next().await {
            lane.unwrap();
        }
        assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), (0..EVENTS).collect());
        // Another one reads later and has the same, and so has one that stood still.
        assert_eq!(read(&client, &readers[1], EVENTS).await.unwrap(), first);
        let (late, subscription) = &idle[LANES / 2];
        assert_eq!(read(late, subscription, EVENTS).await.unwrap(), first);
        // All the others wait for more when they leave.
        for (client, subscription) in &idle {
            let mut request = subscription.next_request();
            request.get().set_wait_millis(60_000);
            tokio::task::spawn_local(request.send().promise);
            let _ = client;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(open_descriptors(host.daemon_pid()) >= descriptors + LANES);
        drop(idle);
    });
    // What it was too slow for is there when it reads.
    let mut pipe = stuck.stdout.take().unwrap();
    let (mut text, mut chunk) = (Vec::new(), [0; 1 << 16]);
    while text.iter().filter(|&&byte| byte == b'\n').count() < EVENTS {
        let count = pipe.read(&mut chunk).unwrap();
        assert!(count > 0, "it ended");
        text.extend_from_slice(&chunk[..count]);
    }
    let events: Vec<Value> = text
        .split(|&byte| byte == b'\n')
        .filter_map(|it| serde_json::from_slice(it).ok())
        .collect();
    assert_eq!(events.len(), EVENTS);
    assert!(events.is_sorted_by_key(|event| event["cursor"].as_u64().unwrap()));
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    host.until("nothing is kept of who left", || {
        open_descriptors(host.daemon_pid()) <= descriptors
    });
}

async fn exec(client: &Client, id: &str) -> Result<u32, Error> {
    let service: tasks::Client = client.open("tasks", "mine");
    let mut request = service.get_request();
    request.get().set_id(id);
    let response = client.call(request.send().promise).await?;
    let task = check!(response.get()?)?.get_task()?;
    let mut request = task.exec_request();
    request.get().init_process().init_args(1).set(0, "/bin/true");
    let response = client.call(request.send().promise).await?;
    let process = check!(response.get()?)?.get_process()?;
    let response = client.call(process.start_request().send().promise).await?;
    check!(response.get()?)?;
    let response = client.call(process.wait_request().send().promise).await?;
    let status = check!(response.get()?)?.get_exit()?.get_status();
    client.call(process.delete_request().send().promise).await?;
    Ok(status)
}

/// D71, D72: more than 2048 events of one task, which was there before the daemon; the last ones come, in its namespace.
#[test]
fn a_task_never_falls_silent() {
    const EXECS: usize = 700;
    const LANES: usize = 4;
    let mut host = Host::on(Disk::ext4(512));
    make_rootfs(&host.path("rootfs"));
    let rootfs = host.path("rootfs").display().to_string();
    host.start();
    let start = ["-n", "mine", "run", "-d", "--rootfs", &rootfs, "--name", "c", "sleep", "1000"];
    host.ok(&start);
    host.kill();
    host.start();
    run(async {
        let client = Rc::new(Client::connect(&host.address()).await.unwrap());
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..LANES {
            let client = Rc::clone(&client);
            lanes.spawn_local(async move {
                for _ in 0..EXECS / LANES {
                    assert_eq!(exec(&client, "c").await.unwrap(), 0);
                }
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane.unwrap();
        }
    });
    host.ok(&["-n", "mine", "tasks", "kill", "-s", "KILL", "c"]);
    assert_eq!(host.capstan(&["-n", "mine", "tasks", "wait", "c"]).code, 137);
    let count = |topic: &str| told_in(&host, "mine", &[topic]).len();
    host.until("its end is told", || count("/tasks/exit") == 1);
    for topic in ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exec-exit"] {
        assert_eq!(count(topic), EXECS, "{topic}");
    }
    assert_eq!(told(&host, &["/tasks/"]), Vec::<Value>::new(), "nobody else is told");
    host.ok(&["-n", "mine", "tasks", "delete", "c"]);
    host.ok(&["-n", "mine", "containers", "rm", "c"]);
    host.assert_no_container();
}
