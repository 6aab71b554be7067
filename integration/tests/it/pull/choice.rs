//! What of an image is pulled: for which platform, how much at once, and what its registry must not pass on.

use std::time::Duration;

use capstan_integration::{
    DockerRegistry, FakeRegistry, FaultProxy, Host, Image, Layer, Trouble, architecture, digest,
    noise,
};
use serde_json::{Value, json};

use crate::archive::digest_of;
use crate::distribution::{artifact, assert_here, index, layers, small, transfer_section};

/// For ever.
const ALWAYS: usize = usize::MAX;

/// A daemon with more in `[plugins."transfer.local"]`.
fn host_with(more: &str) -> Host {
    let mut host = Host::without_daemon(1024);
    host.configure(&transfer_section(&host.path("certs.d"), more));
    host.start();
    host
}

#[test]
fn the_platform_that_fits_best_is_pulled() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let check = |wanted: &str, offered: &[&str], want: Result<&str, &str>| {
        let images: Vec<(&str, Image)> = (100..)
            .zip(offered)
            .map(|(seed, platform)| (*platform, Image::of_architecture(layers(seed), platform)))
            .collect();
        let parts: Vec<(&str, &Image)> =
            images.iter().map(|(name, image)| (*name, image)).collect();
        let name = registry.offer("app", &Image::index(&parts));
        let args = ["images", "pull", "--plain-http", "--no-unpack", "--platform", wanted, &name];
        let output = host.capstan(&args);
        let here = host.ids(&["content", "ls"]);
        let is_here = |(_, image): &&(&str, Image)| here.contains(&image.manifest);
        let pulled: Vec<&(&str, Image)> = images.iter().filter(is_here).collect();
        let names: Vec<&str> = pulled.iter().map(|(name, _)| *name).collect();
        let what = format!("{wanted} of {offered:?}: {}", output.stderr);
        match want {
            Ok(want) => {
                assert_eq!((output.code, &names[..]), (0, &[want][..]), "{what}");
                assert_here(&host, &pulled[0].1, pulled[0].1.blobs.keys());
                assert_eq!(here.len(), 5, "{what}: only that one, and the index");
                host.ok(&["images", "rm", &name]);
            }
            Err(say) => {
                assert_eq!((output.code, names.len()), (3, 0), "{what}");
                assert!(output.stderr.starts_with("capstan: NotFound: "), "{what}");
                assert!(output.stderr.contains(say) && output.stderr.contains(wanted), "{what}");
                assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
            }
        }
        for digest in here {
            host.ok(&["content", "rm", &digest]);
        }
    };
    check("linux/amd64", &["386", "amd64", "s390x"], Ok("amd64"));
    check("linux/amd64", &["s390x", "386"], Ok("386"));
    check("linux/386", &["amd64", "386"], Ok("386"));
    check("linux/386", &["amd64"], Err("only for linux/amd64"));
    check("linux/amd64/v3", &["amd64", "amd64/v2", "amd64/v4"], Ok("amd64/v2"));
    let arm = ["arm/v5", "arm/v7", "arm/v6"];
    for (wanted, want) in [("arm", "arm/v7"), ("arm/v7", "arm/v7"), ("arm/v6", "arm/v6")] {
        check(&format!("linux/{wanted}"), &arm, Ok(want));
    }
    check("linux/arm/v7", &["arm/v5", "arm/v6"], Ok("arm/v6"));
    check("linux/arm/v6", &["arm/v7", "arm/v5"], Ok("arm/v5"));
    check("linux/arm/v5", &["arm/v7", "arm/v6"], Err("only for linux/arm/v7, linux/arm/v6"));
    check("linux/arm64", &["arm/v7", "arm64"], Ok("arm64"));
    check("linux/arm64/v8", &["arm/v6", "arm/v7", "amd64"], Ok("arm/v7"));
    check("linux/riscv64", &["arm64", "amd64"], Err("only for linux/arm64, linux/amd64"));
}

/// What an index lists that is neither a manifest nor an index is for others: it is not asked for, and what stands behind
/// it is pulled (F-141, D66).
#[test]
fn what_an_index_lists_of_other_kinds_is_left_out() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let plain = index(134);
    let mut listed: Value = serde_json::from_slice(&plain.blobs[&plain.manifest]).unwrap();
    let other = json!({
        "mediaType": "application/vnd.example.thing.v1+json",
        "digest": digest(b"it is nowhere"),
        "size": 13,
    });
    listed["manifests"].as_array_mut().unwrap().insert(0, other);
    let document = listed.to_string().into_bytes();
    let mut image = plain.clone();
    image.blobs.remove(&plain.manifest);
    image.manifest = digest(&document);
    image.blobs.insert(image.manifest.clone(), document);
    let name = registry.offer("app", &image);
    host.ok(&["images", "pull", "--plain-http", &name]);
    host.ok(&["images", "check", &name]);
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", "--all-platforms", &name]);
    assert_eq!(digest_of(&host, &name), image.manifest);
    assert_here(&host, &image, image.blobs.keys());
    assert_eq!(registry.asked_for(&digest(b"it is nowhere")), 0);
}

/// Where there is nothing for an amd64 itself, it runs what is for 386.
#[test]
fn an_amd64_runs_what_is_for_386() {
    if architecture() != "amd64" {
        eprintln!("skipped: this machine is no amd64");
        return;
    }
    let registry = FakeRegistry::start();
    let host = Host::new();
    let of = |architecture: &str| {
        let text = format!("for {architecture}\n");
        let mark = Layer::new().file("mark", 0o644, text.as_bytes());
        Image::of_architecture(vec![Layer::new().busybox(), mark], architecture)
    };
    let (old, other) = (of("386"), of("s390x"));
    let name = registry.offer("app", &Image::index(&[("s390x", &other), ("386", &old)]));
    let run = ["run", "--rm", "--plain-http", "--net", "none", &name, "cat", "/mark"];
    assert_eq!(host.ok(&run), "for 386\n");
    let mut chain_ids = old.chain_ids();
    chain_ids.sort();
    assert_eq!(host.ids(&["snapshots", "ls"]), chain_ids);
    host.assert_no_container();
}

/// So many blobs of a pull are on their way at once as it asks for, and not more than the daemon takes for all: of small ones
/// four times as many.
#[test]
fn as_many_blobs_come_at_once_as_are_asked_for() {
    let registry = DockerRegistry::empty();
    let proxy = FaultProxy::before(&registry.address());
    proxy.make(ALWAYS, "GET", "/blobs/", Trouble::Delay(Duration::from_millis(200)));
    let host = host_with("concurrency = 3\n");
    let (small, large) = (100, 1_100_000);
    let cases: [(&[&str], usize, usize); 7] = [
        (&["images", "pull", "--concurrency", "1"], small, 1),
        (&["images", "pull", "--concurrency", "3"], small, 3),
        (&["images", "pull", "--no-unpack", "--concurrency", "2"], small, 2),
        (&["content", "fetch", "--concurrency", "2"], small, 2),
        (&["images", "pull"], small, 12),
        (&["images", "pull"], large, 3),
        (&["images", "pull", "--concurrency", "100"], large, 3),
    ];
    for (number, (args, size, want)) in (0_u32..).zip(cases) {
        // And the configuration.
        let blobs = if want > 3 { 16 } else { 8 };
        let layers = (20 * number..)
            .take(blobs - 1)
            .map(|seed| Layer::new().file(&format!("file-{seed}"), 0o644, &noise(size, seed)));
        let image = Image::new(layers.collect());
        let name = format!("app-{number}");
        image.push_to(&registry.address(), &name, "latest");
        proxy.forget();
        host.ok(&[args, &["--plain-http", &proxy.reference(&name)]].concat());
        assert_eq!(proxy.most_blobs_at_once(), want, "{args:?} of {size} bytes");
        assert_eq!(proxy.count("GET", "/blobs/"), blobs, "{args:?} of {size} bytes");
    }
}

/// Layers that a registry must not pass on are where the manifest says, if the settings let the daemon go there. There
/// it tells nobody who it is.
#[test]
fn foreign_layers_are_fetched_only_if_that_is_allowed() {
    let (registry, place) = (FakeRegistry::start(), FakeRegistry::start());
    let proxy = FaultProxy::before(&registry.address());
    let elsewhere = FaultProxy::before(&place.address());
    let whole = small(121);
    place.offer("foreign", &whole);
    let away = elsewhere.address();
    let image = small(121).foreign(|digest| format!("http://{away}/v2/foreign/blobs/{digest}"));
    registry.offer("app", &image);
    let layer = whole.layers[1].clone();
    let wants_login = |proxy: &FaultProxy, times| {
        let headers = vec![("WWW-Authenticate".to_owned(), "Basic realm=\"x\"".to_owned())];
        proxy.make(times, "", "/v2/", Trouble::Answer(401, headers, Vec::new()));
    };
    let name = proxy.reference("app");
    let pull = ["images", "pull", "--plain-http", "--user", "me:canary-4c1e", &name];

    let mut host = host_with("");
    wants_login(&proxy, 1);
    // The layer below is whole, and may stay for the next pull.
    let assert_nothing_half_made = |host: &Host| {
        assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
        assert!(!host.ids(&["snapshots", "ls"]).contains(&whole.chain_ids()[1]));
        assert!(!host.ids(&["content", "ls"]).contains(&layer));
        assert!(host.remains().mounts.is_empty());
    };
    host.fails(&pull, 6, "FailedPrecondition", &["foreign_layers = true", &away]);
    assert_nothing_half_made(&host);
    assert_eq!(elsewhere.exchanges().len(), 0, "it was asked although nobody allowed it");

    host.stop();
    let more = "foreign_layers = true\nattempts = 2\n";
    host.configure(&transfer_section(&host.path("certs.d"), more));
    host.start();
    // Who wants to know there who asks, learns nothing.
    wants_login(&proxy, 1);
    wants_login(&elsewhere, ALWAYS);
    host.fails(&pull, 8, "PermissionDenied", &[&away]);
    assert_nothing_half_made(&host);
    assert!(!elsewhere.exchanges().is_empty());
    elsewhere.behave();
    elsewhere.forget();
    // What breaks off there goes on there.
    elsewhere.make(1, "GET", &layer, Trouble::CutEvery(20_000));
    wants_login(&proxy, 1);
    host.ok(&pull);
    assert_eq!(digest_of(&host, &name), image.manifest);
    assert_here(&host, &whole, whole.layers.iter());
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2);
    assert_eq!(elsewhere.sent_of(&layer), whole.blobs[&layer].len() as u64);
    assert!(proxy.exchanges().iter().any(|one| one.authorization.is_some()));
    let asked = elsewhere.exchanges();
    assert!(asked.iter().all(|one| one.authorization.is_none()), "{asked:?}");

    // Other bytes under its digest have no name.
    host.ok(&["images", "rm", &name]);
    host.ok(&["content", "rm", &layer]);
    host.ok(&["snapshots", "rm", &whole.chain_ids()[1]]);
    elsewhere.make(ALWAYS, "GET", &layer, Trouble::Flip(30_000));
    host.fails(&pull, 10, "Corrupt", &[&layer[..20]]);
    assert_nothing_half_made(&host);
}

/// A number, which JSON has as text where it may be large.
pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).expect("a number")
}

/// The size of an image is that of all that is here of it: documents, configurations and layers.
#[test]
fn sizes_are_those_of_all_that_is_here() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let check = |name: &str, image: &Image, here: &[&String]| {
        let want: u64 = here.iter().map(|digest| image.blobs[*digest].len() as u64).sum();
        let list = host.json(&["images", "ls"]);
        let mut list = list.as_array().unwrap().iter();
        let found = list.find(|image| image["name"] == name).unwrap();
        assert_eq!(number(&found["size"]), want, "{name}");
        let table = host.ok(&["images", "ls"]);
        let row = table.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        let tenths: u64 = words[2].replace('.', "").parse().unwrap();
        assert_eq!(words[3], "KiB", "{row}");
        assert!((tenths * 1024).abs_diff(want * 10) <= 512, "{want} is shown as {row}");
    };
    let pull = ["images", "pull", "--plain-http", "--no-unpack"];
    let image = small(131);
    let name = registry.offer("image", &image);
    host.ok(&[&pull[..], &[&name]].concat());
    let all: Vec<&String> = image.blobs.keys().collect();
    assert_eq!(all.len(), 4, "a manifest, a configuration, two layers");
    check(&name, &image, &all);

    // Of an index that which was pulled, and then all.
    let (both, own) = (index(132), small(132));
    let name = registry.offer("index", &both);
    host.ok(&[&pull[..], &[&name]].concat());
    let here: Vec<&String> = own.blobs.keys().chain([&both.manifest]).collect();
    check(&name, &both, &here);
    host.ok(&[&pull[..], &["--all-platforms", &name]].concat());
    let all: Vec<&String> = both.blobs.keys().collect();
    assert_eq!(all.len(), 9);
    check(&name, &both, &all);
    // What is gone does not count.
    let gone = &own.layers[1];
    host.ok(&["content", "rm", gone]);
    let left: Vec<&String> = all.into_iter().filter(|digest| *digest != gone).collect();
    check(&name, &both, &left);

    let artifact = artifact(133);
    let name = registry.offer("artifact", &artifact);
    host.ok(&[&pull[..], &[&name]].concat());
    check(&name, &artifact, &artifact.blobs.keys().collect::<Vec<_>>());
}

/// Names behind one that is missing are removed all the same.
#[test]
fn removing_goes_on_behind_a_name_that_is_missing() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let name = registry.offer("app", &small(141));
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let names = ["a", "b", "c", "d", "e"].map(|tag| format!("h.example/app:{tag}"));
    for there in [0, 2, 4] {
        host.ok(&["images", "tag", &name, &names[there]]);
    }
    let mut args = vec!["images", "rm"];
    args.extend(names.iter().map(String::as_str));
    let output = host.capstan(&args);
    assert_eq!(output.code, 3, "{}", output.stderr);
    let removed: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(removed, [&*names[0], &*names[2], &*names[4]]);
    let said: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{}", output.stderr);
    for (line, missing) in said.iter().zip([&names[1], &names[3]]) {
        assert!(line.starts_with("capstan: NotFound: ") && line.contains(missing), "{line}");
    }
    assert_eq!(host.ids(&["images", "ls"]), [name]);
}
