//! Registries, mirrors and ways to them that fail or lie, in front of Debian's registry.

mod flights;
mod hostile;
mod proxies;

use std::process::Stdio;
use std::time::{Duration, Instant};

use capstan_integration::{
    DockerRegistry, FaultProxy, Host, Image, Layer, PASSWORD, Random, Trouble, USER, noise,
};

use crate::archive::digest_of;
use crate::distribution::{assert_quiet, small, transfer_section};

/// For ever.
const ALWAYS: usize = usize::MAX;

/// Debian's registry with one image called `app`, and a proxy in front of it.
struct Front {
    proxy: FaultProxy,
    image: Image,
    registry: DockerRegistry,
}

impl Front {
    fn new(image: Image) -> Self {
        let registry = DockerRegistry::empty();
        image.push_to(&registry.address(), "app", "latest");
        let proxy = FaultProxy::before(&registry.address());
        Self { proxy, image, registry }
    }

    fn name(&self) -> String {
        self.proxy.reference("app")
    }

    /// Each byte was sent once, but for a tenth of them.
    fn assert_each_byte_once(&self) {
        for layer in &self.image.layers {
            let (sent, size) = (self.proxy.sent_of(layer), self.image.blobs[layer].len() as u64);
            assert!(size <= sent && sent <= size + size / 10, "{layer}: {sent} bytes for {size}");
        }
    }

    fn pull(&self, host: &Host) {
        host.ok(&["images", "pull", "--plain-http", "--no-unpack", &self.name()]);
        assert_eq!(digest_of(host, &self.name()), self.image.manifest);
    }

    /// A pull of it fails with this code and class, says these words, and leaves no name.
    fn fails(&self, host: &Host, code: i32, class: &str, parts: &[&str]) {
        let args = ["images", "pull", "--plain-http", "--no-unpack", &self.name()];
        host.fails(&args, code, class, parts);
        crate::pull::assert_nothing_half_made(host);
    }
}

/// One layer of noise, which is as long as it says.
fn noisy(bytes: usize, seed: u32) -> Image {
    Image::new(vec![Layer::new().file("noise", 0o644, &noise(bytes, seed))])
}

/// A daemon that is soon out of patience.
fn hasty(more: &str) -> Host {
    let mut host = Host::without_daemon(1024);
    let text = format!("stall_timeout_seconds = 1\n{more}");
    host.configure(&transfer_section(&host.path("certs.d"), &text));
    host.start();
    host
}

/// Orders cuts of each layer at 20 random bytes; answers how many.
fn cut_at_random(front: &Front) -> usize {
    let mut random = Random::new();
    let mut cuts = 0;
    for layer in &front.image.layers {
        let size = front.image.blobs[layer].len() as u64;
        let at: Vec<u64> = (0..20).map(|_| random.below(size)).collect();
        eprintln!("{layer} is cut at {at:?}");
        cuts += at.len();
        front.proxy.make(1, "GET", layer, Trouble::CutAt(at));
    }
    cuts
}

#[test]
fn layers_that_are_cut_at_random_bytes_come_once() {
    let sizes = [40 << 20, 3 << 20, 700_000];
    let layers = (1..).zip(sizes).map(|(number, size)| {
        Layer::new().file(&format!("noise-{number}"), 0o644, &noise(size, number))
    });
    let front = Front::new(Image::new(layers.collect()));
    let cuts = cut_at_random(&front);
    let host = Host::new();
    front.pull(&host);
    front.assert_each_byte_once();
    let requests = front.proxy.count("GET", "/blobs/");
    assert!(requests >= cuts, "{requests} requests for {cuts} cuts");
}

/// A layer that comes by several ranges at once, each of 8 MiB; what breaks off goes on within its range.
#[test]
fn layers_that_come_by_ranges_are_cut_and_come_once() {
    let front = Front::new(noisy(45 << 20, 40));
    let layer = front.image.layers[0].clone();
    let cuts = cut_at_random(&front);
    let host = hasty("range_threshold_bytes = 1048576\nrange_connections = 3\n");
    front.pull(&host);
    front.assert_each_byte_once();
    crate::distribution::assert_here(&host, &front.image, front.image.layers.iter());

    let exchanges = front.proxy.exchanges();
    let ranges = exchanges.iter().filter(|one| one.target.contains(&layer));
    let ranges: Vec<_> = ranges.map(|one| one.range.clone().expect("a range")).collect();
    // Each piece has its end, and is asked for anew only from where it broke off.
    let pieces = front.image.blobs[&layer].len().div_ceil(8 << 20);
    assert!(ranges.iter().all(|range| !range.ends_with('-')), "{ranges:?}");
    assert!((cuts..=cuts + pieces).contains(&ranges.len()), "{} ranges", ranges.len());
    assert!(front.proxy.most_blobs_at_once() > 1, "one after the other");
}

/// The daemon is killed while a layer comes by ranges. What lay in its file is there for the next pull; what was ahead of
/// it in memory, up to 8 MiB a connection, comes again.
#[test]
fn layers_that_come_by_ranges_go_on_where_a_killed_daemon_left_them() {
    let front = Front::new(noisy(128 << 20, 41));
    let layer = front.image.layers[0].clone();
    let mut host = Host::without_daemon(1024);
    host.configure(&transfer_section(&host.path("certs.d"), "range_connections = 2"));
    host.start();
    let args = ["images", "pull", "--plain-http", "--no-unpack", &front.name()];
    let mut pull = host.command(&args).spawn().expect("run capstan");
    host.until("a part of it is here", || front.proxy.count("GET", &layer) >= 5);
    // The connections of now and later get on no further than this.
    front.proxy.make(ALWAYS, "GET", &layer, Trouble::Stall(3 << 20));
    let offset = || {
        let active = host.json(&["content", "active"]);
        let found =
            active.as_array().expect("a list").iter().find_map(|one| one["offset"].as_u64());
        found.unwrap_or_default()
    };
    let mut before = 0;
    host.until("it comes no further", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = offset();
        std::mem::replace(&mut before, now) == now && now > 24 << 20
    });
    host.kill();
    assert!(!pull.wait().expect("wait for the pull").success(), "it was killed");
    front.proxy.behave();
    let asked = front.proxy.exchanges().len();

    host.start();
    front.pull(&host);
    front.assert_each_byte_once();
    let exchanges = front.proxy.exchanges();
    let ranges = exchanges[asked..].iter().filter(|one| one.target.contains(&layer));
    let begins = ranges.filter_map(|one| {
        let (begin, _) = one.range.as_deref()?.trim_start_matches("bytes=").split_once('-')?;
        begin.parse::<u64>().ok()
    });
    let begins: Vec<u64> = begins.collect();
    assert!(begins.len() > 1 && begins.iter().all(|begin| *begin >= before), "{begins:?}");
    crate::distribution::assert_here(&host, &front.image, front.image.layers.iter());
}

#[test]
fn ten_clients_at_once_are_one_fetch_and_one_unpack() {
    let image = Image::new(vec![
        Layer::new().busybox(),
        Layer::new().file("noise", 0o644, &noise(2 << 20, 31)),
    ]);
    let front = Front::new(image);
    let host = Host::new();
    let name = front.name();
    // Slow enough for all of them to meet.
    front.proxy.make(ALWAYS, "GET", "/blobs/", Trouble::Delay(Duration::from_millis(300)));
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| host.ok(&["images", "pull", "--plain-http", &name]));
        }
    });
    for blob in front.image.layers.iter().chain([&front.image.config()]) {
        assert_eq!(front.proxy.count("GET", blob), 1, "{blob}");
    }
    front.assert_each_byte_once();
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2);
    let events = host.ok(&["--format", "json", "events", "--since", "0"]);
    let commits = events.lines().filter(|line| line.contains("/snapshot/commit")).count();
    assert_eq!(commits, 2, "each layer is unpacked once: {events}");
}

/// A registry in trouble is asked again, with its own word on when, and not for ever.
#[test]
fn a_registry_in_trouble_is_asked_again() {
    let front = Front::new(small(41));
    let host = hasty("");
    let layer = front.image.layers[1].clone();
    for status in [500, 502, 503, 504, 408] {
        front.proxy.make(2, "GET", &layer, Trouble::Answer(status, Vec::new(), Vec::new()));
        front.pull(&host);
        assert_eq!(front.proxy.count("GET", &layer), 3, "{status}");
        again(&host, &front);
    }
    front.proxy.make(2, "GET", &layer, Trouble::Reset);
    front.pull(&host);
    again(&host, &front);
    // The manifest too.
    front.proxy.make(2, "", "/manifests/", Trouble::Reset);
    front.pull(&host);
    again(&host, &front);

    let later = vec![("Retry-After".to_owned(), "2".to_owned())];
    front.proxy.make(1, "GET", &layer, Trouble::Answer(429, later, Vec::new()));
    let begin = Instant::now();
    front.pull(&host);
    assert!(begin.elapsed() >= Duration::from_secs(2), "it did not wait");
    again(&host, &front);

    front.proxy.make(ALWAYS, "GET", &layer, Trouble::Answer(503, Vec::new(), Vec::new()));
    front.fails(&host, 7, "Unavailable", &[&layer[..20], "503"]);
    let asked = front.proxy.count("GET", &layer);
    assert!((2..=6).contains(&asked), "asked {asked} times");
    // What cannot get better is not tried again.
    again(&host, &front);
    front.proxy.make(ALWAYS, "GET", &layer, Trouble::Answer(403, Vec::new(), Vec::new()));
    front.fails(&host, 8, "PermissionDenied", &["403"]);
    assert_eq!(front.proxy.count("GET", &layer), 1);
}

/// As if nothing had been pulled.
fn again(host: &Host, front: &Front) {
    front.proxy.behave();
    front.proxy.forget();
    for name in host.ids(&["images", "ls"]) {
        host.ok(&["images", "rm", &name]);
    }
    for name in host.ids(&["content", "ls"]) {
        host.ok(&["content", "rm", &name]);
    }
    // Layers come while the configuration is still on its way: what has come of them would be gone on from.
    abort_all(host);
}

/// Silence has a limit; how long all of it takes has none.
#[test]
fn a_stall_is_a_break_and_a_slow_way_is_none() {
    let front = Front::new(noisy(300_000, 42));
    let host = hasty("");
    let layer = front.image.layers[0].clone();
    front.proxy.make(2, "GET", &layer, Trouble::Stall(100_000));
    front.pull(&host);
    front.assert_each_byte_once();
    assert_eq!(front.proxy.count("GET", &layer), 3);
    again(&host, &front);
    front.proxy.make(1, "GET", &layer, Trouble::Drip(50_000, Duration::from_millis(400)));
    let begin = Instant::now();
    front.pull(&host);
    assert!(begin.elapsed() >= Duration::from_secs(2), "it was not slow");
    assert_eq!(front.proxy.count("GET", &layer), 1);
}

/// Bytes that are not those of the digest have no name, whatever is told of them.
#[test]
fn wrong_bytes_lengths_and_ranges_are_seen() {
    let front = Front::new(noisy(200_000, 43));
    let host = hasty("attempts = 2\n");
    let layer = front.image.layers[0].clone();
    front.proxy.make(ALWAYS, "GET", &layer, Trouble::Flip(150_000));
    front.fails(&host, 10, "Corrupt", &[&layer[..20]]);
    again(&host, &front);
    for trouble in [Trouble::Longer(10), Trouble::Shorter(10)] {
        front.proxy.make(ALWAYS, "GET", &layer, trouble);
        front.fails(&host, 10, "Corrupt", &[&layer[..20]]);
        again(&host, &front);
    }
    // Other bytes of the same length under the digest of a configuration.
    let config = front.image.config();
    let other = vec![b' '; front.image.blobs[&config].len()];
    front.proxy.make(ALWAYS, "GET", &config, Trouble::Instead(other));
    front.fails(&host, 10, "Corrupt", &[&config[..20]]);
    again(&host, &front);
    // And of the manifest, which a tag or a digest may ask for.
    let exact = front.name().replace(":latest", &format!("@{}", front.image.manifest));
    let other = String::from_utf8(front.image.blobs[&front.image.manifest].clone()).unwrap();
    let other = other.replace("sha256:", "sha256:0").replacen("0\"", "\"", 1).into_bytes();
    front.proxy.make(ALWAYS, "GET", "/manifests/", Trouble::Instead(other));
    host.fails(&["images", "pull", "--plain-http", &exact], 10, "Corrupt", &["sha256:"]);
    crate::pull::assert_nothing_half_made(&host);
    again(&host, &front);

    // A part that says that it is another one, and all in place of a part: the rest is still the right one, or none.
    front.proxy.make(1, "GET", &layer, Trouble::CutEvery(60_000));
    front.proxy.make(ALWAYS, "GET", &layer, header("Content-Range", "bytes 7-199999/200000"));
    front.fails(&host, 10, "Corrupt", &[&layer[..20]]);
    again(&host, &front);
    front.proxy.make(1, "GET", &layer, Trouble::CutEvery(60_000));
    front.proxy.make(ALWAYS, "GET", &layer, Trouble::NoRanges);
    front.pull(&host);
    crate::distribution::assert_here(&host, &front.image, front.image.layers.iter());
}

/// What a pull that fails has begun beside is at its end when its error is told: nothing is written behind the client's back.
#[test]
fn a_pull_that_fails_waits_for_what_it_has_begun() {
    let front = Front::new(noisy(200_000, 47));
    let host = hasty("attempts = 1\n");
    let layer = front.image.layers[0].clone();
    let failpoints = host.failpoints();
    let hit = failpoints.join("hit");
    std::fs::create_dir_all(&failpoints).unwrap();
    // The layer never gets there.
    for reached in ["ingest:verified", "blob:named"] {
        front.proxy.make(ALWAYS, "GET", &layer, Trouble::Flip(150_000));
        std::fs::write(failpoints.join("wish"), reached).unwrap();
        let pull = ["images", "pull", "--plain-http", &front.name()];
        let mut pull = host.command(&pull).stderr(Stdio::null()).spawn().unwrap();
        host.until("a document is being stored", || hit.exists());
        let is_over = || front.proxy.exchanges().iter().all(|one| one.is_over);
        host.until("the layer has come", || front.proxy.count("GET", &layer) > 0 && is_over());
        // The error would be there by now.
        std::thread::sleep(Duration::from_millis(300));
        assert!(pull.try_wait().unwrap().is_none(), "{reached}: it does not wait");
        std::fs::remove_file(&hit).unwrap();
        assert_eq!(pull.wait().unwrap().code(), Some(10), "{reached}");
        abort_all(&host);
        again(&host, &front);
    }
}

fn header(name: &str, value: &str) -> Trouble {
    Trouble::Header(name.into(), value.into())
}

fn abort_all(host: &Host) {
    for name in host.ids(&["content", "active"]) {
        host.ok(&["content", "abort", &name]);
    }
}

/// The parts of one blob are never those of two: with another ETag behind a break, the bytes decide.
#[test]
fn parts_of_two_versions_never_mix() {
    let front = Front::new(noisy(200_000, 44));
    let host = hasty("attempts = 3\n");
    let layer = front.image.layers[0].clone();
    // Other bytes are behind the same name after the break.
    front.proxy.make(1, "GET", &layer, Trouble::CutEvery(80_000));
    let size = front.image.blobs[&layer].len();
    let headers = vec![
        ("Content-Range".to_owned(), format!("bytes 80000-{}/{size}", size - 1)),
        ("ETag".to_owned(), "\"another\"".to_owned()),
    ];
    let rest = noise(size - 80_000, 45);
    front.proxy.make(2, "GET", &layer, Trouble::Answer(206, headers, rest));
    let first = host.capstan(&["images", "pull", "--plain-http", "--no-unpack", &front.name()]);
    if first.code != 0 {
        assert_eq!(first.code, 10, "{}", first.stderr);
        crate::pull::assert_nothing_half_made(&host);
        front.proxy.behave();
        front.pull(&host);
    }
    crate::distribution::assert_here(&host, &front.image, front.image.layers.iter());
}

/// A mirror that dies in the middle: the rest comes from the next host, and what was there stays.
#[test]
fn a_mirror_that_dies_is_left_for_the_registry() {
    let front = Front::new(noisy(2_000_000, 46));
    let mirror_registry = DockerRegistry::serve(front.registry.storage());
    let mirror = FaultProxy::before(&mirror_registry.address());
    let mut host = Host::without_daemon(1024);
    let hosts = host.path("certs.d");
    let dir = hosts.join(front.proxy.address());
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        front.proxy.address(),
        mirror.address()
    );
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
    host.configure(&transfer_section(&hosts, "stall_timeout_seconds = 2\n"));
    host.start();
    let layer = front.image.layers[0].clone();
    mirror.make(1, "GET", &layer, Trouble::CutEvery(1_200_000));
    // It dies after its first part of the layer.
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            host.until("the mirror has sent its part", || mirror.sent_of(&layer) >= 1_200_000);
            mirror.make(ALWAYS, "", "", Trouble::Reset);
        });
        host.ok(&["images", "pull", "--no-unpack", &front.name()]);
        killer.join().unwrap();
    });
    assert_eq!(digest_of(&host, &front.name()), front.image.manifest);
    let (there, here) = (mirror.sent_of(&layer), front.proxy.sent_of(&layer));
    let size = front.image.blobs[&layer].len() as u64;
    assert!(there >= 1_200_000, "the mirror was asked first: {there}");
    assert!(there + here <= size + size / 10, "{there} and {here} bytes of {size}");
    // A mirror is told whose images it is asked for, and the registry is not.
    assert!(mirror.exchanges().iter().all(|one| one.target.contains("ns=")));
    assert!(front.proxy.exchanges().iter().all(|one| !one.target.contains("ns=")));

    // With the mirror gone altogether, and with one that does not have it.
    host.ok(&["images", "rm", &front.name()]);
    mirror.behave();
    mirror.make(ALWAYS, "", "", Trouble::Answer(404, Vec::new(), Vec::new()));
    front.proxy.forget();
    for name in host.ids(&["content", "ls"]) {
        host.ok(&["content", "rm", &name]);
    }
    host.ok(&["images", "pull", "--no-unpack", &front.name()]);
    front.assert_each_byte_once();
}

/// A redirect is followed, and who asks is told to nobody but the registry.
#[test]
fn credentials_do_not_follow_redirects() {
    let image = small(47);
    let open = DockerRegistry::empty();
    image.push_to(&open.address(), "app", "latest");
    let guard = capstan_integration::Guard::new().password();
    let guarded = DockerRegistry::guarded(open.storage(), &guard);
    let proxy = FaultProxy::before(&guarded.address());
    // Another host, which has the blobs and lets everybody in; and one that asks for a password itself.
    let other = FaultProxy::before(&open.address());
    let thief = FaultProxy::before(&guarded.address());
    let host = hasty("");
    let name = proxy.reference("app");
    let login = format!("{USER}:{PASSWORD}");
    let args = ["images", "pull", "--plain-http", "--no-unpack", "--user", &login, &name];

    proxy.make(ALWAYS, "GET", "/blobs/", Trouble::Redirect(format!("http://{}", other.address())));
    host.ok(&args);
    assert_eq!(digest_of(&host, &name), image.manifest);
    assert!(proxy.exchanges().iter().any(|one| one.authorization.is_some()));
    let seen = other.exchanges();
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.iter().all(|one| one.authorization.is_none()), "{seen:?}");
    for digest in host.ids(&["content", "ls"]) {
        host.ok(&["content", "rm", &digest]);
    }

    proxy.behave();
    proxy.make(ALWAYS, "GET", "/blobs/", Trouble::Redirect(format!("http://{}", thief.address())));
    let output = host.capstan(&args);
    assert_eq!(output.code, 8, "{}", output.stderr);
    let seen = thief.exchanges();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|one| one.authorization.is_none()), "{seen:?}");

    // Home again by a detour through the registry itself: it is the registry that is asked.
    proxy.behave();
    proxy.make(2, "GET", "/blobs/", Trouble::Redirect(format!("http://{}", proxy.address())));
    host.ok(&args);
    assert_quiet(&host, &[PASSWORD]);
}

/// A registry that redirects for ever is left.
#[test]
fn redirects_have_an_end() {
    let front = Front::new(small(48));
    let host = hasty("");
    let origin = format!("http://{}", front.proxy.address());
    front.proxy.make(ALWAYS, "", "/manifests/", Trouble::Redirect(origin));
    front.fails(&host, 6, "FailedPrecondition", &["redirects"]);
    assert!(front.proxy.exchanges().len() < 50, "{:?}", front.proxy.exchanges().len());
}
